"""The frames of an event that a forecast starts from."""

from dataclasses import replace
from typing import NoReturn

import numpy as np

from ldcast.data.cadence import can_thin, describe_faster, frame_step, in_minutes
from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent, list_frames
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.rain import as_float32

_CLOCK_MINUTES = 1  # that a clock may be wrong by without a warning


def past_event(
    event: RainEvent, frames: FrameConfig, issue_time: np.datetime64 | None = None
) -> RainEvent:
    """The frames that a forecast starts from, oldest first; the last one's time is its issue time.

    frames: the model's.
    issue_time: time of the newest frame to use; None for the newest that holds data, as do all the
        past frames before it. Where there is none such, fewer of them hold data. Of frames that
        are closer than the model's, those between are left out.
    Returns the past frames, rain_rate float32; a copy. Its notes say which frames were left out
    or skipped and why, and where the issue time is ahead of the clock.
    Raises InputError for too few frames, another cadence, an issue time that is not in the event,
    or one that lacks frames before it.
    """
    if issue_time is None and len(event.time) < frames.past_frames:
        raise InputError(
            f"{event.name}: got {len(event.time)} frames, expected {frames.past_frames} to start "
            "from; give more frames"
        )
    notes = list(event.notes)
    if issue_time is None:
        issue_time = _newest_issue_time(event, frames)
        notes += _note_of_newer(event, issue_time, frames)
    issue_time = _as_rounded(event, np.datetime64(issue_time, "s"))
    _check_past(event, issue_time, frames)
    notes += _note_of_clock(issue_time)
    past = event.select(np.searchsorted(event.time, issue_time - frames.ages))
    minutes = frames.minutes_per_frame
    left_out = describe_faster(frame_step(event.time, minutes), minutes)
    notes += [left_out] if left_out else []
    return replace(past, rain_rate=as_float32(past.rain_rate), notes=tuple(notes))


def later_frames(
    event: RainEvent, issue_time: np.datetime64, num_frames: int, minutes: int
) -> np.ndarray | None:
    """What was observed after a forecast was issued: (num_frames, H, W) float32 mm/h.

    minutes: between frames. NaN all over where a frame is missing; None where none has any data.
    """
    times = issue_time + np.timedelta64(60 * minutes, "s") * np.arange(1, num_frames + 1)
    is_there = np.isin(times, event.time)
    if not is_there.any():
        return None
    later = np.full((num_frames, *event.rain_rate.shape[1:]), np.nan, np.float32)
    found = event.select(np.searchsorted(event.time, times[is_there]))
    later[is_there] = as_float32(found.rain_rate)
    return later if np.isfinite(later).any() else None


def _newest_issue_time(event: RainEvent, frames: FrameConfig) -> np.datetime64:
    """The newest time whose frames are all there and hold data; else with as many as there are.

    A forecast needs data in the newest frame more than in the others.
    """
    ages = frames.ages
    complete = np.isin(event.time[:, None] - ages, event.time).all(axis=1)
    if not complete.any():
        _refuse_cadence(event, frames)
    best, most = event.time[complete][-1], (False, 0)
    for issue_time in event.time[complete][::-1]:
        has_data = [_holds_data(event, time) for time in issue_time - ages]
        if all(has_data):
            return issue_time
        if (found := (has_data[-1], sum(has_data))) > most:
            best, most = issue_time, found
    return best


def _holds_data(event: RainEvent, time: np.datetime64) -> bool:
    return not np.isnan(event.rain_rate[np.searchsorted(event.time, time)]).all()


def _note_of_newer(event: RainEvent, issue_time: np.datetime64, frames: FrameConfig) -> list[str]:
    """Why there is no forecast from the frames after the issue time; no line where none is."""
    newer = event.time[event.time > issue_time]
    if len(newer) == 0:
        return []
    needed = np.unique(newer[:, None] - frames.ages)
    is_there = np.isin(needed, event.time)
    blank = [time for time in needed[is_there] if not _holds_data(event, time)]
    missing = needed[~is_there]
    causes = [f"{list_frames(blank)} without data"] if blank else []
    causes += [f"{list_frames(missing)} missing"] if len(missing) else []
    return [
        f"forecast from {format_time(issue_time)}, not from the {len(newer)} newer "
        f"frame{'s' if len(newer) > 1 else ''} up to {format_time(newer[-1])}: no forecast "
        f"can start from them, with {' and '.join(causes)}"
    ]


def _note_of_clock(issue_time: np.datetime64) -> list[str]:
    ahead = (issue_time - np.datetime64("now", "s")) / np.timedelta64(1, "m")
    if ahead <= _CLOCK_MINUTES:
        return []
    return [
        f"issue time {format_time(issue_time)} is {ahead:.0f} minutes ahead of the clock: are the "
        "data's times UTC, and is the clock right?"
    ]


def _refuse_cadence(event: RainEvent, frames: FrameConfig) -> NoReturn:
    """The error for frames that no forecast can start from: another cadence, or gaps."""
    minutes = frames.minutes_per_frame
    wanted = f"{frames.past_frames} frames {minutes} minutes apart"
    time, step = event.time, frame_step(event.time, minutes)
    if can_thin(step, minutes):
        raise InputError(
            f"{event.name}: its {len(time)} frames, {in_minutes(step)} apart from "
            f"{format_time(time[0])} to {format_time(time[-1])}, are too few or have gaps, "
            f"expected {wanted} among them; give more frames"
        )
    steps = np.diff(time) / np.timedelta64(1, "s")
    wrong = int(np.flatnonzero(steps != 60 * minutes)[0])  # else all would be complete
    is_even = (steps == steps[0]).all()
    remedy = "give frames without such breaks"
    if is_even:
        remedy = "forecast with a model of that cadence"
    raise InputError(
        f"{event.name}: frames {format_time(time[wrong])} and {format_time(time[wrong + 1])} are "
        f"{in_minutes(steps[wrong])} apart{' throughout' if is_even else ''}, expected {minutes} "
        f"minutes, or a fraction such as {minutes / 5:g} or {minutes / 2:g}, and {wanted} in a "
        f"row; {remedy}"
    )


def _as_rounded(event: RainEvent, issue_time: np.datetime64) -> np.datetime64:
    """The time of the frame that was read with that time, where there is one."""
    if event.time_as_read is None or issue_time in event.time:
        return issue_time
    found = event.time[event.time_as_read == issue_time]
    return found[0] if len(found) else issue_time


def _check_past(event: RainEvent, issue_time: np.datetime64, frames: FrameConfig) -> None:
    if issue_time not in event.time:
        nearest = event.time[np.abs(event.time - issue_time).argmin()]
        raise InputError(
            f"{event.name} has no frame at issue time {format_time(issue_time)}; the nearest is "
            f"{format_time(nearest)}, of frames from {format_time(event.time[0])} to "
            f"{format_time(event.time[-1])}"
        )
    needed = issue_time - frames.ages
    missing = needed[~np.isin(needed, event.time)]
    if len(missing):
        raise InputError(
            f"{event.name} lacks {', '.join(map(format_time, missing))}, needed for issue time "
            f"{format_time(issue_time)}: expected {frames.past_frames} frames "
            f"{frames.minutes_per_frame} minutes apart; choose another issue time"
        )
