"""DDIM: one step from grid point to grid point, with as much fresh noise as wanted."""

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
class DDIMSampler:
    """Denoising diffusion implicit models, Song et al. 2021 (arXiv:2010.02502), equation 12.

    One denoiser call per step, first order. The clean latent of the last call is the result. It
    divides by no signal, so it may start where none is left; on the schedule `straight` without
    fresh noise it is Euler's rule along the flow.
    eta: of equation 16, the share of fresh noise: 0 none, 1 as much as the reverse diffusion.
    spacing: of the grid, one of `GRIDS`.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 50
    eta: float = 0.0
    spacing: str = "published"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"got eta {self.eta}, expected 0 (no fresh noise) to 1")
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
        for step, next_step in pairwise(grid):
            prediction = predict_at(denoiser, z, step)
            snr_ratio = (signal[step] * sigma[next_step] / (sigma[step] * signal[next_step])) ** 2
            fresh = self.eta * sigma[next_step] * math.sqrt(1 - snr_ratio)
            kept = math.sqrt(sigma[next_step] ** 2 - fresh**2)
            z = signal[next_step] * prediction.z + kept * prediction.noise
            if self.eta:
                z += fresh * draw_noise(z.shape, generators, z.device)
        return predict_at(denoiser, z, grid[-1]).z

    def _grid(self) -> list[int]:
        return self.schedule.grid(self.num_sampling_steps, self.spacing)
