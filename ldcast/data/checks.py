"""Checks of rain from files, whatever the format: rates, times and units."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldcast.errors import InputError
from ldcast.rain import MAX_RAIN_RATE, ROUNDING

FROM_DBZ = (
    "convert it by mm/h = (10 ** (dBZ / 10) / a) ** (1 / b), for instance a = 223 and "
    "b = 1.53, with no echo as 0 and no data as NaN"
)

JITTER = np.timedelta64(30, "s")  # of the ends of intervals
_MAX_IMPOSSIBLE = 1e-3  # share of the pixels with data; clutter stays far below
_MM_PER_DEPTH = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "kgm-2": 1.0, "kg/m2": 1.0}
_PER_HOUR = {"s": 3600, "sec": 3600, "min": 60, "h": 1, "hr": 1, "hour": 1, "d": 1 / 24}
_PER_HOUR["day"] = _PER_HOUR["d"]
_UNITS = re.compile(
    rf"(?P<depth>{'|'.join(_MM_PER_DEPTH)})"
    rf"((?P<slash>/)?(?P<number>[1-9]\d{{0,3}})?(?P<time>{'|'.join(_PER_HOUR)})(?P<power>-1)?)?"
)


def mm_per_hour(units: str) -> float | None:
    """What a rain rate in `units` is multiplied by to be in mm/h; None if `units` is no rate.

    Understood are `mm/h`, `mm h-1`, `mm h^-1`, `kg m-2 s-1`, `kg/m2/s`, `m s-1`, `mm/5min`, ...
    """
    found = _match(units)
    if not found or not found["time"] or bool(found["slash"]) == bool(found["power"]):
        return None
    return _MM_PER_DEPTH[found["depth"]] * _PER_HOUR[found["time"]] / int(found["number"] or 1)


def millimetres(units: str) -> float | None:
    """What an amount of rain in `units` is multiplied by to be in mm; None if it is no amount."""
    found = _match(units)
    return _MM_PER_DEPTH[found["depth"]] if found and not found["time"] else None


def _match(units: str) -> re.Match[str] | None:
    text = re.sub(r"[\s*^.]", "", units.lower()).replace("per", "/")
    return _UNITS.fullmatch(text)


class PossibleRain(NamedTuple):
    """Rates of rain without those that cannot be, and how many these were and how high."""

    rain_rate: np.ndarray
    num_impossible: int
    highest: float


def checked_rain_rate(rain_rate: np.ndarray, path: Path | str) -> np.ndarray:
    """`rain_rate` as `possible_rain_rate` leaves it.

    Raises InputError as that does, and where over 1 in 1000 of the pixels with data are above
    500 mm/h, as they are in wrong units.
    """
    rain_rate, num_impossible, highest = possible_rain_rate(rain_rate, path)
    if num_impossible:
        _check_is_clutter(rain_rate, num_impossible, highest, path)
    return rain_rate


def possible_rain_rate(rain_rate: np.ndarray, path: Path | str) -> PossibleRain:
    """`rain_rate` with rounding below zero set to 0, and NaN above 500 mm/h, which is clutter.

    path: named in messages. rain_rate: (T, H, W) float16 or float32, changed in place; float64
        becomes float32.
    Raises InputError unless it is three-dimensional, floating point, finite or NaN, not negative.
    """
    if rain_rate.ndim != 3 or rain_rate.size == 0:
        raise InputError(
            f"{path}: rain_rate has shape {rain_rate.shape}, expected (time, y, x) and none empty"
        )
    if rain_rate.dtype == np.float64:
        rain_rate = rain_rate.astype(np.float32)
    if rain_rate.dtype not in (np.float16, np.float32):
        raise InputError(
            f"{path}: rain_rate is {rain_rate.dtype}, expected float16 or float32 mm/h; apply the "
            "scale of stored counts and write NaN where there is no data"
        )
    highest, num_impossible = 0.0, 0
    for index, frame in enumerate(rain_rate):  # one by one, to spare memory
        values = frame.astype(np.float32, copy=False)  # float16 is slow to compare
        low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        if np.isinf(low) or np.isinf(high):
            raise InputError(
                f"{path}: rain_rate has infinite values in frame {index}; write NaN for no data"
            )
        if low < -ROUNDING:
            raise InputError(
                f"{path}: rain_rate goes down to {low:g} in frame {index}, expected mm/h, never "
                f"negative; write 0 or NaN there or, if this is reflectivity, {FROM_DBZ}"
            )
        if low < 0:
            frame[frame < 0] = 0
        if high > MAX_RAIN_RATE:
            is_impossible = values > MAX_RAIN_RATE
            num_impossible += np.count_nonzero(is_impossible)
            frame[is_impossible] = np.nan
            highest = max(highest, high)
    return PossibleRain(rain_rate, num_impossible, highest)


def _check_is_clutter(
    rain_rate: np.ndarray, num_impossible: int, highest: float, path: Path | str
) -> None:
    """rain_rate: without the impossible pixels."""
    num_possible = sum(np.count_nonzero(~np.isnan(frame)) for frame in rain_rate)
    share = num_impossible / (num_impossible + num_possible)
    if share > _MAX_IMPOSSIBLE:
        raise InputError(
            f"{path}: {share:.1%} of the pixels with data are above {MAX_RAIN_RATE:g} mm/h, "
            f"up to {highest:.3g}, expected no more than {_MAX_IMPOSSIBLE:.1%} (clutter); check "
            "the units that the file states, and write NaN for no data"
        )


def checked_time(time: np.ndarray, num_frames: int, path: Path | str) -> np.ndarray:
    """`time` as (T,) datetime64[s], rounded to the nearest second.

    Raises InputError unless there is one per frame, increasing.
    """
    if time.dtype.kind != "M":
        raise InputError(f"{path}: time is {time.dtype}, expected datetime64[s] in UTC")
    if time.shape != (num_frames,) or np.isnat(time).any():
        raise InputError(
            f"{path}: time has shape {time.shape} and {int(np.isnat(time).sum())} empty entries, "
            f"expected one time for each of {num_frames} frames"
        )
    time = rounded_to_seconds(time)
    backward = np.flatnonzero(np.diff(time) <= np.timedelta64(0, "s"))
    if len(backward):
        earlier, later = time[backward[0]], time[backward[0] + 1]
        raise InputError(
            f"{path}: frame {format_time(earlier)} is followed by {format_time(later)}, "
            "expected times that increase; sort the frames and drop repeated ones"
        )
    return time


def rounded_to_seconds(time: np.ndarray) -> np.ndarray:
    """`time` as datetime64[s]; a time stored in floats may be 20:49:59.999999 instead of 20:50."""
    return (time + np.timedelta64(500, "ms")).astype("datetime64[s]")


def check_apart_in_time(
    interval_start: np.ndarray, time: np.ndarray, where: Path | str, minutes: int
) -> None:
    """Raises InputError where an interval begins before the frame before it ends, by over 30 s.

    That is so in running sums, such as those of an hour every 5 minutes, and in sums since a start:
    the rate of their interval is not the rate of the 5 minutes before its end.
    interval_start, time: (T,) datetime64[s], begin and end of each; NaT where there is no interval.
    minutes: how far apart the frames are that are used.
    """
    overlapping = np.flatnonzero(has_overlap(interval_start, time, minutes))
    if len(overlapping):
        index = overlapping[0]
        start, end = interval_start[index], time[index]
        end_before = time[_before(time, minutes)[index]]
        raise InputError(
            f"{where}: the intervals of its frames overlap: the rain up to {format_time(end)} fell "
            f"since {format_time(start)}, in {_minutes(end - start):g} minutes, but the frame "
            f"before is of {format_time(end_before)}; expected intervals that begin where the one "
            f"before ends, as sums of {minutes} minutes every {minutes} minutes do; choose such a "
            "product, or rates"
        )


def has_overlap(interval_start: np.ndarray, time: np.ndarray, minutes: int) -> np.ndarray:
    """(T,) bool: whether the interval of a frame begins before the frame before it ends.

    That is the one `minutes` before where frames come more often: those between are not used.
    """
    before = _before(time, minutes)
    return (before >= 0) & (interval_start < time[before] - JITTER)


def _before(time: np.ndarray, minutes: int) -> np.ndarray:
    """(T,) int: the last frame that is at least `minutes` older, or late for it; -1 for none."""
    step = np.timedelta64(60 * minutes, "s")
    earliest = step - min(2 * JITTER, step // 2)
    return np.searchsorted(time, time - earliest, side="right") - 1


def amounts_note(interval_start: np.ndarray, time: np.ndarray) -> str:
    """For the user: that rates were made from amounts, and of how long, to a tenth of a minute."""
    minutes = _minutes(time - interval_start).round(1)  # a second too few is no other interval
    shortest, longest = minutes.min(), minutes.max()
    span = f"{shortest:g}" if shortest == longest else f"{shortest:g} to {longest:g}"
    return f"rain rates are made from amounts of {span} minutes"


def _minutes(span: np.timedelta64 | np.ndarray) -> np.ndarray:
    return span / np.timedelta64(1, "m")


def format_time(time: np.datetime64) -> str:
    """ISO time for messages and names, to the minute unless it has seconds."""
    return str(np.datetime_as_string(time, unit="s")).removesuffix(":00")
