"""PLMS: a deterministic sampler that reuses the predictions of earlier steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser
from ldcast.diffusion.schedule import NoiseSchedule

# Adams-Bashforth weights of the newest prediction and those before it, orders 2 to 4
# (Liu et al. 2022, equation 12).
ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@dataclass(frozen=True)
class PLMSSampler:
    """Pseudo linear multistep sampling (Liu et al. 2022) on the schedule's grid.

    One denoiser call per step, and one more in the first: it has no history, so it averages the
    predictions here and at the next step (second order). Deterministic: draws nothing.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 50

    def __post_init__(self) -> None:
        self.schedule.sampling_grid(self.num_sampling_steps)  # raises for impossible numbers

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
        grid = self.schedule.sampling_grid(self.num_sampling_steps)
        # Parity: the last step lands on diffusion step 0, which is nearly but not quite noise-free.
        next_steps = [*grid[1:], 0]
        history: list[Tensor] = []  # raw predictions, newest first
        for step, next_step in zip(grid, next_steps, strict=True):
            noise_pred = _predict(denoiser, z, step)
            if not history:
                z_next = self._move(z, noise_pred, step, next_step)
                noise_mix = (noise_pred + _predict(denoiser, z_next, next_step)) / 2
            else:
                weights = ADAMS_BASHFORTH[len(history) - 1]
                predictions = [noise_pred, *history]
                noise_mix = sum(w * e for w, e in zip(weights, predictions, strict=True))
            z = self._move(z, noise_mix, step, next_step)
            history = [noise_pred, *history][:3]
        return z

    def _move(self, z_noisy: Tensor, noise: Tensor, step: int, next_step: int) -> Tensor:
        """The deterministic step of DDIM (Song et al. 2021, equation 12 with sigma 0)."""
        here, there = (torch.full((len(z_noisy),), s) for s in (step, next_step))
        z_clean = self.schedule.z_from_noise(z_noisy, noise, here)
        return self.schedule.add_noise(z_clean, noise, there)


def _predict(denoiser: Denoiser, z: Tensor, step: int) -> Tensor:
    return denoiser(z, torch.full((len(z),), step, device=z.device))
