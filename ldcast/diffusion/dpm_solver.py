"""DPM-Solver++: a sampler of second order that works on clean latents, with or without fresh noise.

It divides by no signal, so with a network that answers v or flow it may start where none is left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser, predict_at
from ldcast.diffusion.schedule import NoiseSchedule
from ldcast.seeds import draw_noise


@dataclass(frozen=True)
class DPMSolverSampler:
    """DPM-Solver++ (2M) of Lu et al. 2022 (arXiv:2211.01095, algorithm 2).

    One denoiser call per step; the steps are evenly spaced in the logarithm of SNR. The clean
    latent of the last call is the result, as if that step had no noise.
    eta: how much of the noise is drawn anew along the way. 0: none, as in algorithm 2; 1: as in the
        reverse diffusion, their SDE-DPM-Solver++ (2M), which forgets errors of earlier steps; more
        is possible. It is the tau of Xue et al. 2023 (SA-Solver, arXiv:2309.05019).
    fresh_noise_scale: deviation of that noise. A network says less of the future than there is to
        say, and members are too alike; a little more than 1 makes up for it (the S_noise of Karras
        et al. 2022, arXiv:2206.00364). Without fresh noise it has no effect, so it must be 1.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 20
    eta: float = 0.0
    fresh_noise_scale: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.eta < math.inf):
            raise ValueError(f"got eta {self.eta}, expected 0 (no fresh noise) or more, such as 1")
        if not (0 < self.fresh_noise_scale < math.inf):
            raise ValueError(
                f"got fresh_noise_scale {self.fresh_noise_scale}, expected more than 0, such as 1.1"
            )
        if self.eta == 0 and self.fresh_noise_scale != 1:
            raise ValueError(
                f"got fresh_noise_scale {self.fresh_noise_scale} with eta 0, which draws no fresh "
                "noise: expected 1, or an eta above 0"
            )
        self._grid()  # raises for impossible numbers

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
        change = torch.zeros_like(z)  # of the clean latent per length; none known in the first step
        for step, next_step in pairwise(grid):
            length = half_log_snr[next_step] - half_log_snr[step]  # h in the paper
            along = z_clean + length / 2 * change if math.isfinite(length) else z_clean  # D there
            old_noise = math.exp(-(self.eta**2) * length) if self.eta else 1.0  # share that is kept
            z = sigma[next_step] / sigma[step] * old_noise * z
            z -= signal[next_step] * math.expm1(-(1 + self.eta**2) * length) * along
            if self.eta:
                new_noise = self.fresh_noise_scale * sigma[next_step] * math.sqrt(1 - old_noise**2)
                z += new_noise * draw_noise(z.shape, generators, z.device)
            z_next = predict_at(denoiser, z, next_step).z
            z_clean, change = z_next, (z_next - z_clean) / length
        return z_clean

    def _grid(self) -> list[int]:
        return self.schedule.grid(self.num_sampling_steps, "log_snr")
