"""An input: the newest rain carried along its motion to all lead times.

Networks that see it need not learn advection; they learn what differs from it.
Sources: semi-Lagrangian advection as in motion/carrying.py; advected rain as a network's input:
Ritvanen et al. 2023 (L-CNN, IEEE JSTARS 16), Zhang et al. 2023 (NowcastNet, Nature 619).
"""

from typing import ClassVar

import torch
from torch import Tensor

from ldcast.motion import carry_through, motion_field
from ldcast.nowcast.inputs import LatentGrid, Observed


class CarriedRain:
    """Latents of the carried rain, and the share of each cell that is known.

    Unknown is what comes from outside the surroundings or from no data; it is encoded as dry.
    """

    beside = "future"
    fields: ClassVar = {}
    margin = 96  # pixels: rain that moves by 5 pixels a frame comes from as far after 100 minutes

    def num_channels(self, latent_channels: int) -> int:
        return latent_channels + 1

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        carried = torch.stack([self._carry(past, observed, grid) for past in observed.past])
        carried = carried[:, None]  # (B, 1, T, H, W)
        return torch.cat([grid.encode(carried), grid.known_share(carried)], dim=1)

    @staticmethod
    def _carry(past: Tensor, observed: Observed, grid: LatentGrid) -> Tensor:
        """Future (T, H, W) mm/h of one domain; rain whose motion is not known stands still."""
        with torch.autocast(past.device.type, enabled=False):
            motion = motion_field(past, grid.frames.minutes_per_frame)
            if motion is None:
                motion = torch.zeros(2, *past.shape[1:], device=past.device)
            return carry_through(past[-1], motion, grid.frames.future_frames, observed.margin)
