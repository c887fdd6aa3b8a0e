"""An input: what is likely to be left of the newest rain, carried along its motion.

Rain that is only carried shows what is there; the same with each scale fading as it has faded so
far (`ldcast.motion.scales`) is the better forecast, and says how wrong it will be in this weather.
From an hour on its motion is that of wide surroundings (`follow_upstream`).
Sources: advected rain as a network's input, Ritvanen et al. 2023 (L-CNN, IEEE JSTARS 16), Zhang et
al. 2023 (NowcastNet, Nature 619); scales that fade, Seed 2003 (S-PROG, Journal of Applied
Meteorology 42).
"""

from typing import ClassVar

import torch
from torch import Tensor

from ldcast.inputs.known import LatentGrid, Observed
from ldcast.motion import carry_mirrored, prognosis


class CarriedPrognosis:
    """Latents of the prognosis, carried, and its error's expected deviation, (mm/h)^0.4, the mean
    of each cell.

    What comes from beyond the surroundings is as a mirror there would show it; what comes from no
    data within them is encoded as dry. `CarriedFrames` says which cells are known.
    """

    beside = "future"
    fields: ClassVar = {}
    margin = 96  # pixels: rain that moves by 4.5 pixels a frame comes from as far in 105 minutes

    def num_channels(self, latent_channels: int) -> int:
        return latent_channels + 1

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        of_domains = zip(
            observed.past,
            observed.motions(grid.frames.minutes_per_frame),
            observed.upstream(grid.frames),
            strict=True,
        )
        domains = [
            self._carry(past, motion, positions[: grid.frames.future_frames])
            for past, motion, positions in of_domains
        ]
        left, deviation = (torch.stack(of)[:, None] for of in zip(*domains, strict=True))
        return torch.cat([grid.encode(left), grid.average(deviation)], dim=1)

    @staticmethod
    def _carry(past: Tensor, motion: Tensor, positions: Tensor) -> list[Tensor]:
        """Of one domain, (T, H, W) each: the prognosis, and the deviation of its error."""
        with torch.autocast(past.device.type, enabled=False):
            return [
                carry_mirrored(images, positions)[1]
                for images in prognosis(past, motion, len(positions))
            ]
