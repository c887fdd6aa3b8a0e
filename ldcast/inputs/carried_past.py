"""An input: the past frames carried along their motion, as they followed one another.

The newest rain alone does not say which of it has lasted and which has just come up. Beside
`carried_rain` this one does: rain that only moved is the same in both.
"""

import torch
from einops import rearrange
from torch import Tensor

from ldcast.inputs.carried_rain import CarriedRain, motion_of_known
from ldcast.inputs.known import LatentGrid, Observed
from ldcast.motion import carry_through


class CarriedPast(CarriedRain):
    """Latents of the past frames carried forward by one, two, ... latent frames, and their share
    that is known.

    Of the past, the last latent frame; each of its images stays at its place among the others.
    Unknown is what comes from outside the surroundings or from no data; it is encoded as dry.
    """

    @staticmethod
    def _carry(past: Tensor, observed: Observed, grid: LatentGrid) -> Tensor:
        """Future (T, H, W) mm/h of one domain."""
        num_frames, step = grid.frames.future_frames, grid.compression
        with torch.autocast(past.device.type, enabled=False):
            motion = motion_of_known(past, grid.frames.minutes_per_frame)
            carried = [
                carry_through(frame, motion, num_frames, observed.margin, every=step)
                for frame in past[-step:]
            ]
        return rearrange(carried, "step latent h w -> (latent step) h w")
