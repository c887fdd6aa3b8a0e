"""Runs of frames that a window may lie in: without gaps, and all of the same cadence."""

from typing import NamedTuple

import numpy as np

from ldcast.data.archive.sidecar import State

# Why a window of frames is not offered.
LOST = {
    State.NOT_INDEXED: "frames that are not indexed",
    State.BLANK: "frames without data",
    State.UNREADABLE: "frames that cannot be read",
    State.NO_RAIN: "frames whose values are no rain",
    State.LISTED_MISSING: "frames that the archive calls missing",
}
MISSING, CADENCE, ELSEWHERE = "missing times", "another cadence", "days of another part"


class Runs(NamedTuple):
    """Frames in a row.

    bounds: (N, 2) int, first frame of each run and the one after its last.
    lost: how many windows that start at some frame of the part are not offered, by the reason that
        comes first. num_windows: that are.
    """

    bounds: np.ndarray
    lost: dict[str, int]
    num_windows: int


def find_runs(
    time: np.ndarray, state: np.ndarray, is_of_part: np.ndarray, num_frames: int, minutes: int
) -> Runs:
    """The runs of at least `num_frames` frames, `minutes` apart.

    time: (T,) datetime64[s]. state: (T,) of `State`. is_of_part: (T,) bool, the frames to look at.
    """
    is_usable = is_of_part & (state == State.GOOD)
    steps = np.diff(time).astype(np.int64)
    is_step = steps == 60 * minutes
    ends = np.concatenate([~(is_usable[:-1] & is_usable[1:] & is_step), [True]])
    last = np.flatnonzero(ends)
    first = np.concatenate([[0], last[:-1] + 1])
    bounds = np.stack([first, last + 1], axis=1)
    is_long = (last + 1 - first >= num_frames) & is_usable[first]
    bounds = bounds[is_long]
    num_windows = int((bounds[:, 1] - bounds[:, 0] - num_frames + 1).sum())
    return Runs(bounds, _lost(is_of_part, state, steps, num_frames, minutes), num_windows)


def describe_lost(runs: Runs) -> str:
    """One line on how many windows are not offered, and why."""
    if not runs.lost:
        return f"{runs.num_windows:,} windows in time"
    lost = ", ".join(f"{count:,} by {reason}" for reason, count in runs.lost.items())
    return f"{runs.num_windows:,} windows in time; lost are {lost}"


def _lost(
    is_of_part: np.ndarray, state: np.ndarray, steps: np.ndarray, num_frames: int, minutes: int
) -> dict[str, int]:
    """Windows that start at each frame of the part, by the first reason against them."""
    reasons = [*LOST.values(), ELSEWHERE, MISSING, CADENCE]
    of_state = {int(state): index for index, state in enumerate(LOST)}
    of_frame = np.full(len(state), -1, np.int8)
    for number, index in of_state.items():
        of_frame[state == number] = index
    of_frame[~is_of_part] = reasons.index(ELSEWHERE)
    of_step = np.where(_is_gap(steps, minutes), reasons.index(MISSING), reasons.index(CADENCE))
    of_step[steps == 60 * minutes] = -1
    # Frames and the steps after them, in order; beyond the end there is no window to be lost.
    obstacles = np.full(2 * len(state) - 1, -1, np.int8)
    obstacles[::2], obstacles[1::2] = of_frame, of_step
    at = np.arange(len(obstacles), dtype=np.int32)
    at[obstacles < 0] = len(obstacles)
    following = np.minimum.accumulate(at[::-1])[::-1][::2]
    starts = np.flatnonzero(is_of_part)
    starts = starts[starts + num_frames <= len(state)]
    found = following[starts]
    found = found[found <= 2 * (starts + num_frames - 1)]
    counts = np.bincount(obstacles[found], minlength=len(reasons))
    return {reason: int(n) for reason, n in zip(reasons, counts, strict=True) if n}


def _is_gap(steps: np.ndarray, minutes: int) -> np.ndarray:
    """(T - 1,) bool: steps over missing times; others are those of another cadence.

    Such are no multiple of the minutes, or repeat.
    """
    repeats = np.zeros(len(steps), bool)
    is_same = steps[1:] == steps[:-1]
    repeats[1:] |= is_same
    repeats[:-1] |= is_same
    return (steps > 60 * minutes) & (steps % (60 * minutes) == 0) & ~repeats
