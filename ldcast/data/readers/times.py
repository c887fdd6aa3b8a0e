"""Of when the frames of a file are, of as little of the file as that takes; and some of them.

A service's file says so in its name or its header, an event file and a store in an array of their
own. So many files are put in order before the rain in any of them is read.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from ldcast.data.cadence import rounded_times
from ldcast.data.event import RainEvent
from ldcast.data.event_files import read_event_times
from ldcast.data.readers.allocated import without_unwritten_end
from ldcast.data.readers.cf import time_dimension
from ldcast.data.readers.gridded import (
    GriddedRain,
    describe_rain,
    find_rain,
    rain_notes,
    read_gridded,
)
from ldcast.data.readers.importers import fmi_time, knmi_time, mch_time
from ldcast.data.readers.odim import odim_time
from ldcast.data.readers.opening import open_dataset
from ldcast.data.readers.services import READERS
from ldcast.data.reading import Reading

_SPAN_FRAMES = 24  # of a store that are loaded at once, to find its last frame

_TIMES: dict[str, Callable[[Path, Reading], np.ndarray]] = {
    "mch": lambda path, _: np.array([mch_time(path)]),
    "fmi": lambda path, _: np.array([fmi_time(path)]),
    "knmi": lambda path, _: np.array([knmi_time(path)]),
    "odim": lambda path, how: np.array([odim_time(path, how)]),
    "xarray": lambda path, how: _times_with_data(path, how),
    "npz": lambda path, _: read_event_times(path),
}


def frame_times(path: Path, reader: str, how: Reading) -> np.ndarray:
    """(T,) datetime64[s], increasing, of the frames that a reader of `READERS` gives.

    Those of a store end with the last frame that holds something: later ones may not be written
    yet. Raises InputError for a file that cannot be read so far.
    """
    return _TIMES[reader](path, how)


def read_span(path: Path, reader: str, how: Reading, time: np.ndarray) -> RainEvent:
    """Of a file the frames from the first to the last of `time`, as `frame_times` has them.

    Of a store no others are loaded. Of other files the event has all frames.
    """
    changed = path.stat().st_mtime_ns
    if reader != "xarray":
        return _read_whole(path, reader, how, changed)
    store = _opened(path, how, changed)
    first, last = np.searchsorted(store.time, time[[0, -1]])
    part = store.select(slice(first, last + 1))
    rain_rate = part.load()
    return RainEvent(
        rain_rate=rain_rate,
        time=part.time,
        grid=part.grid,
        name=path.stem,
        source=str(path),
        interval_start=part.interval_start,
        notes=(*part.notes, *rain_notes(part, rain_rate)),
    )


def open_rain(path: Path, how: Reading) -> GriddedRain:
    """The rain of a NetCDF file or a store, not loaded, without frames that were not written yet.

    Raises InputError as `read_gridded` does.
    """
    dataset = open_dataset(path)  # it stays open for as long as its rain is used
    rain, _ = find_rain(dataset, path, how)
    if (time_axis := time_dimension(rain)) is not None:
        dataset, _, _ = without_unwritten_end(dataset, rain, time_axis, path)
    rain, bounds = find_rain(dataset, path, how)
    return describe_rain(rain, str(path), bounds, how)


@lru_cache(maxsize=1)
def _opened(path: Path, how: Reading, changed: int) -> GriddedRain:
    """changed: when the file was, so that another file of this name is opened, too."""
    return open_rain(path, how)


@lru_cache(maxsize=1)
def _read_whole(path: Path, reader: str, how: Reading, changed: int) -> RainEvent:
    """An event, kept for as long as no other file is read."""
    return READERS[reader](path, how)


def _times_with_data(path: Path, how: Reading) -> np.ndarray:
    """The times up to the last frame of a store that holds something; all, where none does."""
    time = open_rain(path, how).time
    rounded = rounded_times(time, how.minutes)
    for stop in range(len(time), 0, -_SPAN_FRAMES):
        first = max(stop - _SPAN_FRAMES, 0)
        end = str(rounded[stop - 1] + np.timedelta64(1, "s"))
        event = read_gridded(path, how, str(rounded[first]), end)
        has_data = ~np.isnan(event.rain_rate).all(axis=(1, 2))
        if has_data.any():
            return time[time <= event.time[has_data][-1]]
    return time
