"""Times of the frames that came to a feed: how they are rounded, and which of them are used."""

import numpy as np

from ldcast.config import PAST_FRAMES
from ldcast.data.archive import CADENCE_MINUTES, format_time
from ldcast.data.cadence import (
    MAX_OFF,
    STEP,
    describe_faster,
    frame_step,
    in_minutes,
    is_usable,
    newest_complete,
    rounded_times,
)

NUM_RECENT = 12  # times that tell how far apart frames are now
NUM_IN_VAIN = 2 * PAST_FRAMES  # frames, 5 minutes or more apart, without one that could be used
_LATE = np.timedelta64(2 * STEP, "s")
REMEMBERED = np.timedelta64(90, "m")
_EXPECTED = f"expected {PAST_FRAMES} such in a row, every {CADENCE_MINUTES}, 2.5 or 1 minutes"


class ArrivedTimes:
    """The times of a feed's frames as they were read, those of frames that are not kept, too.

    They are judged together: one time does not tell whether it is late, or of another cadence.
    """

    def __init__(self) -> None:
        self._times: set[np.datetime64] = set()
        self._phase: int | None = None  # s from whole 5 minutes, of those used of a faster feed

    def add(self, time: np.datetime64) -> None:
        self._times.add(time)

    def discard(self, time: np.datetime64) -> None:
        self._times.discard(time)

    def newest(self) -> np.datetime64:
        return max(self._times, default=np.datetime64(0, "s"))

    def forget(self, oldest: np.datetime64) -> None:
        """Forgets times before `oldest`, but for some that tell the cadence."""
        oldest = min(oldest, self.newest() - REMEMBERED)
        recent = sorted(self._times)[-NUM_RECENT:]
        self._times = {*recent, *(time for time in self._times if time >= oldest)}

    def used(self) -> dict[np.datetime64, np.datetime64]:
        """Rounded time -> time as read; of a faster feed only those on one 5-minute grid."""
        times = self._sorted()
        rounded = rounded_times(times)
        is_used = np.ones(len(times), bool)
        if not self.faster():
            self._phase = None
        else:
            phases = _phases(rounded)
            self._phase = _choose_phase(rounded, phases, self._phase)
            if self._phase is not None:
                is_used = phases == self._phase
        return dict(zip(rounded[is_used], times[is_used], strict=True))

    def faster(self) -> str:
        """A line on a feed of which frames are left out; empty for others."""
        times = self._sorted()
        return describe_faster(frame_step(times[-NUM_RECENT:])) if len(times) >= PAST_FRAMES else ""

    def why_none(self) -> tuple[str, str]:
        """What is wrong with the frames since the last that could be used: a name, and a line.

        Empty texts where nothing is: a feed that is starting, or was interrupted, may lack any
        frames, but not all be evenly too far apart or too close, nor go on like that.
        """
        times = rounded_times(self._sorted())
        complete = newest_complete(times)
        if complete is not None:
            times = times[times > complete]
        if len(times) < PAST_FRAMES:
            return "", ""
        gaps = np.diff(times) / np.timedelta64(1, "s")
        last = gaps[1 - PAST_FRAMES :]
        is_even = np.ptp(last) <= 2 * MAX_OFF
        step = frame_step(times[-PAST_FRAMES:])
        is_of_use = is_usable(step) or is_usable(frame_step(self._sorted()[-NUM_RECENT:]))
        if gaps.min() > STEP + MAX_OFF or (is_even and not is_of_use):
            apart = f", but {in_minutes(step)}" if is_even else ""
            return "cadence", (
                f"no two of its frames are {CADENCE_MINUTES} minutes apart{apart}; {_EXPECTED}"
            )
        if len(np.unique(times.astype(np.int64) // STEP)) >= NUM_IN_VAIN:
            return "gaps", (
                f"of its {len(times)} frames from {format_time(times[0])} to "
                f"{format_time(times[-1])} no {PAST_FRAMES} are {CADENCE_MINUTES} minutes apart; "
                f"{_EXPECTED}"
            )
        return "", ""

    def _sorted(self) -> np.ndarray:
        return np.array(sorted(self._times), "datetime64[s]")


def _phases(time: np.ndarray) -> np.ndarray:
    """Seconds from the nearest whole 5 minutes."""
    return (time.astype(np.int64) + STEP // 2) % STEP - STEP // 2


def _choose_phase(time: np.ndarray, phases: np.ndarray, before: int | None) -> int | None:
    """The one used before, while its frames come; else the nearest to whole 5 minutes.

    Of two, the one that has four frames. None where neither whole 5 minutes nor four frames came.
    """
    if before is not None and (time[phases == before] > time[-1] - _LATE).any():
        return before
    candidates = sorted(set(phases.tolist()), key=abs)
    for phase in candidates:
        if newest_complete(time[phases == phase]) is not None:
            return phase
    return 0 if 0 in candidates else None
