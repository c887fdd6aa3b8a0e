"""Preconditioning: unit size into the network and out of it, where latent channels differ in size.

Noise is alike in all channels, so large ones are decided early, at high noise, and small ones late,
as in images: the coarse structure first. Without it a network would have to learn, for each channel
and noise level, how much of what it sees is noise.
Source: Karras et al. 2022 (EDM), section 5 and appendix B.6, here for each channel by itself and in
terms of v (Salimans and Ho 2022).
"""

from collections.abc import Callable

from torch import Tensor

from ldcast.diffusion.schedule import NoiseSchedule


def preconditioned_v(
    network: Callable[[Tensor], Tensor],
    schedule: NoiseSchedule,
    deviation: Tensor,
    z_noisy: Tensor,
    diffusion_step: Tensor,
) -> Tensor:
    """The v that a network's answer implies, like z_noisy (B, C, L, h, w).

    network: takes z_noisy at unit size, answers what the best linear guess from z_noisy lacks of v,
        at unit size too; for deviation 1 that is v itself.
    deviation: (C,) of the channels' clean latents, whose mean is 0.
    diffusion_step: (B,). The schedule must preserve variance.
    """
    deviation = deviation[None, :, None, None, None]
    signal, sigma = schedule.coefficients(z_noisy, diffusion_step)
    size = (signal.square() * deviation.square() + sigma.square()).sqrt()
    guess = signal * sigma * (1 - deviation.square()) / size.square() * z_noisy
    return guess + deviation / size * network(z_noisy / size)
