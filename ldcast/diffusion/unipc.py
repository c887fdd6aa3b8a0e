"""UniPC: predictor and corrector of any order, at one denoiser call per step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser, predict_at
from ldcast.diffusion.schedule import NoiseSchedule

ORDERS = (1, 2, 3)


@dataclass(frozen=True)
class UniPCSampler:
    """UniPC of Zhao et al. 2023 (arXiv:2302.04867), several steps back, on clean latents.

    A step is predicted from the clean latents of the last `order` steps; the denoiser's answer at
    its end then corrects it, and serves as the first of the next prediction. So the order of the
    whole is `order` + 1. The clean latent of the last call is the result. Draws nothing.
    order: 1 to 3; the first steps, which have less of a history, have lower ones.
    spacing: of the grid, one of `GRIDS`.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 12
    order: int = 2
    spacing: str = "log_snr"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"got order {self.order}, expected one of {ORDERS}")
        self._grid()  # raises for impossible numbers and spacings

    @property
    def num_denoiser_calls(self) -> int:
        return self.num_sampling_steps

    def __call__(
        self,
        denoiser: Denoiser,
        z: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Clean latents like z from z, standard normal noise (B, C, L, h, w)."""
        grid = self._grid()
        signal, sigma = self.schedule.signal.tolist(), self.schedule.sigma.tolist()
        half_log_snr = (self.schedule.log_snr / 2).tolist()  # lambda in the paper
        z_clean = predict_at(denoiser, z, grid[0]).z
        history: list[tuple[float, Tensor]] = []  # of earlier steps: lambda, clean; newest first
        for step, next_step in pairwise(grid):
            length = half_log_snr[next_step] - half_log_snr[step]  # h in the paper
            history = [past for past in history if math.isfinite(past[0])][: self.order - 1]
            places = [(at - half_log_snr[step]) / length for at, _ in history]
            slopes = [(past - z_clean) / r for (_, past), r in zip(history, places, strict=True)]
            # Of first order: what the clean latent alone says. Their B(h) is the same factor.
            factor = -signal[next_step] * math.expm1(-length)
            first_order = sigma[next_step] / sigma[step] * z + factor * z_clean
            z = first_order + factor * _weighted(slopes, _weights(places, length))
            z_next = predict_at(denoiser, z, next_step).z
            if math.isfinite(length):
                weights = _weights([*places, 1.0], length)
                z = first_order + factor * _weighted([*slopes, z_next - z_clean], weights)
            history = [(half_log_snr[step], z_clean), *history]
            z_clean = z_next
        return z_clean

    def _grid(self) -> list[int]:
        return self.schedule.grid(self.num_sampling_steps, self.spacing)


def _weights(places: Sequence[float], length: float) -> list[float]:
    """What each difference counts for: such that polynomials of as many powers are exact.

    places: where the clean latents are known besides at the step's beginning, in its lengths.
    Of one earlier step the weight is 1/2, as in the paper, whatever the length.
    """
    if not places:
        return []
    if len(places) == 1:
        return [0.5]
    # What the exponential integral makes of powers: phi_(k+1) = (phi_k - 1/k!) / -h.
    phi, factorial, wanted = math.expm1(-length) / -length, 1.0, []
    for power in range(1, len(places) + 1):
        factorial *= power
        phi = (phi - 1 / factorial) / -length
        wanted.append(phi * factorial * -length / math.expm1(-length))
    powers = [[r**power for r in places] for power in range(len(places))]
    exact = {"dtype": torch.float64, "device": "cpu"}
    return torch.linalg.solve(torch.tensor(powers, **exact), torch.tensor(wanted, **exact)).tolist()


def _weighted(differences: Sequence[Tensor], weights: Sequence[float]) -> Tensor | float:
    return sum(w * each for w, each in zip(weights, differences, strict=True))
