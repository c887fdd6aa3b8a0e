"""Sums of a forecast's rain rates: what falls in windows of time."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ldcast.errors import InputError
from ldcast.motion import amounts_between, fill_gaps, motion_of_known
from ldcast.products.amounts import Amounts
from ldcast.products.forecast import Forecast

MOTION_FRAMES = 4  # of a forecast, that say its motion where its past is not known
CHUNK = 8  # members that are summed at once


def accumulate(
    forecast: Forecast,
    minutes: int | Sequence[int],
    past: np.ndarray | None = None,
    is_along_motion: bool = True,
) -> Amounts:
    """What falls in every window of so many minutes that ends at a lead time, in mm.

    minutes: one length of windows or several, multiples of the time between frames.
    past: (P, H, W) mm/h, the radar images up to the issue time, oldest first, NaN = no data; then
        windows may begin with the first of them. Without it none begins before the first lead time.
    is_along_motion: rates between frames are those of rain that moves on, by the motion of the past
        (see `ldcast.motion.accumulation`); without, they are the mean of both frames.
    Of calibrated rates these are not calibrated amounts: how rain lasts is not calibrated.
    Raises InputError as `check_windows`, and for windows that need a past where none is given.
    """
    lengths = np.atleast_1d(minutes).tolist()
    leads = np.asarray(forecast.lead_minutes)
    if not lengths:
        raise InputError("got no lengths of windows to sum over, expected minutes, such as 60")
    check_windows(lengths, leads)
    step = int(leads[0])
    rain_rate = torch.from_numpy(np.asarray(forecast.rain_rate, np.float32))
    seen = rain_rate[0, :0]
    if past is not None:
        seen = fill_gaps(torch.from_numpy(np.array(past, np.float32)), step).rain_rate
    motion = None
    if is_along_motion:
        motion = motion_of_known(rain_rate[0, :MOTION_FRAMES] if past is None else seen, step)
    # Frame i of `seen` and the forecast together is of times[i]; a window is from one to another.
    times = np.concatenate([step * np.arange(1 - len(seen), 1), leads]) if len(seen) else leads
    windows = list(chain.from_iterable(windows_of(times, length) for length in lengths))
    if max(lengths) > leads[-1] - times[0]:
        raise InputError(
            f"got sums over {max(lengths)} minutes, but the frames are of {leads[-1] - times[0]} "
            "minutes together: sum over no more, or give the past as well"
        )
    starts, ends = np.array(windows, dtype=int).reshape(-1, 2).T
    amount = np.empty((len(rain_rate), len(windows), *rain_rate.shape[2:]), np.float32)
    for members in torch.arange(len(rain_rate)).split(CHUNK):
        part = slice(int(members[0]), int(members[-1]) + 1)
        amount[part] = window_sums(seen, rain_rate[part], motion, step, windows).numpy()
    issue_time = np.datetime64(forecast.issue_time, "s")
    time = issue_time + times.astype("timedelta64[m]")
    return Amounts(
        amount, time[starts], time[ends], times[starts] < 0, is_along_motion=is_along_motion
    )


def check_windows(lengths: Sequence[int], lead_minutes: Sequence[int] | np.ndarray) -> None:
    """Raises InputError for windows that are no multiples of the time between frames, longer than
    the forecast, or named twice; call before the work.

    lengths, lead_minutes: in minutes.
    """
    step, last = int(lead_minutes[0]), int(lead_minutes[-1])
    if list(lead_minutes) != list(range(step, last + 1, step)):
        raise InputError(
            f"got lead times of {' '.join(map(str, lead_minutes))} minutes, expected each multiple "
            f"of the first, without gaps, to sum over"
        )
    got = " ".join(map(str, lengths))
    expected = f"expected multiples of {step} minutes, which is how far frames are apart"
    if any(length < step or length % step for length in lengths):
        raise InputError(f"got sums over {got} minutes, {expected}: such as {6 * step}")
    if max(lengths, default=0) > last:
        raise InputError(
            f"got sums over {got} minutes, but the lead times end at {last}: sum over no more, or "
            "forecast further with --lead-minutes"
        )
    if len(set(lengths)) < len(lengths):
        raise InputError(f"got sums over {got} minutes, expected each length once")


def windows_of(times: np.ndarray, length: int) -> list[tuple[int, int]]:
    """First and last frame of the windows of so many minutes that end after the issue time.

    times: (T,) of frames, minutes after the issue time.
    """
    index = {int(time): frame for frame, time in enumerate(times)}
    return [
        (index[end - length], frame)
        for end, frame in index.items()
        if end > 0 and end - length in index
    ]


def window_sums(
    seen: Tensor,
    rain_rate: Tensor,
    motion: Tensor | None,
    step: int,
    windows: Sequence[tuple[int, int]],
) -> Tensor:
    """What falls in each window, (E, N, H, W) mm, of members (E, T, H, W) mm/h.

    seen: (P, H, W) mm/h, what the radar saw until then, the same for all members; P may be 0.
    motion, step: as for `amounts_between`. windows: first and last frame of each, of both together.
    """
    observed = list(amounts_between(seen[None], motion, step))  # P - 1 times (1, H, W)
    frames = torch.cat([seen[-1:].expand(len(rain_rate), -1, -1, -1), rain_rate], dim=1)
    parts = [*observed, *amounts_between(frames, motion, step)]
    return torch.stack([sum(parts[start:end]) for start, end in windows], dim=1)
