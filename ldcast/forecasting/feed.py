"""A folder into which radar frames arrive, and which forecasts are due.

Frames may come late, twice, broken, half-written or not at all; what cannot be used is logged once
and skipped.
"""

import contextlib
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldcast.data.cadence import MAX_OFF, unrounded, with_times
from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent
from ldcast.data.readers.services import join_events
from ldcast.forecasting.times import ArrivedTimes
from ldcast.frames import FrameConfig
from ldcast.rain import as_float32

AHEAD = np.timedelta64(300, "s")  # what a clock may be wrong by
FILES_PER_LOOK = 8
MAY_MOVE = np.timedelta64(2 * MAX_OFF, "s")  # a time, when it is rounded
STUCK_FRAMES = 4  # of time, from the file of the newest frame to one that brings none
_NAME = re.compile(r"forecast_(\d{8}T\d{4})(\.\w+)")
_LEFTOVER = re.compile(r"\.forecast_.*\.\d+\.(tmp|new|old)")  # as machine/files.py names them


class _Frame(NamedTuple):
    """event: of one frame. path: the file that it came in; None once that file has others."""

    event: RainEvent
    path: Path | None


class _State(NamedTuple):
    """What shows from outside that a file has changed; of a folder, with all that is in it."""

    written: int
    changed: int
    size: int


class FrameFeed:
    """The newest frames in a folder, and the issue times whose past frames are all there.

    Times are as read until the past frames are joined: how to round them shows in many only.

    folder: each file in it holds one frame or more; hidden files are left alone.
    read: a file's event; raises for one that cannot be used. frames: the model's.
    num_kept: for how many issue times, by the clock, frames are kept: the newest ones.
    log: takes one line about each file that is skipped, and about a folder of no use.
    fields: names of what is kept besides rain, with each frame from its own time on.
    """

    def __init__(
        self,
        folder: Path,
        read: Callable[[Path], RainEvent],
        frames: FrameConfig,
        num_kept: int,
        log: Callable[[str], None],
        fields: Collection[str] = (),
    ) -> None:
        self.folder, self.read, self.frames = folder, read, frames
        self.num_kept, self.log, self.fields = num_kept, log, fields
        self._images: dict[np.datetime64, _Frame] = {}
        self._seen: dict[Path, _State] = {}  # at the last look
        self._read: dict[Path, _State] = {}  # when it was read, with or without success
        self._again: list[Path] = []  # to be tried again, the longest ago first
        self._logged: dict[Path, str] = {}  # the last line logged about a file
        self._dropped: set[np.datetime64] = set()  # issue times that are not to be tried again
        self._trouble = ""  # the last line logged about the whole folder
        self._times = ArrivedTimes(frames)
        self._used: dict[np.datetime64, np.datetime64] = {}  # rounded -> as read, of those kept
        self._is_faster = False  # frames are left out, and that was logged
        self._news = 0  # when the file was written that brought the newest frame
        self._is_stuck = False  # files came since, but bring none

    def look(self) -> bool:
        """Reads some files that have come and are complete, the newest first.

        Returns whether more of them wait that were not tried yet: a service looks for what is due,
        and whether it is to stop, before it reads on. Forgets frames that are too old.
        """
        try:
            states = self._list()
        except OSError as error:  # moved away, or its disk is not mounted
            line = f"cannot look into {self.folder} ({error.strerror}), trying again"
            self._complain("folder", line)
            return False
        # A file is complete if nothing was written to it since the last look.
        complete = [path for path, state in states.items() if self._seen.get(path) == state]
        new = [path for path in complete if self._read.get(path) != states[path]]
        again = [path for path in self._again if self._read[path] == states.get(path)]
        batch = [*new, *again][:FILES_PER_LOOK]
        in_vain = [path for path in batch if not self._take(path, states[path].written)]
        self._again = [path for path in again if path not in batch] + in_vain
        read = self._read | {path: states[path] for path in batch}
        self._read = {path: state for path, state in read.items() if path in states}
        self._seen = states
        self._logged = {path: line for path, line in self._logged.items() if path in states}
        self._choose()
        self._forget()
        more_wait = len(new) > FILES_PER_LOOK
        if not more_wait:
            self._complain(*self._why_none_comes())
        return more_wait

    def due(self) -> list[np.datetime64]:
        """Issue times that can be forecast, newest first."""
        return [time for time in sorted(self._used, reverse=True) if self._is_due(time)]

    def event(self, issue_time: np.datetime64) -> RainEvent:
        """The past frames of a time that is due, float32.

        Raises InputError where they are of different sizes or grids.
        """
        times, minutes = issue_time - self.frames.ages, self.frames.minutes_per_frame
        images = [self._images[self._used[time]].event for time in times]
        event = with_times(join_events(images, minutes), times, minutes)
        return replace(event, rain_rate=as_float32(event.rain_rate), name=self.folder.name)

    def drop(self, issue_time: np.datetime64) -> None:
        """Marks a time as done, unless one of its frames is written again."""
        self._dropped.add(issue_time)

    def _list(self) -> dict[Path, "_State"]:
        """The newest files and what they look like from outside, newest first.

        So few that a folder with years of frames is not read through, and so many that repeats do
        not crowd out what is needed. All of its files are listed, though: 105,120, a year of them,
        take two to three seconds of a CPU at each look.
        """
        states = {}
        for path in list(self.folder.iterdir()):
            if path.name.startswith("."):
                continue
            # An error: it was taken away since it was listed, or is a link to nowhere.
            with contextlib.suppress(OSError):
                states[path] = _state(path)
        newest = sorted(states, key=lambda path: (states[path], path.name), reverse=True)
        return {
            path: states[path] for path in newest[: 4 * (self.num_kept + self.frames.past_frames)]
        }

    def _take(self, path: Path, written: int) -> bool:
        """Reads a file; False if it should be tried again although nothing was written to it."""
        try:
            event = unrounded(self.read(path))
        except Exception as error:  # a broken file must not end the service, whatever is raised
            self._skip(path, str(error))
            # An error of the system, such as a missing permission, may pass; of a format it stays.
            # NetCDF numbers its own errors, too, below zero.
            number = getattr(error.__cause__ or error, "errno", None)
            return not (isinstance(number, int) and number > 0)
        is_future = event.time > np.datetime64("now") + AHEAD
        if is_future.any():  # would make all others look too old
            time = format_time(event.time[is_future][0])
            self._skip(path, f"{time} is in the future: is the clock right?")
            return False
        self._take_back(path, event.time)
        if event.time[-1] > self._times.newest():
            self._news, self._is_stuck = written, False
        else:
            self._is_stuck |= written > self._news + 60 * 10**9 * self._stuck_minutes
        if not any([self._put(event, index, path) for index in range(len(event.time))]):
            time = format_time(event.time[-1])
            self._skip(path, f"all its frames, up to {time}, came before")
        return True

    def _take_back(self, path: Path, times: np.ndarray) -> None:
        """Removes the frames of a file that was written again and no longer has them.

        times: those it has now. Frames from before them stay, since a file may always hold what is
        newest, but give way to the same from other files.
        """
        for time, frame in list(self._images.items()):
            if frame.path == path and time > times[0] and time not in times:
                del self._images[time]  # a wrong time that was corrected
                self._times.discard(time)
            elif frame.path == path and time < times[0]:
                self._images[time] = frame._replace(path=None)

    def _put(self, event: RainEvent, index: int, path: Path) -> bool:
        """Keeps a frame; False where its time came before in another file and was used."""
        time = event.time[index]
        dropped = {issue_time for issue_time in self._dropped if self._may_be_of(time, issue_time)}
        before = self._images.get(time)
        if before and before.path not in (None, path) and not dropped:
            return False
        # By an index, so a copy: a view would hold all frames of the file.
        frame = event.select(np.array([index]))
        names = [name for name in self.fields if name in event.fields]
        kept = {name: event.fields[name].since(time) for name in names}
        self._images[time] = _Frame(replace(frame, time_as_read=frame.time, fields=kept), path)
        self._times.add(time)
        self._dropped -= dropped
        return True

    def _skip(self, path: Path, why: str) -> None:
        line = f"skipped {path.name}: {' '.join(why.split())}"
        if self._logged.get(path) != line:
            self._logged[path] = line
            self.log(line)

    def _complain(self, trouble: str, line: str) -> None:
        """Of the whole folder, once until it is over; empty texts where nothing is wrong."""
        if trouble not in ("", self._trouble):
            self.log(line)
        self._trouble = trouble

    def _choose(self) -> None:
        """Chooses the frames to use; those of a faster feed that are not used are dropped."""
        used = self._times.used()
        faster = self._times.faster()
        if faster:
            kept = set(used.values())
            self._images = {time: frame for time, frame in self._images.items() if time in kept}
            if not self._is_faster:
                self.log(f"{self.folder}: {faster}")
            self._is_faster = True
        self._used = {rounded: time for rounded, time in used.items() if time in self._images}

    def _why_none_comes(self) -> tuple[str, str]:
        """What is wrong with the feed, by a name, and a line on it; empty texts for nothing."""
        if self._is_stuck:
            return "stuck", (
                f"no new forecast from {self.folder}: files came for {self._stuck_minutes} "
                f"minutes without a frame after {format_time(self._times.newest())}, expected one "
                f"each {self.frames.minutes_per_frame} minutes"
            )
        trouble, why = self._times.why_none()
        return trouble, f"no forecast from {self.folder}: {why}"

    def _forget(self) -> None:
        if not self._images:
            return
        # Those of one forecast and one that may be ahead of the clock are kept anyhow.
        num_past = self.frames.past_frames
        newest = sorted(self._images)[-num_past - 1 :]
        oldest = min(newest[0], newest[-1] - self.frames.step * (self.num_kept + num_past - 2))
        oldest -= MAY_MOVE
        self._images = {time: frame for time, frame in self._images.items() if time >= oldest}
        self._used = {time: read for time, read in self._used.items() if read in self._images}
        self._dropped = {time for time in self._dropped if time >= oldest}
        self._times.forget(oldest)

    def _is_due(self, issue_time: np.datetime64) -> bool:
        times = issue_time - self.frames.ages
        return issue_time not in self._dropped and all(time in self._used for time in times)

    def _may_be_of(self, time: np.datetime64, issue_time: np.datetime64) -> bool:
        """Whether a frame, by its time as read, may be among those of an issue time."""
        return bool(np.abs(issue_time - self.frames.ages - time).min() <= MAY_MOVE)

    @property
    def _stuck_minutes(self) -> int:
        return STUCK_FRAMES * self.frames.minutes_per_frame


def _state(path: Path) -> _State:
    """Raises OSError for what is not there."""
    found = [path.stat()]
    if stat.S_ISDIR(found[0].st_mode):  # a Zarr store, whose own entry shows nothing of its chunks
        found += [inside.stat() for inside in path.rglob("*")]
    return _State(
        max(status.st_mtime_ns for status in found),
        max(status.st_ctime_ns for status in found),
        sum(status.st_size for status in found),
    )


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
