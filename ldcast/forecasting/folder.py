"""The newest past frames in a folder of files, or those up to an issue time, of few files read.

Only its contents say which time a file is of. Names mostly say so, too: they give the order in
which files are read, and when to stop, as long as the files that were read agree with their names.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from ldcast.data.cadence import MAX_OFF, newest_complete, round_event, rounded_times
from ldcast.data.event import RainEvent
from ldcast.data.past import past_event
from ldcast.data.pieces import PieceError
from ldcast.data.readers.services import Reader, join_events
from ldcast.errors import InputError
from ldcast.frames import FrameConfig

NUM_NAMED = 3  # skipped files that have a note each
_NEAR = np.timedelta64(2 * MAX_OFF, "s")  # as far as a time may move
# Year to minute, and perhaps seconds; or, at MeteoSwiss, year, day of the year, hour and minute.
_DATE = re.compile(
    r"(?<!\d)(?P<date>(?:19|20)\d\d[-_]?\d\d[-_]?\d\d)[-_T]?(?P<time>\d\d[-_:]?\d\d)([-_:]?\d\d)?(?!\d)"
)
_DAY_OF_YEAR = re.compile(r"(?<!\d)\d{9}(?!\d)")


def frames_of_folder(
    folder: Path, read: Reader, frames: FrameConfig, issue_time: np.datetime64 | None = None
) -> RainEvent:
    """The frames that a forecast from `issue_time`, None for the newest, starts from, among others.

    frames: the model's.
    Files that cannot be read are skipped, and notes name them; hidden ones are left alone.
    Raises InputError where none can be read, where the frames are not there, and as `join_events`.
    """
    search = _Search(folder, read, frames, issue_time)
    while not search.is_done():
        search.read_next()
    event = search.event()
    return replace(event, notes=(*event.notes, *search.notes_of_skipped()))


def time_in_name(name: str) -> np.datetime64 | None:
    """The last date with hours and minutes in a file's name; None without one."""
    texts = [
        (re.sub(r"\D", "", found["date"] + found["time"]), "%Y%m%d%H%M")
        for found in _DATE.finditer(name)
    ] or [(found[0], "%y%j%H%M") for found in _DAY_OF_YEAR.finditer(name)]
    for text, form in reversed(texts):
        try:
            return np.datetime64(datetime.strptime(text, form), "s")
        except ValueError:  # digits of something else
            continue
    return None


class _Search:
    """Which files were read, which wait, and what is kept of those that were."""

    def __init__(
        self, folder: Path, read: Reader, frames: FrameConfig, issue_time: np.datetime64 | None
    ) -> None:
        self.folder, self.read, self.frames = folder, read, frames
        self.issue_time = None if issue_time is None else np.datetime64(issue_time, "s")
        paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        if not paths:
            raise InputError(f"{folder} has no files, expected some to read")
        named = {path: time_in_name(path.name) for path in paths}
        self.undated = [path for path, time in named.items() if time is None]
        self.dated = {path: time for path, time in named.items() if time is not None}
        self.kept: list[RainEvent] = []
        self.blank: set[np.datetime64] = set()  # of the times, those of frames without data
        self.times: list[np.datetime64] = []  # of all frames, kept or not
        self.later: list[np.timedelta64] = []  # than its name says, of a file's last frame
        self.usually_later = np.timedelta64(0, "s")
        self.skipped: list[tuple[Path, str]] = []

    def read_next(self) -> None:
        """Reads one more file, the most promising, and keeps what may be needed of all."""
        path = self.undated.pop() if self.undated else min(self.dated, key=self._distance)
        named = self.dated.pop(path, None)
        try:
            event = self.read(path)
        except PieceError:  # of what was asked for, so the other files have it neither
            raise
        except (InputError, OSError) as error:
            self.skipped.append((path, " ".join(str(error).split())))
            return
        self.times += list(event.time)
        self.blank.update(event.time[np.isnan(event.rain_rate).all(axis=(1, 2))])
        if named is not None:
            self.later.append(event.time[-1] - named)
            self.usually_later = np.median(self.later).astype("timedelta64[s]")
        self.kept = list(self._needed([*self.kept, event]))

    def is_done(self) -> bool:
        """Whether no file that was not read can have a frame that is wanted."""
        if self.undated or not self.dated:
            return not self.undated
        if not self._is_borne_out():
            return False
        if self.issue_time is None:
            found = self._newest()
            newest = max(self.dated.values()) + max(self.later)
            return found is not None and newest <= found
        nearest = min(map(self._distance, self.dated))
        return nearest >= (_NEAR if self._has_issue_time() else 2 * self.frames.step)

    def event(self) -> RainEvent:
        """What was kept, in order of time, rounded."""
        if not self.times:
            raise InputError(
                f"{self.folder}: none of its {len(self.skipped)} files can be read; the first: "
                f"{self.skipped[0][1]}"
            )
        if self.kept and (self.issue_time is None or self._has_issue_time()):
            kept = sorted(self.kept, key=lambda event: event.time[0])
            minutes = self.frames.minutes_per_frame
            event = round_event(join_events(kept, minutes), minutes)
            if newest_complete(event.time, self.frames) is not None:
                return event
        self._read_ends()
        times = self._rounded(np.unique(self.times))
        nothing = RainEvent(np.empty((len(times), 0, 0), np.float32), times, name=str(self.folder))
        past_event(nothing, self.frames, self.issue_time)  # raises
        raise InputError(f"{self.folder} changed while it was read; try again")

    def _read_ends(self) -> None:
        """Reads the oldest and the newest of the files that wait, to learn what there is."""
        ends = sorted(self.dated, key=self.dated.__getitem__)
        self.dated = {path: self.dated[path] for path in {*ends[:1], *ends[-1:]}}
        while self.dated:
            self.read_next()

    def notes_of_skipped(self) -> list[str]:
        """A line for each of few, one for more."""
        if len(self.skipped) <= NUM_NAMED:
            return [f"skipped {path.name}: {why}" for path, why in self.skipped]
        names = ", ".join(path.name for path, _ in self.skipped[:NUM_NAMED])
        return [f"skipped {len(self.skipped)} files, such as {names}: {self.skipped[0][1]}"]

    def _distance(self, path: Path) -> np.timedelta64:
        """How far a file seems to be from what is wanted."""
        time = self.dated[path] + self.usually_later
        if self.issue_time is None:
            return -(time - np.datetime64(0, "s"))
        return max(
            self.issue_time - self.frames.ages[0] - time,
            time - self.issue_time,
            np.timedelta64(0, "s"),
        )

    def _is_borne_out(self) -> bool:
        """Whether the names of files that were read say the same as their contents, or as much."""
        return len(self.later) > 1 and max(self.later) - min(self.later) < self.frames.step

    def _newest(self) -> np.datetime64 | None:
        """The newest issue time whose frames are kept and hold data."""
        times = [time for event in self.kept for time in event.time if time not in self.blank]
        rounded = self._rounded(np.unique(np.array(times, "datetime64[s]")))
        return newest_complete(rounded, self.frames)

    def _kept_times(self) -> np.ndarray:
        times = [event.time for event in self.kept]
        return self._rounded(np.unique(np.concatenate(times))) if times else np.array([], "M8[s]")

    def _rounded(self, times: np.ndarray) -> np.ndarray:
        return rounded_times(times, self.frames.minutes_per_frame)

    def _has_issue_time(self) -> bool:
        needed = self.issue_time - self.frames.ages
        return bool(np.isin(needed, self._kept_times()).all())

    def _needed(self, events: list[RainEvent]) -> Iterator[RainEvent]:
        """The parts of events that may be needed yet."""
        first, last = self.issue_time, self.issue_time
        if self.issue_time is None:
            self.kept = events
            first, last = self._newest(), None
        for event in events:
            is_needed = np.ones(len(event.time), bool)
            if first is not None:
                is_needed &= event.time >= first - self.frames.ages[0] - _NEAR
            if last is not None:
                is_needed &= event.time <= last + _NEAR
            if is_needed.all():
                yield event
            elif is_needed.any():
                yield event.select(np.flatnonzero(is_needed))  # a copy: a view holds all
