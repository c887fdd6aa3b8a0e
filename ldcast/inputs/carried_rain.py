"""An input: the newest rain carried along its motion to all lead times.

Networks that see it need not learn advection; they learn what differs from it.
Sources: motion and semi-Lagrangian advection as in motion/; advected rain as a network's input:
Ritvanen et al. 2023 (L-CNN, IEEE JSTARS 16), Zhang et al. 2023 (NowcastNet, Nature 619).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ldcast.inputs.known import LatentGrid, Observed
from ldcast.motion import carry_through, data_box, motion_field, refine_motion


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
        """Future (T, H, W) mm/h of one domain."""
        with torch.autocast(past.device.type, enabled=False):
            motion = motion_of_known(past, grid.frames.minutes_per_frame)
            return carry_through(past[-1], motion, grid.frames.future_frames, observed.margin)


def motion_of_known(past: Tensor, minutes: int) -> Tensor:
    """Motion (2, H, W) in pixels per frame of past (T, H, W), as if it ended where its data do.

    So it is the same whether a domain is padded, or a margin not known, or not. Zero where nothing
    can be followed: such rain stands still.
    """
    height, width = past.shape[1:]
    rows, columns = data_box(past)
    known = past[:, rows, columns]
    motion = motion_field(known, minutes)
    if motion is None:
        return torch.zeros(2, height, width, device=past.device)
    motion = refine_motion(known, motion)
    beyond = (columns.start, width - columns.stop, rows.start, height - rows.stop)
    return nn.functional.pad(motion[None], beyond, mode="replicate")[0]
