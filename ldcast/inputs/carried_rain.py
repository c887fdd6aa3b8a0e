"""An input: the newest rain carried along its motion to all lead times.

From an hour on that is the motion of wide surroundings (`follow_upstream`).

Networks that see it need not learn advection; they learn what differs from it.
Sources: motion and semi-Lagrangian advection as in motion/; advected rain as a network's input:
Ritvanen et al. 2023 (L-CNN, IEEE JSTARS 16), Zhang et al. 2023 (NowcastNet, Nature 619).
"""

from typing import ClassVar

import torch
from torch import Tensor

from ldcast.inputs.known import LatentGrid, Observed
from ldcast.motion import rain_at


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
        with torch.autocast(observed.past.device.type, enabled=False):
            domains = [
                rain_at(positions[: grid.frames.future_frames], past[-1])
                for past, positions in zip(
                    observed.past, observed.upstream(grid.frames), strict=True
                )
            ]
        carried = torch.stack(domains)[:, None]  # (B, 1, T, H, W)
        return torch.cat([grid.encode(carried), grid.known_share(carried)], dim=1)
