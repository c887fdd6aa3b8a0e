"""The training sampler: the error of the prediction at a random diffusion step per example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser
from ldcast.diffusion.schedule import PREDICTIONS, NoiseSchedule
from ldcast.seeds import draw_noise


@dataclass(frozen=True)
class DDPMLoss:
    """Denoising loss of Ho et al. 2020, equation 14, per example.

    norm: "l2" squares the error (as published), "l1" takes its absolute value.
    target: what the network answers, one of `PREDICTIONS`; the error is that of its own output.
        "v" (Salimans and Ho 2022) has the error of the noise over the signal, so that noisy steps
        weigh more.
    noise_levels: mean and deviation of a normal distribution of log(signal^2 / sigma^2) that the
        diffusion steps are drawn from; empty: each with the same chance. Forecasts are decided at
        high noise, where it is drawn rarely otherwise. Source: Karras et al. 2022, section 5;
        Esser et al. 2024, section 3.1, for the logit-normal form of flow matching.
    """

    schedule: NoiseSchedule
    norm: Literal["l1", "l2"] = "l2"
    target: Literal["noise", "v", "flow"] = "noise"
    noise_levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in (("norm", ("l1", "l2")), ("target", PREDICTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"got {name} {getattr(self, name)!r}, expected one of {allowed}")
        if self.noise_levels and (len(self.noise_levels) != 2 or not self.noise_levels[1] > 0):
            raise ValueError(
                f"got noise_levels {self.noise_levels}, expected a mean and a deviation above 0"
            )

    @property
    def num_denoiser_calls(self) -> int:
        return 1

    def __call__(
        self,
        denoiser: Denoiser,
        z: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Loss per example (B,).

        z: (B, C, L, h, w) clean latents.
        generators: one CPU generator per example, from which its diffusion step and its noise are
            drawn, in this order; None draws from the global generator.
        weight: (B, 1, L, h, w), 0 or more, how much each latent cell counts; the loss is the
            weighted mean, and 0 for an example without any weight.
        """
        sources = [None] * len(z) if generators is None else generators
        steps = [self._draw_step(source) for source in sources]
        diffusion_step = torch.cat(steps).to(z.device)
        noise = draw_noise(z.shape, generators, z.device)
        return self.at(denoiser, z, noise, diffusion_step, weight)

    def _draw_step(self, generator: torch.Generator | None) -> Tensor:
        """(1,) int64."""
        num_steps = self.schedule.num_diffusion_steps
        if not self.noise_levels:
            return torch.randint(num_steps, (1,), generator=generator)
        mean, deviation = self.noise_levels
        log_snr = mean + deviation * torch.randn(1, generator=generator, dtype=torch.float64)
        rising = -self.schedule.log_snr
        return torch.searchsorted(rising, -log_snr).clamp(max=num_steps - 1)

    def at(
        self,
        denoiser: Denoiser,
        z: Tensor,
        noise: Tensor,
        diffusion_step: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Loss per example (B,) for given noise (like z) and diffusion_step (B,)."""
        z_noisy = self.schedule.add_noise(z, noise, diffusion_step)
        output = denoiser(z_noisy, diffusion_step).output.float()
        error = output - self.schedule.target(self.target, z, noise, diffusion_step)
        error = error.square() if self.norm == "l2" else error.abs()
        if weight is None:
            return error.flatten(1).mean(1)
        cell_error = error.mean(1, keepdim=True)  # (B, 1, L, h, w)
        weighted = (cell_error * weight).flatten(1).sum(1)
        return weighted / weight.flatten(1).sum(1).clamp(min=1e-6)
