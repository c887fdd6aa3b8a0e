"""How much falls between radar images: rates summed along the motion, not at the images alone.

Rain that moves by several pixels from one image to the next is in neither of them where it was
between, so plain sums have combs: stripes across the motion, one for each image.
Sources: rates between two images from both of them, carried to the time between, Fabry et al. 1994
(Journal of Hydrology 161), Anagnostou and Krajewski 1999 (Journal of Atmospheric and Oceanic
Technology 16).
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ldcast.motion.carrying import MIN_WEIGHT, fields_at_positions, pixel_positions

MAX_SUBSTEPS = 20  # from one image to the next; each is to move rain by no more than a pixel
MINUTES_PER_HOUR = 60


def amounts_between(rain_rate: Tensor, motion: Tensor | None, minutes: int) -> Iterator[Tensor]:
    """What falls from each image to the next, T - 1 times (E, H, W) mm, float32.

    rain_rate: (E, T, H, W) mm/h of E members, of instants that many minutes apart, NaN = no data.
    motion: (2, H, W), down and right in pixels per image, the same at all times; None: rain stands
        still from image to image.
    The rate at a time between is that of the image before, carried on, and of the one after,
    carried back, each by how near it is. What motion that spreads or narrows adds to the one it
    takes from the other, so the total stays (to the square of the spreading), but for rain that
    crosses the edge of the domain: it counts while it is inside.
    NaN where either image has no data.
    """
    hours = minutes / MINUTES_PER_HOUR
    for before, after in pairwise(rain_rate.float().unbind(dim=1)):
        plain = (before + after) / 2
        if motion is None:
            yield hours * plain
            continue
        moved = _half(before, motion) + _half(after, -motion)
        yield hours * moved.where(~plain.isnan(), torch.nan)


def _half(rain_rate: Tensor, motion: Tensor) -> Tensor:
    """What an image (E, H, W) mm/h gives to the interval that it starts, a half of its mean.

    A share s of the way on it counts by 1 - s. Where air comes from outside the domain or from no
    data, it counts as if it had stood still.
    """
    num_substeps = min(max(math.ceil(motion.abs().max().item()), 1), MAX_SUBSTEPS)
    is_valid = ~rain_rate.isnan().any(dim=0, keepdim=True)
    fields = torch.cat([rain_rate.nan_to_num(nan=0.0), is_valid.to(rain_rate.dtype)])[None]
    here = pixel_positions(*rain_rate.shape[1:], motion)
    half = torch.zeros_like(rain_rate)
    for substep in range(num_substeps):
        share = (substep + 0.5) / num_substeps
        found = fields_at_positions((here - share * motion)[None], fields)[0]
        moved, weight = found[:-1], found[-1:]
        moved = (moved / weight.clamp(min=MIN_WEIGHT)).where(weight >= MIN_WEIGHT, rain_rate)
        half += (1 - share) / num_substeps * moved
    return half
