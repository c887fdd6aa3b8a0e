"""Preconditioning: unit size into the network and out of it, where latents differ in size.

Noise is alike in all channels, so large ones are decided early, at high noise, and small ones late,
as in images: the coarse structure first. Without it a network would have to learn, for each channel
and noise level, how much of what it sees is noise.
Source: Karras et al. 2022 (EDM), section 5 and appendix B.6, here for the principal components of
the channels and in terms of v (Salimans and Ho 2022).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldcast.diffusion.schedule import NoiseSchedule

Gain = Callable[[Tensor], Tensor]


class Spread(Protocol):
    """How clean latents, whose mean is 0, vary in each latent cell."""

    def scaled(self, values: Tensor, gain: Gain) -> Tensor:
        """values (B, C, L, h, w), each principal component times gain(its variance).

        gain: of variances that broadcast with (B, 1, 1, 1, 1).
        """


@dataclass(frozen=True)
class ChannelSizes:
    """Channels that are independent. deviation: (C,)."""

    deviation: Tensor

    def scaled(self, values: Tensor, gain: Gain) -> Tensor:
        return gain(self.deviation.square()[:, None, None, None]) * values


@dataclass(frozen=True)
class ChannelCovariance:
    """A covariance of the channels for each latent frame.

    vectors: (L, C, C), orthonormal eigenvectors as columns. variances: (L, C), above 0.
    """

    vectors: Tensor
    variances: Tensor

    def scaled(self, values: Tensor, gain: Gain) -> Tensor:
        gains = gain(self.variances.T[None, :, :, None, None])[..., 0, 0]  # (B or 1, C, L)
        with torch.autocast(values.device.type, enabled=False):  # z_noisy goes through it
            matrix = torch.einsum("lij,bjl,lkj->blik", self.vectors, gains, self.vectors)
            matrix = matrix.expand(len(values), -1, -1, -1)
            return torch.einsum("blik,bklhw->bilhw", matrix, values.float())


def preconditioned_v(
    network: Callable[[Tensor], Tensor],
    schedule: NoiseSchedule,
    spread: Spread,
    z_noisy: Tensor,
    diffusion_step: Tensor,
) -> Tensor:
    """The v that a network's answer implies, like z_noisy (B, C, L, h, w).

    network: takes z_noisy at unit size, answers what the best linear guess from z_noisy lacks of v,
        at unit size too; for a spread of 1 that is v itself.
    spread: of the clean latents.
    diffusion_step: (B,). The schedule must preserve variance.
    """
    signal, sigma = schedule.coefficients(z_noisy, diffusion_step)

    def total(variance: Tensor) -> Tensor:
        return signal.square() * variance + sigma.square()

    answer = network(spread.scaled(z_noisy, lambda variance: total(variance).rsqrt()))
    guess = spread.scaled(z_noisy, lambda var: signal * sigma * (1 - var) / total(var))
    return guess + spread.scaled(answer, lambda variance: (variance / total(variance)).sqrt())
