"""A sampler of one denoiser call, for networks that were trained by the members themselves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser, predict_at
from ldcast.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class OneCallSampler:
    """What the denoiser takes for the clean latent, of noise alone.

    A network that learnt to denoise knows little of noise alone and answers with nearly the mean of
    what may come. One that was trained by the CRPS of its answers (`--loss crps`) answers with one
    of the things that may come, and the noise decides which.
    log_snr: log10(signal^2 / sigma^2) of the diffusion step that it is called at. The less noise a
        network that can denoise expects, the more of its input it keeps: so members differ from the
        first update of the new training on.
    noise_scale: deviation of the noise, in trainings too, whose members this sampler makes. On
        weather that a network was not trained on, members are too alike; a little more than it was
        trained with makes up for it.
    Source: a noise that goes through the network once, trained by the CRPS: Lang et al. 2024
    (AIFS-CRPS, arXiv:2412.15832); a denoiser that is trained further to sample in one call: Song et
    al. 2023 (Consistency Models, arXiv:2303.01469), who have another loss.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 1
    log_snr: float = 0.5
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.num_sampling_steps != 1:
            raise ValueError(
                f"got {self.num_sampling_steps} sampling steps, expected 1: this model was trained "
                "to make a member in one call"
            )
        if not 0 < self.noise_scale < math.inf:
            raise ValueError(
                f"got noise_scale {self.noise_scale}, expected more than 0, such as 1.1"
            )
        highest, lowest = (self.schedule.log_snr[[0, -1]] / math.log(10)).tolist()
        if not lowest <= self.log_snr <= highest:
            raise ValueError(
                f"got log_snr {self.log_snr}, expected a number from {lowest:.2f} to "
                f"{highest:.2f}, where the noise schedule ends"
            )

    @property
    def num_denoiser_calls(self) -> int:
        return 1

    def __call__(
        self,
        denoiser: Denoiser,
        z: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Clean latents like z from z, standard normal noise (B, C, L, h, w)."""
        if self.noise_scale != 1:
            z = self.noise_scale * z
        return predict_at(denoiser, z, self._step()).z

    def _step(self) -> int:
        return self.schedule.log_snr_grid(1, self.log_snr, self.log_snr)[0]
