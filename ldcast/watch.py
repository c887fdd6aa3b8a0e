"""A folder into which radar frames arrive: which forecasts are due, whatever the feed does.

Frames may come late, twice, broken, half-written or not at all; what cannot be used is said once
and passed over.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldcast.config import PAST_FRAMES
from ldcast.data.archive import CADENCE_MINUTES, RainEvent, format_time
from ldcast.errors import InputError

AHEAD = np.timedelta64(1, "h")  # what a clock may be wrong by
_NAME = re.compile(r"forecast_(\d{8}T\d{4})(\.\w+)")


class _Frame(NamedTuple):
    """rain_rate: (H, W) mm/h. path: the file that it came in."""

    rain_rate: np.ndarray
    grid: dict[str, Any]
    path: Path


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
        self._seen: dict[Path, tuple[int, int]] = {}  # size and time of change at the last look
        self._taken: dict[Path, tuple[int, int]] = {}  # the same, of files that were read
        self._dropped: set[np.datetime64] = set()  # issue times that are not to be tried again

    def look(self) -> None:
        """Reads the files that have come and are complete, and forgets frames that are too old."""
        states = self._list()
        for path, state in states.items():
            is_still = self._seen.get(path) == state  # nothing was written since the last look
            if is_still and self._taken.get(path) != state:
                self._taken[path] = state
                self._take(path)
        self._seen = states
        self._taken = {path: state for path, state in self._taken.items() if path in states}
        self._forget()

    def due(self) -> list[np.datetime64]:
        """Issue times that can be forecast, newest first."""
        return [time for time in sorted(self._frames, reverse=True) if self._is_due(time)]

    def event(self, issue_time: np.datetime64) -> RainEvent:
        """The four frames up to a time that is due. Raises InputError where they do not fit."""
        frames = [self._frames[time] for time in _times_of_past(issue_time)]
        sizes = sorted({frame.rain_rate.shape for frame in frames})
        if len(sizes) > 1:
            raise InputError(f"got frames of {len(sizes)} sizes, {sizes}, expected one")
        rain_rate = np.stack([frame.rain_rate for frame in frames])
        times = np.array(_times_of_past(issue_time))
        return RainEvent(rain_rate, times, frames[-1].grid, self.folder.name)

    def drop(self, issue_time: np.datetime64) -> None:
        """Makes a time due no more, unless one of its frames is written anew."""
        self._dropped.add(issue_time)

    def _list(self) -> dict[Path, tuple[int, int]]:
        """The newest files, oldest first, with size and time of change.

        So few that a folder with years of frames is no burden, and that repeats do not crowd out
        what is needed.
        """
        states = {}
        for path in self.folder.iterdir():
            try:
                status = path.stat()
            except FileNotFoundError:  # taken away since it was listed
                continue
            if not path.name.startswith("."):
                states[path] = (status.st_size, status.st_mtime_ns)
        newest = sorted(states, key=lambda path: (states[path][1], path.name))
        return {path: states[path] for path in newest[-4 * (self.num_kept + PAST_FRAMES) :]}

    def _take(self, path: Path) -> None:
        try:
            event = self.read(path)
        except Exception as error:  # a broken file must not end the service, whatever is raised
            self.tell(f"passed over {path.name}: {' '.join(str(error).split())}")
            return
        for time, rain_rate in zip(event.time, event.rain_rate, strict=True):
            if time > np.datetime64("now") + AHEAD:  # would make all others look too old
                self.tell(f"passed over {path.name}: {format_time(time)} is in the future")
                continue
            before = self._frames.get(time)
            if before is not None and before.path != path:
                self.tell(f"passed over {path.name}: the frame of {format_time(time)} came before")
                continue
            self._frames[time] = _Frame(rain_rate, event.grid, path)
            self._dropped -= {time + self._minutes(later) for later in range(PAST_FRAMES)}

    def _forget(self) -> None:
        if not self._frames:
            return
        oldest = _times_of_past(self._first_kept())[0]
        self._frames = {time: frame for time, frame in self._frames.items() if time >= oldest}
        self._dropped = {time for time in self._dropped if time >= oldest}

    def _is_due(self, issue_time: np.datetime64) -> bool:
        return (
            issue_time >= self._first_kept()
            and issue_time not in self._dropped
            and all(time in self._frames for time in _times_of_past(issue_time))
        )

    def _first_kept(self) -> np.datetime64:
        return max(self._frames) - self._minutes(self.num_kept - 1)

    @staticmethod
    def _minutes(num_frames: int) -> np.timedelta64:
        return np.timedelta64(60 * CADENCE_MINUTES * num_frames, "s")


def forecast_path(folder: Path, issue_time: np.datetime64, suffix: str) -> Path:
    """`forecast_20160711T2200.npz`, in UTC."""
    digits = re.sub(r"[-:]", "", str(np.datetime64(issue_time, "m")))
    return folder / f"forecast_{digits}{suffix}"


def surplus_forecasts(folder: Path, suffix: str, num_kept: int) -> list[Path]:
    """The forecasts to remove, oldest first, so that `num_kept` stay."""
    matches = [_NAME.fullmatch(path.name) for path in sorted(folder.iterdir())]
    forecasts = [folder / match[0] for match in matches if match and match[2] == suffix]
    return forecasts[: max(len(forecasts) - num_kept, 0)]


def _times_of_past(issue_time: np.datetime64) -> list[np.datetime64]:
    step = np.timedelta64(60 * CADENCE_MINUTES, "s")
    return [issue_time - age * step for age in range(PAST_FRAMES - 1, -1, -1)]
