"""Radar images on one domain, in order of time: what readers make and all else slices."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ldcast.data.checks import format_time
from ldcast.data.stored import StoredRain
from ldcast.errors import InputError

MAX_OFF = 30  # s, from the grid, of a time that is rounded to it
# Attributes of an event.
PER_FRAME = ("rain_rate", "time", "interval_start", "time_as_read", "frame_source")


@dataclass(frozen=True)
class Field:
    """An array beside the rain, on its grid.

    values: (F, c, H, W), NaN = not known; c is 1, or 2 for a vector (down, right).
    time: (F,) datetime64[s], increasing; None, with F = 1, for what does not change.
    """

    values: np.ndarray
    time: np.ndarray | None = None

    def cut(self, rows: slice, columns: slice) -> "Field":
        """A part of its pixels, a copy."""
        return Field(self.values[..., rows, columns].copy(), self.time)

    def since(self, time: np.datetime64) -> "Field":
        """What is of that time or later, a copy; the field itself where it does not change.

        Times that rounding may move to that of a frame count.
        """
        if self.time is None:
            return self
        is_kept = self.time >= time - np.timedelta64(2 * MAX_OFF, "s")
        return Field(self.values[is_kept], self.time[is_kept])

    def retimed(self, before: np.ndarray, now: np.ndarray) -> "Field":
        """As its event's frames, which had the times `before`, are rounded to `now`.

        Times of frames move with them, and those after the last one as it does, if they are whole
        steps from it: what has other times, such as those of a weather model, has no such clock.
        """
        if self.time is None or len(before) < 2:
            return self
        moves, step = now - before, np.median(np.diff(now))
        nearest = np.abs(self.time[:, None] - before).argmin(axis=1)
        is_of_frames = (self.time - before[nearest]) % step == np.timedelta64(0, "s")
        return Field(self.values, np.where(is_of_frames, self.time + moves[nearest], self.time))

    def at(self, times: np.ndarray) -> np.ndarray:
        """(len(times), c, H, W), or (1, c, H, W) of what does not change; a view where it can be.

        Raises InputError where a time is missing.
        """
        if self.time is None:
            return self.values
        missing = times[~np.isin(times, self.time)]
        if len(missing):
            raise InputError(
                f"it has no frame of {format_time(missing[0])}, expected one for each of "
                f"{len(times)} from {format_time(times[0])} to {format_time(times[-1])}, while it "
                f"goes from {format_time(self.time[0])} to {format_time(self.time[-1])}"
            )
        index = np.searchsorted(self.time, times)
        first, last = int(index[0]), int(index[-1])
        is_run = last - first + 1 == len(times)
        return self.values[first : last + 1] if is_run else self.values[index]


@dataclass(frozen=True)
class RainEvent:
    """A stretch of radar images on one domain, in order of time.

    rain_rate: (T, H, W) float16 or float32, mm/h, row 0 = north, NaN = no data; an array, or frames
        of a store, which are read when they are sliced by frames, rows and columns.
    time: (T,) datetime64[s] UTC, the time of each frame, strictly increasing.
    grid: what the file says of its grid (`pixel_size_m`, `projection`, `x1 y1 x2 y2`, ...), to be
        copied into forecasts.
    name: short, for messages and tables.
    source: where it was read from, the same for all its spans; empty where it was not read.
    interval_start: (T,) datetime64[s], where the frames are amounts of rain made into rates, or
        means: when the interval of each began, which ends at `time`; NaT for a frame of an instant.
        None where all are.
    time_as_read: (T,) datetime64[s], the times before they were rounded; None where none was.
    frame_source: (T,) text, where each frame was read from, of frames from several files.
    notes: what the user should know of how it was read, one line each.
    fields: what it carries besides rain, by name, on the same pixels but with times of their own.
    """

    rain_rate: np.ndarray | StoredRain
    time: np.ndarray
    grid: dict[str, Any] = field(default_factory=dict)
    name: str = "event"
    source: str = ""
    interval_start: np.ndarray | None = None
    time_as_read: np.ndarray | None = None
    frame_source: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    fields: dict[str, Field] = field(default_factory=dict)

    def select(self, frames: slice | np.ndarray) -> "RainEvent":
        """Some of the frames, by a slice (then as views, unread) or by their indices."""
        arrays = {name: getattr(self, name) for name in PER_FRAME}
        parts = {
            name: None if of is None else of[frames]
            for name, of in arrays.items()
            if name != "rain_rate"
        }
        is_unread = self.is_stored and isinstance(frames, slice)
        rain_rate = self.rain_rate.select(frames) if is_unread else self.rain_rate[frames]
        return replace(self, rain_rate=rain_rate, **parts)

    @property
    def sources(self) -> list[str]:
        """Of each frame, where it was read from; empty texts where it was not read."""
        if self.frame_source is None:
            return [self.source] * len(self.time)
        return self.frame_source.tolist()

    @property
    def is_stored(self) -> bool:
        """Whether its rain is read only when it is sliced."""
        return isinstance(self.rain_rate, StoredRain)


def notes_of(events: list[RainEvent]) -> list[str]:
    """What the user should know of how the events were read, one line each, none twice."""
    lines = [f"{event.name}: {note}" for event in events for note in event.notes]
    return list(dict.fromkeys(lines))


def check_apart(train: list[RainEvent], validation: list[RainEvent]) -> None:
    """Raises InputError where a training and a validation event share a frame."""
    of_source = _times_by_source(validation)
    for source, times in _times_by_source(train).items():
        _refuse_shared(
            np.intersect1d(times, of_source.get(source, times[:0])),
            source,
            "training and validation",
        )


def check_distinct(events: list[RainEvent]) -> None:
    """Raises InputError where two of the events share a frame."""
    for source, times in _times_by_source(events).items():
        found, counts = np.unique(times, return_counts=True)
        _refuse_shared(found[counts > 1], source, "two of the events")


def _times_by_source(events: list[RainEvent]) -> dict[str, np.ndarray]:
    """Of those that were read: archives have thousands of events."""
    times: dict[str, list[np.ndarray]] = {}
    for event in events:
        if event.source:
            times.setdefault(event.source, []).append(event.time)
    return {source: np.concatenate(parts) for source, parts in times.items()}


def _refuse_shared(shared: np.ndarray, source: str, which: str) -> None:
    if len(shared):
        raise InputError(
            f"{which} share {len(shared)} frames of {source}, from "
            f"{format_time(shared[0])} to {format_time(shared[-1])}: choose other spans"
        )


def list_frames(times: Sequence[np.datetime64]) -> str:
    """Of when frames are, for messages: up to three times, or how many from the first to the last.

    times: datetime64[s].
    """
    if len(times) <= 3:
        return ", ".join(map(format_time, times))
    return f"{len(times)} frames from {format_time(times[0])} to {format_time(times[-1])}"
