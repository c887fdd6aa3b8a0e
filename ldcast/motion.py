"""Where the air of a pixel came from: motion, and what of a forecast the radar could not know."""

import math

import torch
from torch import Tensor, nn

from ldcast.rain import RainScale, valid_mask

# What a pixel of a forecast rests on: numbers in files, in this order, and their names there.
UPSTREAM_OBSERVED, UPSTREAM_UNKNOWN, NO_FORECAST = 0, 1, 2
QUALITY_MEANINGS = ("upstream_observed", "upstream_unknown", "no_forecast")

LAG_FRAMES = 3  # motion is measured over 15 minutes: finer than a pixel per frame
MAX_SPEED = 15.0  # pixels per frame; at 1 km, 50 m/s
# Of the pixels that both frames may share; fewer match by chance. Of known shifts of radar crops of
# 64 pixels, 5 in 20 were found wrong with 0.1 and none with 0.4; of 32 pixels, 13 and 10.
MIN_OVERLAP = 0.4
BLOCK = 256  # pixels; each has a motion of its own, from twice as many around its centre
MIN_WET_PIXELS = 500  # of such a surrounding; fewer are no field to follow

MIN_INTERIOR_SHARE = 0.2  # of the scored pixels; fewer are those of a few cases
MIN_COVARIANCE = 1e-6  # of log10 mm/h; less is rounding


def mean_motion(rain_rate: Tensor) -> tuple[float, float] | None:
    """Motion (down, right) in pixels per frame that carries frames best into later ones.

    rain_rate: (T, H, W) mm/h, NaN = no data. One vector for all frames: the shift that has the
        largest covariance of log rain between frames `LAG_FRAMES` apart, summed over all pairs,
        per pixel that both have; refined between pixels by a parabola through its neighbours.
    Returns None where nothing varies, and for fewer than 4 frames. At most `MAX_SPEED` along each
    axis. Not to be relied on below 64 pixels.
    Source: cross-correlation tracking, Rinehart and Garvey 1978 (Nature 273), here for one vector.
    """
    if len(rain_rate) <= LAG_FRAMES:
        return None
    rain_rate = rain_rate.float()
    covariance = _covariance_of_shifts(_anomalies(rain_rate), valid_mask(rain_rate))
    if covariance.max() < MIN_COVARIANCE:
        return None
    reach = covariance.shape[0] // 2, covariance.shape[1] // 2
    row, column = divmod(int(covariance.argmax()), covariance.shape[1])
    down = row - reach[0] + _peak_offset(covariance[:, column], row)
    right = column - reach[1] + _peak_offset(covariance[row], column)
    return down / LAG_FRAMES, right / LAG_FRAMES


def interior_mask(has_data: Tensor, motion: tuple[float, float] | None, num_lead: int) -> Tensor:
    """Which pixels the newest image could tell about, if all of it moved alike.

    has_data: (H, W) bool, of the newest past frame. motion: (down, right) pixels per frame, None
        where it is not known.
    Returns (num_lead, H, W) bool: True where the air that arrives at that lead time was inside the
    crop, on a pixel with data, at the issue time. Of unknown motion, nowhere.
    """
    height, width = has_data.shape
    if motion is None:
        return has_data.new_zeros(num_lead, height, width)
    frames = torch.arange(1, num_lead + 1, device=has_data.device)[:, None]
    row = (torch.arange(height, device=has_data.device) - frames * motion[0]).round().long()
    column = (torch.arange(width, device=has_data.device) - frames * motion[1]).round().long()
    is_inside = _within(row, height)[:, :, None] & _within(column, width)[:, None, :]  # (T, H, W)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    return is_inside & has_data[row[:, :, None], column[:, None, :]]


def forecast_quality(past: Tensor, num_lead: int) -> Tensor:
    """What each pixel of a forecast rests on, (num_lead, H, W) uint8, a code of `QUALITY_MEANINGS`.

    past: (4, H, W) mm/h, NaN = no data. Traced back along the motion of the past frames,
    UPSTREAM_OBSERVED: the air was on a pixel that has data in the newest frame;
    UPSTREAM_UNKNOWN: it was outside the domain or where there is no data, or nothing moves that
        could be followed: rain there is a guess;
    NO_FORECAST: the pixel itself has no data in the newest frame. Networks take no data for dry,
        and hardly let rain drift in: 0.04 mm/h after 5 to 20 minutes where radar had 0.90.
    """
    has_data = valid_mask(past[-1])
    field = motion_field(past)
    if field is None:
        is_observed = has_data.new_zeros(num_lead, *has_data.shape)
    else:
        is_observed = _trace_back(has_data, field, num_lead)
    quality = torch.full(is_observed.shape, UPSTREAM_UNKNOWN, dtype=torch.uint8, device=past.device)
    quality[is_observed] = UPSTREAM_OBSERVED
    quality[~has_data.expand_as(is_observed)] = NO_FORECAST
    return quality


def motion_field(rain_rate: Tensor) -> Tensor | None:
    """Motion (2, H, W), down and right in pixels per frame, smooth from block to block.

    rain_rate: (T, H, W) mm/h, NaN = no data. Blocks with too little rain around them move as the
    whole field does. None where that cannot be followed either.
    """
    rain_rate = rain_rate.float()
    overall = mean_motion(rain_rate)
    if overall is None:
        return None
    height, width = rain_rate.shape[-2:]
    rows, columns = (max(round(size / BLOCK), 1) for size in (height, width))
    blocks = rain_rate.new_empty(2, rows, columns)
    for row in range(rows):
        for column in range(columns):
            y, x = ((row + 0.5) * height / rows, (column + 0.5) * width / columns)
            around = rain_rate[:, _around(y, height), _around(x, width)]
            is_followed = (around[-1] >= RainScale().wet_threshold).sum() >= MIN_WET_PIXELS
            motion = mean_motion(around) if is_followed else None
            blocks[:, row, column] = blocks.new_tensor(motion or overall)
    return nn.functional.interpolate(blocks[None], (height, width), mode="bilinear")[0]


def _around(centre: float, size: int) -> slice:
    return slice(max(round(centre - BLOCK), 0), min(round(centre + BLOCK), size))


def _trace_back(has_data: Tensor, motion: Tensor, num_lead: int) -> Tensor:
    """Whether the air of each pixel was on one with data, (num_lead, H, W) bool.

    motion: (2, H, W) pixels per frame, as it is at the issue time for all frames.
    """
    height, width = has_data.shape
    position = torch.stack(
        torch.meshgrid(
            torch.arange(height, device=motion.device, dtype=motion.dtype),
            torch.arange(width, device=motion.device, dtype=motion.dtype),
            indexing="ij",
        )
    )
    is_inside = torch.ones_like(has_data)
    result = []
    for _ in range(num_lead):
        row, column = _nearest(position, height, width)
        position = position - motion[:, row, column]
        row, column = position.round().long()
        is_inside = is_inside & _within(row, height) & _within(column, width)
        row, column = _nearest(position, height, width)
        result.append(is_inside & has_data[row, column])
    return torch.stack(result)


def _nearest(position: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    row, column = position.round().long()
    return row.clamp(0, height - 1), column.clamp(0, width - 1)


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


def _anomalies(rain_rate: Tensor) -> Tensor:
    """Log rain less its mean over the frame's data, 0 where there is none; (T, H, W)."""
    scale = RainScale()
    is_wet = rain_rate >= scale.wet_threshold
    log_rain = rain_rate.where(is_wet, scale.dry_value).log10()
    log_rain = log_rain.where(valid_mask(rain_rate), torch.nan)
    return (log_rain - log_rain.nanmean(dim=(-2, -1), keepdim=True)).nan_to_num(nan=0.0)


def _covariance_of_shifts(anomalies: Tensor, is_valid: Tensor) -> Tensor:
    """Covariance for each shift (down, right) within reach, no shift in the middle."""
    first, later = slice(None, -LAG_FRAMES), slice(LAG_FRAMES, None)
    total = _cross_correlation(anomalies[first], anomalies[later])
    count = _cross_correlation(is_valid[first].float(), is_valid[later].float())
    return torch.where(count > MIN_OVERLAP * count.max(), total / count.clamp(min=1), -torch.inf)


def _cross_correlation(first: Tensor, later: Tensor) -> Tensor:
    """sum over pairs and pixels of first(p) later(p + shift), for all shifts within reach."""
    height, width = first.shape[-2:]
    reach = math.ceil(MAX_SPEED * LAG_FRAMES)
    rows, columns = min(reach, height - 1), min(reach, width - 1)
    size = (height + rows, width + columns)  # padded with zeros, so that no shift wraps around
    spectrum = torch.fft.rfft2(first, size).conj() * torch.fft.rfft2(later, size)
    correlation = torch.fft.irfft2(spectrum.sum(dim=0), size)
    centred = correlation.roll((rows, columns), dims=(0, 1))
    return centred[: 2 * rows + 1, : 2 * columns + 1]


def _peak_offset(line: Tensor, index: int) -> float:
    """Where between -1/2 and 1/2 the parabola through a peak and its neighbours is highest."""
    if not 0 < index < len(line) - 1:
        return 0.0
    before, peak, after = line[index - 1 : index + 2].tolist()
    curvature = before - 2 * peak + after
    return 0.5 * (before - after) / curvature if curvature < 0 and math.isfinite(curvature) else 0.0
