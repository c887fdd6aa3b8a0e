"""Where the air of a pixel came from: the mean motion of a case, and what was outside before."""

import math

import torch
from torch import Tensor

from ldcast.rain import RainScale, valid_mask

LAG_FRAMES = 3  # motion is measured over 15 minutes: finer than a pixel per frame
MAX_SPEED = 15.0  # pixels per frame; at 1 km, 50 m/s

MIN_INTERIOR_SHARE = 0.2  # of the scored pixels; fewer are those of a few cases
MIN_COVARIANCE = 1e-6  # of log10 mm/h; less is rounding


def mean_motion(rain_rate: Tensor) -> tuple[float, float] | None:
    """Motion (down, right) in pixels per frame that carries frames best into later ones.

    rain_rate: (T, H, W) mm/h, NaN = no data. One vector for all frames: the shift that has the
        largest covariance of log rain between frames `LAG_FRAMES` apart, summed over all pairs,
        per pixel that both have; refined between pixels by a parabola through its neighbours.
    Returns None where nothing varies, and for fewer than 4 frames. At most `MAX_SPEED` along each
    axis.
    Source: cross-correlation tracking, Rinehart and Garvey 1978 (Nature 273), here for one vector.
    """
    if len(rain_rate) <= LAG_FRAMES:
        return None
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
    # Overlaps of a few pixels would win by chance.
    return torch.where(count > 0.1 * count.max(), total / count.clamp(min=1), -torch.inf)


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
