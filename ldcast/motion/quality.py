"""The quality of a forecast: which of its pixels follow from what the radar saw."""

from itertools import islice

import torch
from torch import Tensor

from ldcast.frames import FrameConfig
from ldcast.motion.carrying import pixels_at, positions_upstream
from ldcast.motion.field import motion_field
from ldcast.motion.gaps import fill_gaps
from ldcast.rain import valid_mask

# Numbers in files, in this order, and their names there.
UPSTREAM_OBSERVED, UPSTREAM_UNKNOWN, NO_FORECAST, PAST_INCOMPLETE = 0, 1, 2, 3
QUALITY_MEANINGS = ("upstream_observed", "upstream_unknown", "no_forecast", "past_incomplete")

MIN_INTERIOR_SHARE = 0.2  # of the scored pixels; fewer are those of a few cases


def interior_mask(has_data: Tensor, motion: tuple[float, float] | None, num_lead: int) -> Tensor:
    """Which pixels the newest image determines, if all of it moved alike.

    has_data: (H, W) bool, of the newest past frame. motion: (down, right) pixels per frame, None
        where it is not known.
    Returns (num_lead, H, W) bool: True where the air that arrives at that lead time was inside the
    crop, on a pixel with data, at the issue time. Of unknown motion, nowhere.
    """
    if motion is None:
        return has_data.new_zeros(num_lead, *has_data.shape)
    height, width = has_data.shape
    frames = torch.arange(1, num_lead + 1, device=has_data.device)[:, None]
    row = (torch.arange(height, device=has_data.device) - frames * motion[0]).round().long()
    column = (torch.arange(width, device=has_data.device) - frames * motion[1]).round().long()
    is_inside = _within(row, height)[:, :, None] & _within(column, width)[:, None, :]  # (T, H, W)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    return is_inside & has_data[row[:, :, None], column[:, None, :]]


def forecast_quality(
    past: Tensor, num_lead: int, minutes: int = FrameConfig.minutes_per_frame
) -> Tensor:
    """What each pixel of a forecast is based on, (num_lead, H, W) uint8, see `QUALITY_MEANINGS`.

    past: (T, H, W) mm/h, `minutes` apart, NaN = no data. Traced back along its motion,
    UPSTREAM_OBSERVED: the air was on a pixel that has data in the newest frame;
    UPSTREAM_UNKNOWN: it was outside the domain or where there is no data, or nothing moves that
        could be followed: rain there is a guess;
    NO_FORECAST: the pixel itself has no data in the newest frame. Networks take no data for dry,
        and hardly let rain drift in: 0.04 mm/h after 5 to 20 minutes where radar had 0.90;
    PAST_INCOMPLETE: observed, but the pixel has no data in an earlier frame, nor could that gap be
        filled (`fill_gaps`).
    """
    has_data = valid_mask(past[-1])
    is_whole = ~fill_gaps(past, minutes).is_gap.any(dim=0)
    quality = torch.full(
        (num_lead, *has_data.shape), UPSTREAM_UNKNOWN, dtype=torch.uint8, device=past.device
    )
    field = motion_field(past, minutes)
    if field is not None:
        is_observed, is_from_whole = _trace_back(torch.stack([has_data, is_whole]), field, num_lead)
        quality[is_observed] = PAST_INCOMPLETE
        quality[is_observed & is_from_whole] = UPSTREAM_OBSERVED
    quality[~has_data.expand_as(quality)] = NO_FORECAST
    return quality


def _trace_back(masks: Tensor, motion: Tensor, num_lead: int) -> Tensor:
    """Whether the air of each pixel was on one of a mask, (N, num_lead, H, W) bool.

    masks: (N, H, W) bool, at the issue time. motion: (2, H, W) pixels per frame, as it is then for
    all frames. Air that once leaves the domain on the way is on none.
    """
    is_inside = torch.ones_like(masks[0])
    result = []
    for position in islice(positions_upstream(motion), num_lead):
        row, column, is_in_domain = pixels_at(position)
        is_inside = is_inside & is_in_domain
        result.append(is_inside & masks[:, row, column])
    return torch.stack(result, dim=1)


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)
