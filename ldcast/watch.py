"""A folder into which radar frames arrive: which forecasts are due, whatever the feed does.

Frames may come late, twice, broken, half-written or not at all; what cannot be used is said once
and passed over.
"""

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldcast.config import PAST_FRAMES
from ldcast.data.archive import CADENCE_MINUTES, RainEvent, format_time
from ldcast.data.services import join_events
from ldcast.rain import as_float32

AHEAD = np.timedelta64(1, "h")  # what a clock may be wrong by
FILES_PER_LOOK = 8
_NAME = re.compile(r"forecast_(\d{8}T\d{4})(\.\w+)")
_LEFTOVER = re.compile(r"\.forecast_.*\.\d+\.(tmp|new|old)")  # as ldcast/files.py names them


class _Frame(NamedTuple):
    """event: of one frame. path: the file that it came in."""

    event: RainEvent
    path: Path


class _State(NamedTuple):
    """What tells from outside that a file has changed, or may be read now."""

    written: int
    changed: int
    size: int


class FrameFeed:
    """The newest frames in a folder, and the issue times whose four frames are all there.

    folder: each file in it holds one frame or more; hidden files are left alone.
    read: a file's event; raises for one that cannot be used.
    num_kept: how many issue times, by the clock, are due at most: the newest ones.
    tell: takes one line about each file that is passed over.
    """

    def __init__(
        self,
        folder: Path,
        read: Callable[[Path], RainEvent],
        num_kept: int,
        tell: Callable[[str], None],
    ) -> None:
        self.folder, self.read, self.num_kept, self.tell = folder, read, num_kept, tell
        self._frames: dict[np.datetime64, _Frame] = {}
        self._seen: dict[Path, _State] = {}  # at the last look
        self._taken: dict[Path, _State] = {}  # of files that need not be read again
        self._told: dict[Path, str] = {}  # what was said last of a file
        self._dropped: set[np.datetime64] = set()  # issue times that are not to be tried again

    def look(self) -> bool:
        """Reads some files that have come and are complete, the newest first.

        Returns whether more of them wait: a service looks for what is due, and whether it is to
        stop, before it reads on. Forgets frames that are too old.
        """
        states = self._list()
        # A file is complete if nothing was written to it since the last look.
        complete = [path for path, state in states.items() if self._seen.get(path) == state]
        waiting = [path for path in complete if self._taken.get(path) != states[path]]
        waiting.sort(key=self._told.__contains__)  # what failed before comes after the others
        for path in waiting[:FILES_PER_LOOK]:
            if self._take(path):
                self._taken[path] = states[path]
        self._seen = states
        self._taken = {path: state for path, state in self._taken.items() if path in states}
        self._told = {path: line for path, line in self._told.items() if path in states}
        self._forget()
        return len(waiting) > FILES_PER_LOOK

    def due(self) -> list[np.datetime64]:
        """Issue times that can be forecast, newest first."""
        return [time for time in sorted(self._frames, reverse=True) if self._is_due(time)]

    def event(self, issue_time: np.datetime64) -> RainEvent:
        """The four frames up to a time that is due, float32.

        Raises InputError where they are of different sizes or grids.
        """
        frames = [self._frames[time].event for time in times_of_past(issue_time)]
        event = join_events(frames)
        return replace(event, rain_rate=as_float32(event.rain_rate), name=self.folder.name)

    def drop(self, issue_time: np.datetime64) -> None:
        """Makes a time due no more, unless one of its frames is written anew."""
        self._dropped.add(issue_time)

    def _list(self) -> dict[Path, "_State"]:
        """The newest files and what they look like from outside, newest first.

        So few that a folder with years of frames is no burden, and so many that repeats do not
        crowd out what is needed.
        """
        states = {}
        for path in self.folder.iterdir():
            try:
                status = path.stat()
            except OSError:  # taken away since it was listed, or a link to nowhere
                continue
            if not path.name.startswith("."):
                states[path] = _State(status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        newest = sorted(states, key=lambda path: (states[path], path.name), reverse=True)
        return {path: states[path] for path in newest[: 4 * (self.num_kept + PAST_FRAMES)]}

    def _take(self, path: Path) -> bool:
        """Reads a file; False if it should be tried again although nothing was written to it."""
        try:
            event = self.read(path)
        except Exception as error:  # a broken file must not end the service, whatever is raised
            self._pass_over(path, str(error))
            # An error of the system, such as a missing permission, may pass; of a format it stays.
            return getattr(error.__cause__ or error, "errno", None) is None
        is_future = event.time > np.datetime64("now") + AHEAD
        if is_future.any():  # would make all others look too old
            time = format_time(event.time[is_future][0])
            self._pass_over(path, f"{time} is in the future: is the clock right?")
            return False
        for index, time in enumerate(event.time):
            before = self._frames.get(time)
            if before is not None and before.path != path:
                self._pass_over(path, f"the frame of {format_time(time)} came before")
                continue
            one = slice(index, index + 1)
            frame = replace(event, rain_rate=event.rain_rate[one], time=event.time[one])
            self._frames[time] = _Frame(frame, path)
            self._dropped -= {time + self._minutes(later) for later in range(PAST_FRAMES)}
        return True

    def _pass_over(self, path: Path, why: str) -> None:
        line = f"passed over {path.name}: {' '.join(why.split())}"
        if self._told.get(path) != line:
            self._told[path] = line
            self.tell(line)

    def _forget(self) -> None:
        if not self._frames:
            return
        oldest = times_of_past(self._first_kept())[0]
        self._frames = {time: frame for time, frame in self._frames.items() if time >= oldest}
        self._dropped = {time for time in self._dropped if time >= oldest}

    def _is_due(self, issue_time: np.datetime64) -> bool:
        times = times_of_past(issue_time)
        return issue_time not in self._dropped and all(time in self._frames for time in times)

    def _first_kept(self) -> np.datetime64:
        return max(self._frames) - self._minutes(self.num_kept - 1)

    @staticmethod
    def _minutes(num_frames: int) -> np.timedelta64:
        return np.timedelta64(60 * CADENCE_MINUTES * num_frames, "s")


def forecast_path(folder: Path, issue_time: np.datetime64, suffix: str) -> Path:
    """`forecast_20160711T2200.npz`, in UTC."""
    digits = re.sub(r"[-:]", "", str(np.datetime64(issue_time, "m")))
    return folder / f"forecast_{digits}{suffix}"


def next_time(
    due: Iterable[np.datetime64], folder: Path, suffix: str, num_kept: int
) -> np.datetime64 | None:
    """The first of the times that is not forecast yet and would be among the `num_kept` newest."""
    names = [path.name for path in _forecasts(folder, suffix)]
    oldest = names[-num_kept] if len(names) >= num_kept else ""
    for issue_time in due:
        name = forecast_path(folder, issue_time, suffix).name
        if name not in names and name > oldest:
            return issue_time
    return None


def surplus_forecasts(folder: Path, suffix: str, num_kept: int) -> list[Path]:
    """The forecasts to remove, oldest first, so that `num_kept` stay."""
    forecasts = _forecasts(folder, suffix)
    return forecasts[: max(len(forecasts) - num_kept, 0)]


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed service left half-written; the folder must be held by `lock_folder`."""
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _forecasts(folder: Path, suffix: str) -> list[Path]:
    """Those of this suffix, oldest first."""
    matches = [_NAME.fullmatch(path.name) for path in sorted(folder.iterdir())]
    return [folder / match[0] for match in matches if match and match[2] == suffix]


def times_of_past(issue_time: np.datetime64) -> list[np.datetime64]:
    """Of the four frames that a forecast starts from, oldest first."""
    step = np.timedelta64(60 * CADENCE_MINUTES, "s")
    return [issue_time - age * step for age in range(PAST_FRAMES - 1, -1, -1)]
