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
from ldcast.data.readers.gridded import gridded_times, read_gridded
from ldcast.data.readers.importers import fmi_time, knmi_time, mch_time
from ldcast.data.readers.odim import odim_time
from ldcast.data.readers.services import READERS
from ldcast.data.reading import Reading

SPAN_FRAMES = 24  # of a store that are loaded at once

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

    Those of a store are rounded, by all that it has, and end with the last frame that holds
    something: later ones may not be written yet. Raises InputError for a file that cannot be read
    so far.
    """
    return _TIMES[reader](path, how)


def read_span(path: Path, reader: str, how: Reading, time: np.ndarray) -> RainEvent:
    """Of a file the frames from the first to the last of `time`, as `frame_times` has them.

    Of a store no others are loaded. It may have fewer: those at its end that hold nothing. Of
    event files and those of services the event has all, and the last one read is kept.
    """
    if reader == "xarray":
        return _read_store(path, how, time)
    return _read_whole(path, reader, how, path.stat().st_mtime_ns)


def _read_store(path: Path, how: Reading, time: np.ndarray) -> RainEvent:
    return read_gridded(path, how, str(time[0]), str(time[-1] + np.timedelta64(1, "s")))


@lru_cache(maxsize=1)
def _read_whole(path: Path, reader: str, how: Reading, changed: int) -> RainEvent:
    """changed: when the file was, so that another file of this name is read, too."""
    return READERS[reader](path, how)


def _times_with_data(path: Path, how: Reading) -> np.ndarray:
    """The times up to the last frame of a store that holds something; all, where none does."""
    read = gridded_times(path, how)
    time = rounded_times(read, how.minutes)
    for stop in range(len(time), 0, -SPAN_FRAMES):
        event = _read_store(path, how, time[max(stop - SPAN_FRAMES, 0) : stop])
        has_data = ~np.isnan(event.rain_rate).all(axis=(1, 2))
        if has_data.any():
            return time[read <= event.time[has_data][-1]]
    return time
