"""The motion of rain: one vector for a stretch of frames, or a field of them."""

import math

import torch
from torch import Tensor, nn

from ldcast.frames import FrameConfig
from ldcast.rain import RainScale, valid_mask

LAG_MINUTES = 15  # over which motion is measured, as frames allow: finer than a pixel per frame
# Of the data of the fullest frame, what two frames must share to be compared; where an outage
# leaves no two of them so much, frames closer in time are.
MIN_SHARED = 0.75
MAX_SPEED = 3.0  # pixels per minute; at 1 km, 50 m/s
# Of the pixels that both frames may share; fewer match by chance. Of known shifts of radar crops of
# 64 pixels, 5 in 20 were found wrong with 0.1 and none with 0.4; of 32 pixels, 13 and 10.
MIN_OVERLAP = 0.4
BLOCK = 256  # pixels; each has a motion of its own, from twice as many around its centre
MIN_WET_PIXELS = 500  # of such a surrounding; fewer are no field to follow

MIN_COVARIANCE = 1e-6  # of log10 mm/h; less is rounding


def mean_motion(
    rain_rate: Tensor, minutes: int = FrameConfig.minutes_per_frame
) -> tuple[float, float] | None:
    """Motion (down, right) in pixels per frame that carries frames best into later ones.

    rain_rate: (T, H, W) mm/h, `minutes` apart, NaN = no data. One vector for all frames: the shift
        that has the largest covariance of log rain between frames `LAG_MINUTES` apart (fewer, where
        those share too little data), summed over all pairs, per pixel that both have; refined
        between pixels by a parabola through its neighbours.
    Returns None where nothing varies, and for one frame. At most `MAX_SPEED` along each axis. Not
    to be relied on below 64 pixels.
    Source: cross-correlation tracking, Rinehart and Garvey 1978 (Nature 273), here for one vector.
    """
    if len(rain_rate) < 2:
        return None
    rain_rate = rain_rate.float()
    is_valid = valid_mask(rain_rate)
    lag = _lag(is_valid, max(round(LAG_MINUTES / minutes), 1))
    reach = math.ceil(MAX_SPEED * minutes * lag)
    covariance = _covariance_of_shifts(_anomalies(rain_rate), is_valid, lag, reach)
    if covariance.max() < MIN_COVARIANCE:
        return None
    middle = covariance.shape[0] // 2, covariance.shape[1] // 2
    row, column = divmod(int(covariance.argmax()), covariance.shape[1])
    down = row - middle[0] + _peak_offset(covariance[:, column], row)
    right = column - middle[1] + _peak_offset(covariance[row], column)
    return down / lag, right / lag


def motion_field(rain_rate: Tensor, minutes: int = FrameConfig.minutes_per_frame) -> Tensor | None:
    """Motion (2, H, W), down and right in pixels per frame, smooth from block to block.

    rain_rate: (T, H, W) mm/h, `minutes` apart, NaN = no data. Blocks with too little rain around
    them move as the whole field does. None where that cannot be followed either.
    """
    rain_rate = rain_rate.float()
    overall = mean_motion(rain_rate, minutes)
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
            motion = mean_motion(around, minutes) if is_followed else None
            blocks[:, row, column] = blocks.new_tensor(motion or overall)
    return nn.functional.interpolate(blocks[None], (height, width), mode="bilinear")[0]


def _around(centre: float, size: int) -> slice:
    return slice(max(round(centre - BLOCK), 0), min(round(centre + BLOCK), size))


def _lag(is_valid: Tensor, longest: int) -> int:
    """Frames between those to compare: the most after which two of them share enough data.

    is_valid: (T, H, W) bool. No more than `longest`, which it is where no two do.
    """
    fullest = is_valid.sum(dim=(-2, -1)).amax()
    longest = min(longest, len(is_valid) - 1)
    for lag in range(longest, 0, -1):
        shared = (is_valid[:-lag] & is_valid[lag:]).sum(dim=(-2, -1))
        if shared.amax() >= MIN_SHARED * fullest:
            return lag
    return longest


def _anomalies(rain_rate: Tensor) -> Tensor:
    """Log rain less its mean over the frame's data, 0 where there is none; (T, H, W)."""
    scale = RainScale()
    is_wet = rain_rate >= scale.wet_threshold
    log_rain = rain_rate.where(is_wet, scale.dry_value).log10()
    log_rain = log_rain.where(valid_mask(rain_rate), torch.nan)
    return (log_rain - log_rain.nanmean(dim=(-2, -1), keepdim=True)).nan_to_num(nan=0.0)


def _covariance_of_shifts(anomalies: Tensor, is_valid: Tensor, lag: int, reach: int) -> Tensor:
    """Covariance for each shift (down, right) within reach, no shift in the middle."""
    first, later = slice(None, -lag), slice(lag, None)
    total = _cross_correlation(anomalies[first], anomalies[later], reach)
    count = _cross_correlation(is_valid[first].float(), is_valid[later].float(), reach)
    return torch.where(count > MIN_OVERLAP * count.max(), total / count.clamp(min=1), -torch.inf)


def _cross_correlation(first: Tensor, later: Tensor, reach: int) -> Tensor:
    """sum over pairs and pixels of first(p) later(p + shift), for all shifts within reach."""
    height, width = first.shape[-2:]
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
