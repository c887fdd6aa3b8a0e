"""Ancestral sampling: the reverse diffusion itself, all steps of it. A slow reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser, predict_at
from ldcast.diffusion.schedule import NoiseSchedule
from ldcast.seeds import draw_noise


@dataclass(frozen=True)
class AncestralSampler:
    """DDPM, Ho et al. 2020 (arXiv:2006.11239), algorithm 2.

    Each step draws from the posterior of equation 7 with the clean latent as it is predicted:
    `beta`, of the step, is the mean's weight, and the variance the smaller of their two choices,
    beta (1 - alpha_bar of the next) / (1 - alpha_bar). Calls the denoiser at every diffusion step,
    so num_sampling_steps is their number.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 1000

    def __post_init__(self) -> None:
        total = self.schedule.num_diffusion_steps
        if self.num_sampling_steps != total:
            raise ValueError(
                f"got {self.num_sampling_steps} sampling steps, expected {total}: ancestral "
                "sampling takes every diffusion step; for fewer use ddim with eta 1"
            )
        if not self.schedule.preserves_variance:
            raise ValueError(
                f"got the schedule {self.schedule.name}, expected one that preserves variance, "
                "such as cosine"
            )

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
        alpha_bar = [1.0, *self.schedule.alpha_bar.tolist()]  # before each step
        for step in range(self.num_sampling_steps - 1, 0, -1):
            before, after = alpha_bar[step + 1], alpha_bar[step]
            beta = 1 - before / after
            z_clean = predict_at(denoiser, z, step).z
            mean_of_clean = math.sqrt(after) * beta / (1 - before)
            mean_of_noisy = math.sqrt(1 - beta) * (1 - after) / (1 - before)
            deviation = math.sqrt(beta * (1 - after) / (1 - before))
            fresh = draw_noise(z.shape, generators, z.device)
            z = mean_of_clean * z_clean + mean_of_noisy * z + deviation * fresh
        return predict_at(denoiser, z, 0).z
