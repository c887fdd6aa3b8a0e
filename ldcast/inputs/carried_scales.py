"""An input: the newest frame carried along its motion, and what is likely to be left of it by then.

Rain that is carried shows what is there; the same with each scale fading as it has faded so far
(`ldcast.motion.scales`) is the better forecast, and says how wrong it will be in this weather.
Sources: advected rain as a network's input, Ritvanen et al. 2023 (L-CNN, IEEE JSTARS 16), Zhang et
al. 2023 (NowcastNet, Nature 619); scales that fade, Seed 2003 (S-PROG, Journal of Applied
Meteorology 42).
"""

from typing import ClassVar

import torch
from torch import Tensor

from ldcast.inputs.carried_rain import motion_of_known
from ldcast.inputs.known import LatentGrid, Observed
from ldcast.motion import carry_mirrored, prognosis


class CarriedScales:
    """Latents of the newest frame, carried, and the share of each cell that is known; latents of
    the prognosis, carried, and its error's expected deviation, (mm/h)^0.4, the mean of each cell.

    What comes from beyond the surroundings is encoded as a mirror there would show it, and counts
    as unknown; so does what comes from no data within them, which is encoded as dry.
    """

    beside = "future"
    fields: ClassVar = {}
    margin = 96  # pixels: rain that moves by 4.5 pixels a frame comes from as far in 105 minutes

    def num_channels(self, latent_channels: int) -> int:
        return 2 * (latent_channels + 1)

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        domains = [self._carry(past, observed, grid) for past in observed.past]
        parts = (torch.stack(of)[:, None] for of in zip(*domains, strict=True))
        known, newest, left, deviation = parts  # (B, 1, T, H, W)
        encoded = grid.encode(newest), grid.known_share(known), grid.encode(left)
        return torch.cat([*encoded, grid.average(deviation)], dim=1)

    @staticmethod
    def _carry(past: Tensor, observed: Observed, grid: LatentGrid) -> tuple[Tensor, ...]:
        """Of one domain, (T, H, W) each: the newest frame, known alone and with what mirrors show,
        the prognosis, and the deviation of its error."""
        num_frames, margin = grid.frames.future_frames, observed.margin
        with torch.autocast(past.device.type, enabled=False):
            motion = motion_of_known(past, grid.frames.minutes_per_frame)
            carried = carry_mirrored(past[-1], motion, num_frames, margin)
            left = (
                carry_mirrored(images, motion, num_frames, margin)[1]
                for images in prognosis(past, motion, num_frames)
            )
            return *carried, *left
