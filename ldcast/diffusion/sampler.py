"""The seam between a denoiser and what is done with it: training losses and generators alike."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ldcast.diffusion.schedule import NoiseSchedule, Prediction

Denoiser = Callable[[Tensor, Tensor], Prediction]
"""(z_noisy (B, C, L, h, w), diffusion_step (B,) int64) -> clean latent, noise, and output.

The context is closed over; the weights are those to use. Samplers ask through `predict_at`.
"""


def predict_at(denoiser: Denoiser, z_noisy: Tensor, step: int) -> Prediction:
    """What the denoiser says where all examples are at one diffusion step.

    diffusion_step has B elements, but one in memory (stride 0): so the network sees that all are
    at the same step, and embeds it once.
    """
    diffusion_step = torch.full((1,), step, device=z_noisy.device)
    return denoiser(z_noisy, diffusion_step.expand(len(z_noisy)))


class Sampler(Protocol):
    """A way of visiting diffusion steps with a denoiser. Settings are fixed at construction.

    Two families: a training sampler takes clean latents and returns a loss per example (B,); an
    inference sampler takes standard normal noise and returns clean latents.
    generators: one CPU generator per example or member, for what the sampler draws besides its
        input; samplers that draw nothing ignore them.
    Nothing survives the call.
    """

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def num_denoiser_calls(self) -> int:
        """How often one call of the sampler calls the denoiser."""

    def __call__(
        self,
        denoiser: Denoiser,
        z: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor: ...
