"""Data that are normally distributed, of which the perfect denoiser is known."""

import math

import torch
from torch import Tensor

from ldcast.diffusion import Denoiser, NoiseSchedule, Prediction

SHAPE = (2, 3, 2, 4, 6)


def normal(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).double()


def of_gaussian(
    schedule: NoiseSchedule, deviation: float, asked: list | None = None, mean: float = 0.0
) -> Denoiser:
    """The perfect denoiser of such data. asked: takes the diffusion steps that it is called at."""

    def denoise(z_noisy: Tensor, step: Tensor) -> Prediction:
        signal, sigma = schedule.signal[int(step[0])], schedule.sigma[int(step[0])]
        share = signal * deviation**2 / (signal**2 * deviation**2 + sigma**2)
        z = mean + share * (z_noisy - signal * mean)
        if asked is not None:
            asked.append(int(step[0]))
        return Prediction(z, (z_noisy - signal * z) / sigma, z)

    return denoise


def exact_gain(schedule: NoiseSchedule, deviation: float, grid: list[int]) -> float:
    """What the last clean latent is of the noise, with infinitely many steps between the grid's
    ends: z_noisy over its own deviation stays what it was."""
    size = [math.hypot(schedule.signal[k] * deviation, schedule.sigma[k]) for k in grid]
    end = schedule.signal[grid[-1]] * deviation**2 / size[-1] ** 2
    return (end * size[-1] / size[0]).item()
