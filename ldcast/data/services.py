"""Every way of reading radar images, by name, and the frames of many files as one event.

One file is read by `READERS[NAME](path)`, many by `read_frames`. NAME:
  mch     MeteoSwiss, GIF of the product AQC
  fmi     Finnish Meteorological Institute, PGM, gzipped or not
  knmi    KNMI, HDF5 of accumulated rain
  odim    ODIM HDF5 with one composite, such as those of OPERA
  xarray  NetCDF or Zarr
  npz     event files
The first four go through pysteps (importers.py and odim.py here), xarray by gridded.py.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ldcast.data.archive import GRIDDED_SUFFIXES, RainEvent, read_npz
from ldcast.data.checks import format_time
from ldcast.data.gridded import read_gridded
from ldcast.data.importers import read_fmi, read_knmi, read_mch
from ldcast.data.odim import read_odim
from ldcast.errors import InputError

Reader = Callable[[Path], RainEvent]

READERS: dict[str, Reader] = {
    "mch": read_mch,
    "fmi": read_fmi,
    "knmi": read_knmi,
    "odim": read_odim,
    "xarray": read_gridded,
    "npz": read_npz,
}

_ABOUT_FILES = ("source", "licence")  # grid entries that files of one grid may have different


def reader_name(path: Path) -> str | None:
    """The reader of a file by its suffix; None where several services use it."""
    if path.suffix.lower() in GRIDDED_SUFFIXES:
        return "xarray"
    return "npz" if path.suffix.lower() == ".npz" else None


def read_frames(paths: Iterable[Path], reader: Reader) -> RainEvent:
    """The frames of all files in order of time; the files may be given in any order.

    Raises InputError, beside what `reader` raises, for no files, and as `join_events`.
    """
    events = sorted((reader(path) for path in paths), key=lambda event: event.time[0])
    if not events:
        raise InputError("got no files to read, expected one or more")
    return join_events(events)


def join_events(events: Sequence[RainEvent]) -> RainEvent:
    """One event of several that follow one another; the grid keeps what all say alike.

    Raises InputError for a time that occurs twice, and for different shapes or grids.
    """
    if len(events) == 1:
        return events[0]
    first = events[0]
    for earlier, later in itertools.pairwise(events):
        _check_same_grid(first, later)
        _check_follows(earlier, later)
    return RainEvent(
        rain_rate=np.concatenate([event.rain_rate for event in events]),
        time=np.concatenate([event.time for event in events]),
        grid={
            name: value
            for name, value in first.grid.items()
            if all(event.grid.get(name) == value for event in events)
        },
        name=f"{first.name}..{events[-1].name}",
        source=", ".join(event.source for event in events),
    )


def _check_follows(earlier: RainEvent, later: RainEvent) -> None:
    if later.time[0] <= earlier.time[-1]:
        raise InputError(
            f"{later.source} starts at {format_time(later.time[0])}, but {earlier.source} goes to "
            f"{format_time(earlier.time[-1])}, expected times that occur once; leave one out"
        )


def _check_same_grid(first: RainEvent, other: RainEvent) -> None:
    shapes = first.rain_rate.shape[1:], other.rain_rate.shape[1:]
    if shapes[0] != shapes[1]:
        _refuse_grid(first, other, "pixels", *shapes)
    for name in sorted(first.grid.keys() | other.grid.keys()):
        values = first.grid.get(name), other.grid.get(name)
        if values[0] != values[1] and name not in _ABOUT_FILES:
            _refuse_grid(first, other, name, *values)


def _refuse_grid(
    first: RainEvent, other: RainEvent, what: str, expected: object, got: object
) -> None:
    raise InputError(
        f"{other.source} differs in {what} from {first.source}: got {got}, expected {expected}; "
        "read files of different grids apart"
    )
