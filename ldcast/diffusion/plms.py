"""PLMS: a deterministic sampler that reuses the predictions of earlier steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser, predict_at
from ldcast.diffusion.schedule import SPACINGS, NoiseSchedule, Prediction

# Adams-Bashforth weights of the newest prediction and those before it, orders 2 to 4
# (Liu et al. 2022, equation 12).
ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


FEW_STEPS = 10  # below it steps are so long that forecasts are rough


@dataclass(frozen=True)
class PLMSSampler:
    """Pseudo linear multistep sampling (Liu et al. 2022) on the schedule's grid.

    One denoiser call per step, and one more in the first: it has no history, so it averages the
    predictions here and at the next step (second order). Deterministic: draws nothing.
    Differs: with fewer than 10 steps (20 with spacing "full_range") that average is of the clean
    latents, not of the noises. A long first step ends where little noise is left and the noise
    predicted there is a poor guess; counted by half at diffusion step 981, where noise over signal
    is 31, it made rain of 118 mm/h out of dry images.
    spacing: of the grid, a key of `SPACINGS`.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 50
    spacing: str = "published"

    def __post_init__(self) -> None:
        if self.spacing not in SPACINGS:
            raise ValueError(f"got spacing {self.spacing!r}, expected one of {tuple(SPACINGS)}")
        noisiest = self._grid()[0]  # raises for impossible numbers
        if self.schedule.signal[noisiest] == 0:
            raise ValueError(
                f"PLMS divides by the signal, and at diffusion step {noisiest} none is left: take "
                "fewer sampling steps, or another sampler"
            )

    @property
    def num_denoiser_calls(self) -> int:
        return self.num_sampling_steps + 1

    def __call__(
        self,
        denoiser: Denoiser,
        z: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Clean latents like z from z, standard normal noise (B, C, L, h, w)."""
        grid = self._grid()
        # Parity: the last step lands on diffusion step 0, which is nearly but not quite noise-free.
        next_steps = [*grid[1:], 0]
        history: list[Tensor] = []  # raw predictions, newest first
        for step, next_step in zip(grid, next_steps, strict=True):
            prediction = predict_at(denoiser, z, step)
            if not history:
                noise_mix = self._average_ahead(denoiser, z, prediction, step, next_step)
            else:
                weights = ADAMS_BASHFORTH[len(history) - 1]
                predictions = [prediction.noise, *history]
                noise_mix = sum(w * e for w, e in zip(weights, predictions, strict=True))
            z = self._move(z, noise_mix, step, next_step)
            history = [prediction.noise, *history][:3]
        return z

    def _average_ahead(
        self, denoiser: Denoiser, z: Tensor, prediction: Prediction, step: int, next_step: int
    ) -> Tensor:
        """The mean of the predictions here and where `prediction` alone would lead, as noise."""
        z_next = self._move(z, prediction.noise, step, next_step)
        next_prediction = predict_at(denoiser, z_next, next_step)
        if self.num_sampling_steps >= SPACINGS[self.spacing]:
            return (prediction.noise + next_prediction.noise) / 2
        z_clean = (prediction.z + next_prediction.z) / 2
        return self.schedule.noise_from_z(z, z_clean, _all(step, z))

    def _move(self, z_noisy: Tensor, noise: Tensor, step: int, next_step: int) -> Tensor:
        """The deterministic step of DDIM (Song et al. 2021, equation 12 with sigma 0)."""
        z_clean = self.schedule.z_from_noise(z_noisy, noise, _all(step, z_noisy))
        return self.schedule.add_noise(z_clean, noise, _all(next_step, z_noisy))

    def _grid(self) -> list[int]:
        return self.schedule.sampling_grid(self.num_sampling_steps, self.spacing)


def warn_of_few_steps(sampler: str, num_sampling_steps: int) -> list[str]:
    """A line where a forecast of so few steps cannot be trusted; else none.

    sampler: as the registry names it. Of other samplers than PLMS nothing is known.
    """
    if sampler != "plms" or num_sampling_steps >= FEW_STEPS:
        return []
    return [
        f"warning: {num_sampling_steps} sampling steps are too few to trust: members come out too "
        f"smooth and too much alike, with too little rain; expected --steps {FEW_STEPS} or more"
    ]


def _all(step: int, z: Tensor) -> Tensor:
    """One diffusion step for all examples of z: (B,)."""
    return torch.full((len(z),), step)
