"""Rain whose scales last as long as they have lasted around here: small ones fade before large.

Rain that is only carried keeps showers that are gone in ten minutes. How long they last differs
from weather to weather, from place to place and from radar to radar, and the last three frames say
it: so no network has to guess it.
Sources: S-PROG, Seed 2003 (Journal of Applied Meteorology 42), a cascade of scales of which each is
autoregressive of second order, as in STEPS; parameters of the surroundings in place of the field's,
Pulkkinen et al. 2021 (LINDA, of which pysteps has the code).
"""

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ldcast.errors import InputError
from ldcast.motion.carrying import carry, data_box
from ldcast.motion.gaussian import gaussian_means

# Chosen by the absolute error of rain 5 to 30 minutes ahead (docs/bundled-model.md).
NUM_ALIGNED = 3  # frames; a fourth made it worse
POWER = 0.4  # of the rain rate, in whose units it is a sum of scales
BLURS = (0.7, 1.4, 2.8, 5.6, 11.2, 22.4)  # pixels, deviations: scales are what is between them
MIN_WINDOW = 6.0  # pixels, standard deviation, of the surroundings that have one correlation
WINDOWS_PER_BLUR = 2.0  # and of those of wider scales, over that of the scale
FLOOR = 1e-4  # (mm/h)^(2 POWER): variance that is none
TINY = 1e-6  # share of seen pixels in a window that counts as none
MAX_CORRELATION = 0.999  # of neighbouring frames: nothing stays for ever


class Prognosis(NamedTuple):
    """rain_rate: (T, H, W) mm/h, not carried on; its error's expected deviation, the same shape, in
    (mm/h)^POWER. NaN where the newest frame has no data."""

    rain_rate: Tensor
    deviation: Tensor


class _Scale(NamedTuple):
    """(H, W) each, or of S scales together (S, H, W): state of the newest frame and the one before,
    variance, and correlations of frames that are one and two apart."""

    newest: Tensor
    before: Tensor
    variance: Tensor
    lag_1: Tensor
    lag_2: Tensor


def prognosis(past: Tensor, motion: Tensor, num_frames: int) -> Prognosis:
    """What is likely to be left of rain after 1, 2, ... frames, where its air was at first.

    past: (T_past, H, W) mm/h, oldest first, NaN = no data.
    motion: (2, H, W), down and right in pixels per frame.
    Raises InputError for fewer than `NUM_ALIGNED` past frames.
    """
    if len(past) < NUM_ALIGNED:
        raise InputError(
            f"got {len(past)} past frames, expected at least {NUM_ALIGNED}, to see what lasts"
        )
    rows, columns = data_box(past[-1])
    frames, seen = _aligned(past, motion)
    frames, seen = frames[:, rows, columns].pow(POWER), seen[rows, columns]
    images = list(islice(_images(*_scales(frames, seen)), num_frames))
    highest = frames.max()  # scales that swing are not to add up to more than there was
    known = ~past[-1, rows, columns].isnan()
    whole = past.new_full((2, num_frames, *past.shape[1:]), torch.nan, dtype=torch.float32)
    whole[:, :, rows, columns] = torch.stack(images, dim=1).where(known, torch.nan)
    rain_rate = whole[0].clamp(min=0).minimum(highest).pow(1 / POWER)
    return Prognosis(rain_rate, whole[1])


def _aligned(past: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """The last frames, newest first, carried to where their air is now, (N, H, W) mm/h, and where
    all of them have data, (H, W); where an earlier one has none it is as the newest."""
    newest = past[-1].float()
    earlier = [carry(past[-1 - age], motion, age) for age in range(1, NUM_ALIGNED)]
    seen = ~torch.stack([newest, *earlier]).isnan().any(0)
    filled = [newest, *(frame.where(seen, newest) for frame in earlier)]
    return torch.stack(filled).nan_to_num(nan=0.0), seen


def _scales(frames: Tensor, seen: Tensor) -> tuple[_Scale, Tensor]:
    """Of (N, H, W), newest first: what lies between blurs, small scales first, and what is left of
    the newest, (H, W), which stays."""
    blurred = [frames, *(gaussian_means(frames, deviation) for deviation in BLURS)]
    scales = [
        _scale(fine - coarse, seen, max(MIN_WINDOW, WINDOWS_PER_BLUR * deviation))
        for (fine, coarse), deviation in zip(pairwise(blurred), BLURS, strict=True)
    ]
    return _Scale(*(torch.stack(of) for of in zip(*scales, strict=True))), blurred[-1][0]


def _scale(part: Tensor, seen: Tensor, width: float) -> _Scale:
    """Of one scale (3, H, W), newest first, with correlations in windows of that deviation, of the
    pixels (H, W) that were seen."""
    newest, before, oldest = part
    products = torch.stack([newest * before, before * oldest, newest * oldest])
    weighted = torch.cat([torch.ones_like(part[:1]), part.square(), products]) * seen
    weight, *squares, recent, earlier, both = gaussian_means(weighted, width)
    now, then, first = (square.clamp(min=0).sqrt() for square in squares)
    none = FLOOR * weight + TINY
    lag_1 = ((recent + earlier) / (now * then + then * first + none)).clamp(0, MAX_CORRELATION)
    lag_2 = both / (now * first + none)
    # As large as the newest: rain that grew is not to grow on, for nothing says until when.
    before = before * now / (then + none.sqrt())
    # Of no process of second order is it less; a little more, so that what is added has a size.
    least = 2 * lag_1.square() - 1 + (1 - MAX_CORRELATION**2) / 10
    lag_2 = torch.maximum(lag_2.clamp(0, MAX_CORRELATION), least)
    return _Scale(newest, before, squares[0] / (weight + TINY), lag_1, lag_2)


def _images(scales: _Scale, rest: Tensor) -> Iterator[Tensor]:
    """(2, H, W) after 1, 2, ... frames without end: the sum of scales, and its error's deviation.

    Yule-Walker equations of second order; what is not correlated any more is the error. Scales
    overlap, so that their sum varies more than they do: by the same share its error is larger.
    """
    newest, before, variance, kept, lag_2 = scales
    second = (lag_2 - kept.square()) / (1 - kept.square())
    first, kept_before = kept * (1 - second), torch.ones_like(kept)
    sum_variance = gaussian_means(
        newest.sum(0, keepdim=True).square(), WINDOWS_PER_BLUR * BLURS[-1]
    )[0]
    overlap = sum_variance / (variance.sum(0) + FLOOR)
    while True:
        newest, before = torch.addcmul(first * newest, second, before), newest
        lost = (1 - kept.square()).clamp(min=0)
        yield torch.stack([rest + newest.sum(0), (overlap * (variance * lost).sum(0)).sqrt()])
        kept, kept_before = torch.addcmul(first * kept, second, kept_before), kept
