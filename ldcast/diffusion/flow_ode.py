"""Rules for ordinary differential equations along a flow: Euler's and Heun's."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser, predict_at
from ldcast.diffusion.schedule import NoiseSchedule
from ldcast.errors import check_count

RULES = ("heun", "euler")


@dataclass(frozen=True)
class FlowSampler:
    """From noise to data along the flow noise - z, whose time is the sigma of `straight`.

    rule: "euler" takes the flow at the beginning of a step (first order, one call); "heun" the mean
        of that and the flow where it leads (second order, two calls, but one in the last step,
        which ends where no noise is left and nothing can be asked).
    Steps are equally long. Draws nothing.
    Sources: Lipman et al. 2023 (arXiv:2210.02747); Heun's rule, Karras et al. 2022
    (arXiv:2206.00364), algorithm 1.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 10
    rule: str = "heun"

    def __post_init__(self) -> None:
        check_count("sampling steps", self.num_sampling_steps)
        if self.rule not in RULES:
            raise ValueError(f"got rule {self.rule!r}, expected one of {RULES}")
        total = self.schedule.num_diffusion_steps
        if self.schedule.name != "straight" or self.num_sampling_steps > total:
            raise ValueError(
                f"got {self.num_sampling_steps} sampling steps on the schedule "
                f"{self.schedule.name}, expected at most {total} on straight"
            )

    @property
    def num_denoiser_calls(self) -> int:
        return self.num_sampling_steps * (2 if self.rule == "heun" else 1) - (self.rule == "heun")

    def __call__(
        self,
        denoiser: Denoiser,
        z: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Clean latents like z from z, standard normal noise (B, C, L, h, w)."""
        num, total = self.num_sampling_steps, self.schedule.num_diffusion_steps
        # Ends of the steps, noisiest first; sigma of diffusion step k is (k + 1) / N.
        times = [total - k * total // num for k in range(num)] + [0]
        for start, end in pairwise(times):
            length = (end - start) / total
            flow = _flow(denoiser, z, start - 1)
            ahead = z + length * flow
            if self.rule == "heun" and end:
                flow = (flow + _flow(denoiser, ahead, end - 1)) / 2
            z = z + length * flow
        return z


def _flow(denoiser: Denoiser, z: Tensor, step: int) -> Tensor:
    prediction = predict_at(denoiser, z, step)
    return prediction.noise - prediction.z
