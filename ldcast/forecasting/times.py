"""Times of the frames that came to a feed: how they are rounded, and which of them are used."""

import numpy as np

from ldcast.data.cadence import (
    MAX_OFF,
    describe_faster,
    frame_step,
    in_minutes,
    is_usable,
    newest_complete,
    rounded_times,
)
from ldcast.data.checks import format_time
from ldcast.frames import FrameConfig

NUM_RECENT = 12  # times from which the present spacing of frames is estimated
REMEMBERED = 18  # frames of the model's cadence, for how long times are remembered
_LATE = 2  # such frames


class ArrivedTimes:
    """The times of a feed's frames as they were read, those of frames that are not kept, too.

    They are judged together: one time alone does not show whether it is late or of another cadence.

    frames: the model's.
    """

    def __init__(self, frames: FrameConfig) -> None:
        self._frames, self._minutes = frames, frames.minutes_per_frame
        self._times: set[np.datetime64] = set()
        self._phase: int | None = None  # s from the grid of the minutes, of those used of a faster

    def add(self, time: np.datetime64) -> None:
        self._times.add(time)

    def discard(self, time: np.datetime64) -> None:
        self._times.discard(time)

    def newest(self) -> np.datetime64:
        return max(self._times, default=np.datetime64(0, "s"))

    def forget(self, oldest: np.datetime64) -> None:
        """Forgets times before `oldest`, but for some that show the cadence."""
        oldest = min(oldest, self.newest() - REMEMBERED * self._frames.step)
        recent = sorted(self._times)[-NUM_RECENT:]
        self._times = {*recent, *(time for time in self._times if time >= oldest)}

    def used(self) -> dict[np.datetime64, np.datetime64]:
        """Rounded time -> time as read; of a faster feed only those on one grid of the minutes."""
        times = self._sorted()
        rounded = rounded_times(times, self._minutes)
        is_used = np.ones(len(times), bool)
        if not self.faster():
            self._phase = None
        else:
            phases = _phases(rounded, 60 * self._minutes)
            self._phase = _choose_phase(rounded, phases, self._phase, self._frames)
            if self._phase is not None:
                is_used = phases == self._phase
        return dict(zip(rounded[is_used], times[is_used], strict=True))

    def faster(self) -> str:
        """A line on a feed of which frames are left out; empty for others."""
        times = self._sorted()
        if len(times) < self._frames.past_frames:
            return ""
        return describe_faster(self._step_of(times[-NUM_RECENT:]), self._minutes)

    def why_none(self) -> tuple[str, str]:
        """What is wrong with the frames since the last that could be used: a name, and a line.

        Empty texts where nothing is: a feed that is starting, or was interrupted, may lack any
        frames, but not all be evenly too far apart or too close, nor go on like that.
        """
        num_past, minutes = self._frames.past_frames, self._minutes
        times = rounded_times(self._sorted(), minutes)
        complete = newest_complete(times, self._frames)
        if complete is not None:
            times = times[times > complete]
        if len(times) < num_past:
            return "", ""
        gaps = np.diff(times) / np.timedelta64(1, "s")
        last = gaps[1 - num_past :]
        is_even = np.ptp(last) <= 2 * MAX_OFF
        steps = (self._step_of(part) for part in (times[-num_past:], self._sorted()[-NUM_RECENT:]))
        step, recent_step = steps
        is_of_use = is_usable(step, minutes) or is_usable(recent_step, minutes)
        expected = (
            f"expected {num_past} such in a row, every {minutes}, {minutes / 2:g} or "
            f"{minutes / 5:g} minutes"
        )
        if gaps.min() > 60 * minutes + MAX_OFF or (is_even and not is_of_use):
            apart = f", but {in_minutes(step)}" if is_even else ""
            return "cadence", f"no two of its frames are {minutes} minutes apart{apart}; {expected}"
        # Twice as many as are needed, each in minutes of its own.
        if len(np.unique(times.astype(np.int64) // (60 * minutes))) >= 2 * num_past:
            return "gaps", (
                f"of its {len(times)} frames from {format_time(times[0])} to "
                f"{format_time(times[-1])} no {num_past} are {minutes} minutes apart; {expected}"
            )
        return "", ""

    def _step_of(self, times: np.ndarray) -> float:
        return frame_step(times, self._minutes)

    def _sorted(self) -> np.ndarray:
        return np.array(sorted(self._times), "datetime64[s]")


def _phases(time: np.ndarray, step: int) -> np.ndarray:
    """Seconds from the nearest multiple of `step` seconds."""
    return (time.astype(np.int64) + step // 2) % step - step // 2


def _choose_phase(
    time: np.ndarray, phases: np.ndarray, before: int | None, frames: FrameConfig
) -> int | None:
    """The one used before, while its frames come; else the nearest to the grid of the minutes.

    Of two, the one that has all past frames. None where neither that grid's nor those came.
    """
    if before is not None and (time[phases == before] > time[-1] - _LATE * frames.step).any():
        return before
    candidates = sorted(set(phases.tolist()), key=abs)
    for phase in candidates:
        if newest_complete(time[phases == phase], frames) is not None:
            return phase
    return 0 if 0 in candidates else None
