"""An input: the two newest frames carried to the first lead times, at full resolution.

It stands beside the decoded rain, in the refiner, which makes the first minutes as sharp as the
radar was. Sources: as for carried_frames.py.
"""

from typing import ClassVar

import torch
from torch import Tensor

from ldcast.inputs.carried_frames import NUM_CARRIED, carried_pair
from ldcast.inputs.known import LatentGrid, Observed
from ldcast.rain import to_model_units, valid_mask


class CarriedPixels:
    """Each frame's rain in model units, newest first, with a mirror beyond the data; then whether
    the newest frame's is known.
    """

    beside = "decoded"
    fields: ClassVar = {}
    margin = 32  # pixels: rain that moves by 6 pixels a frame comes from as far in 25 minutes

    def num_channels(self, latent_channels: int) -> int:
        return NUM_CARRIED + 1

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        pairs = [carried_pair(past, observed, grid, grid.compression) for past in observed.past]
        known, filled = (torch.stack(of) for of in zip(*pairs, strict=True))
        is_known = valid_mask(known[:, :1]).to(filled.dtype)
        return torch.cat([to_model_units(filled, grid.rain_scale), is_known], dim=1)
