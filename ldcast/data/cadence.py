"""Frame times that should be evenly spaced, but are off by seconds or come more often.

`minutes` is how far apart a model's frames are, `FrameConfig.minutes_per_frame`.
"""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from ldcast.data.checks import format_time
from ldcast.data.event import MAX_OFF, RainEvent
from ldcast.errors import InputError
from ldcast.frames import FrameConfig

_MOST = 0.8  # share of the times that make a grid
_FASTER = 0.9  # of the minutes; closer frames are of another cadence, not late or early ones
_UNEVEN = 0.08  # share by which a cadence may differ from a whole part or multiple of the minutes
_ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}


def rounded_times(time: np.ndarray, minutes: int) -> np.ndarray:
    """`time` with those near the grid of whole `minutes` put on it.

    time: (T,) datetime64[s], strictly increasing, and so is what comes out. Near is within 30 s;
        of several that are near the same point, the nearest moves and the others stay.
    Where most times are within 30 s of another grid, such as that of 12:02 and 12:07, it is that
    grid, of whole minutes. Nothing moves among frames of 2, 3, 4 or 6 minutes where they should be
    5 apart: two of those never are, and rounding could make them look so.
    """
    seconds, wanted = time.astype("datetime64[s]").astype(np.int64), 60 * minutes
    if not (seconds % wanted).any():  # all are on it, as those of a million frames should be
        return time
    step = frame_step(time, minutes)
    if not is_usable(step, minutes):
        return time
    period = wanted // round(wanted / step) if is_faster(step, minutes) else wanted
    centre, offset = _grid(seconds, period, wanted)
    if offset == 0:
        period = wanted
    points = _nearest_points(seconds - centre, period)
    off = np.abs(seconds - points - offset)
    is_near = (np.abs(seconds - points - centre) <= MAX_OFF) | (off <= MAX_OFF)
    # The nearest comes first among those of each point; of two as near, the later one.
    order = np.lexsort((-seconds, off, points))
    nearest = order[np.unique(points[order], return_index=True)[1]]
    moved = nearest[is_near[nearest]]
    rounded = seconds.copy()
    rounded[moved] = points[moved] + offset
    if (np.diff(rounded) <= 0).any():  # a time between two grids
        return time
    return rounded.astype("datetime64[s]")


def round_event(event: RainEvent, minutes: int) -> RainEvent:
    """The event with `rounded_times`."""
    return with_times(event, rounded_times(event.time, minutes), minutes)


def with_times(event: RainEvent, rounded: np.ndarray, minutes: int) -> RainEvent:
    """The event with times rounded to `minutes`; `time_as_read` keeps the others, and a note says
    so.

    rounded: (T,) datetime64[s]. Starts of intervals are rounded alike, so that one still begins
        where the one before ended.
    """
    if (rounded == event.time).all():
        return event
    # Without the times themselves, so that a feed logs it once.
    note = (
        f"times with seconds were rounded to {minutes} minutes; the forecast file keeps what was "
        "read in past_time_as_read"
    )
    return replace(
        event,
        time=rounded,
        time_as_read=event.time if event.time_as_read is None else event.time_as_read,
        interval_start=_round_starts(event, rounded, minutes),
        notes=tuple(dict.fromkeys([*event.notes, note])),
        fields={name: of.retimed(event.time, rounded) for name, of in event.fields.items()},
    )


def unrounded(event: RainEvent) -> RainEvent:
    """The event with its times as they were read."""
    if event.time_as_read is None:
        return event
    fields = {name: of.retimed(event.time, event.time_as_read) for name, of in event.fields.items()}
    return replace(event, time=event.time_as_read, fields=fields)


def times_before_rounding(event: RainEvent) -> np.ndarray | None:
    """(T,) datetime64[s] as read; None where they were not changed."""
    as_read = event.time_as_read
    return None if as_read is None or (as_read == event.time).all() else as_read


def newest_complete(time: np.ndarray, frames: FrameConfig) -> np.datetime64 | None:
    """The newest of some times that has all past frames up to it; None without one."""
    complete = np.isin(time[:, None] - frames.ages, time).all(axis=1)
    return time[complete].max() if complete.any() else None


def frame_step(time: np.ndarray, minutes: int) -> float:
    """Seconds between neighbouring frames, gaps and repeats aside; `minutes` for one frame.

    That is the mean of the steps that are within a half of their lower median.
    """
    steps = np.sort(np.diff(time) / np.timedelta64(1, "s"))
    if len(steps) == 0:
        return 60.0 * minutes
    middle = steps[(len(steps) - 1) // 2]
    return float(steps[np.abs(steps - middle) < middle / 2].mean())


def is_usable(step: float, minutes: int) -> bool:
    """Whether frames `step` seconds apart can be `minutes` apart when some are left out.

    Of frames a minute apart or less, one is always near enough.
    """
    wanted = 60 * minutes
    ratio = wanted / step if is_faster(step, minutes) else step / wanted
    return step <= 2 * MAX_OFF or abs(ratio / round(ratio) - 1) <= _UNEVEN


def is_faster(step: float, minutes: int) -> bool:
    return step < _FASTER * 60 * minutes


def can_thin(step: float, minutes: int) -> bool:
    """Whether frames `step` seconds apart come more often than each `minutes`, but among others."""
    return is_faster(step, minutes) and is_usable(step, minutes)


def describe_faster(step: float, minutes: int) -> str:
    """One line on frames that are not used because they come more often; else empty."""
    if not can_thin(step, minutes):
        return ""
    every = round(60 * minutes / step)
    apart = in_minutes(60 * minutes / every)
    return f"frames are {apart} apart: every {_ORDINALS.get(every, f'{every}th')} one is used"


def thinned(event: RainEvent, minutes: int) -> RainEvent:
    """The frames that are whole steps of `minutes` before the newest, where they come more often;
    a note says how many were left out.

    Raises InputError for frames of a cadence that does not divide `minutes`, or a slower one.
    """
    step = frame_step(event.time, minutes)
    if not can_thin(step, minutes):
        if abs(step / (60 * minutes) - 1) > _UNEVEN:
            raise InputError(
                f"{event.name}: frames are {in_minutes(step)} apart, expected {minutes} minutes or "
                f"a fraction such as {minutes / 2:g} or {minutes / 5:g}; ask for a multiple of "
                "what they are, or leave --minutes-per-frame out to write all frames"
            )
        return event
    every = round(60 * minutes / step)
    age = (event.time[-1] - event.time) / np.timedelta64(1, "s") / (60 * minutes / every)  # frames
    off = np.abs(age - age.round()) * (60 * minutes / every)
    is_whole = (age.round() % every == 0) & (off <= 2 * MAX_OFF)  # of both times
    kept = round_event(event.select(np.flatnonzero(is_whole)), minutes)
    note = (
        f"of {len(event.time)} frames, {in_minutes(step)} apart, {np.count_nonzero(~is_whole)} "
        f"were left out: {len(kept.time)} are whole steps of {minutes} minutes before the newest"
    )
    return replace(kept, notes=(*event.notes, note))


def check_cadence(event: RainEvent, minutes: int, flag: str = "") -> None:
    """Raises InputError if two neighbouring frames are not `minutes` apart, naming the first two.

    flag: by which the caller takes another cadence; empty where it has none.
    An event of one frame passes.
    """
    steps = np.diff(event.time).astype("timedelta64[s]").astype(np.int64)
    wrong = np.flatnonzero(steps != 60 * minutes)
    if len(wrong) == 0:
        return
    first, is_even = wrong[0], bool((steps == steps[0]).all())
    remedies = []
    if can_thin(frame_step(event.time, minutes), minutes):
        remedies.append(f"leave out those between by {_thinning_command(event, minutes)}")
    elif not is_even:
        remedies.append("select a stretch without this break by PATH@START/END")
    if is_even:
        can_set = flag and steps[0] % 60 == 0
        remedies.append(
            f"give {flag} {steps[0] // 60}" if can_set else "use a model of its own cadence"
        )
    raise InputError(
        f"{event.name}: frames {format_time(event.time[first])} and "
        f"{format_time(event.time[first + 1])} are {in_minutes(steps[first])} apart"
        f"{' throughout' if is_even else ''}, expected {minutes}; {', or '.join(remedies)}"
    )


def in_minutes(seconds: float) -> str:
    minutes = f"{seconds / 60:.3g}"
    return f"{minutes} minute{'' if minutes == '1' else 's'}"


def _thinning_command(event: RainEvent, minutes: int) -> str:
    """The command that writes an event's file again, with frames `minutes` apart."""
    is_file = event.source and Path(event.source).exists()  # not synthetic, not of many files
    path = Path(event.source if is_file else "FILE")
    return (
        f"python -m ldcast.data.build {shlex.quote(str(path))} --minutes-per-frame {minutes} "
        f"--out {shlex.quote(f'{path.stem}_{minutes}min.npz')}"
    )


def _grid(seconds: np.ndarray, period: int, wanted: int) -> tuple[int, int]:
    """Where the times of a grid are, and where they should be: seconds from multiples of
    `wanted`."""
    phase = seconds - _nearest_points(seconds, wanted)
    from_first = (phase - phase[0] + period // 2) % period - period // 2
    middle = int(np.sort(from_first)[len(from_first) // 2])
    centre = (int(phase[0]) + middle + period // 2) % period - period // 2
    off = np.abs(from_first - middle)
    if np.mean(off <= MAX_OFF) < _MOST:
        return 0, 0
    if abs(centre) <= MAX_OFF:
        return centre, 0
    if np.mean(off == 0) >= _MOST:  # as even as they can be
        return centre, centre
    return centre, 60 * round(centre / 60)


def _nearest_points(seconds: np.ndarray, period: int) -> np.ndarray:
    return (seconds + period // 2) // period * period


def _round_starts(event: RainEvent, rounded: np.ndarray, minutes: int) -> np.ndarray | None:
    """`interval_start` on the grid of the rounded times, where that leaves an interval."""
    if event.interval_start is None:
        return None
    start = event.interval_start.astype("datetime64[s]").astype(np.int64)
    moved = rounded[rounded != event.time].astype(np.int64)
    offset = int(moved[0] % (60 * minutes))
    points = _nearest_points(start - offset, 60 * minutes) + offset
    is_near = (np.abs(start - points) <= 2 * MAX_OFF) & (points < rounded.astype(np.int64))
    is_near &= ~np.isnat(event.interval_start)
    return np.where(is_near, points, start).astype("datetime64[s]")
