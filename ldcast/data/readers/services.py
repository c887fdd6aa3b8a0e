"""Every way of reading radar images, by name, and the frames of many files as one event.

One file is read by `READERS[NAME](path)`, many by `read_frames`. NAME:
  mch     MeteoSwiss, GIF of the product AQC
  fmi     Finnish Meteorological Institute, PGM, gzipped or not
  knmi    KNMI, HDF5 of accumulated rain
  odim    ODIM HDF5 with one composite, such as those of OPERA
  xarray  NetCDF or Zarr
  npz     event files
The first three go through pysteps (importers.py), odim by odim.py, xarray by gridded.py.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldcast.data.cadence import round_event
from ldcast.data.checks import check_apart_in_time, format_time
from ldcast.data.event import PER_FRAME, RainEvent
from ldcast.data.event_files import read_event_file
from ldcast.data.fields import joined_fields
from ldcast.data.pieces import cut
from ldcast.data.readers.gridded import GRIDDED_SUFFIXES, read_gridded
from ldcast.data.readers.importers import (
    read_fmi,
    read_knmi,
    read_mch,
    require_hdf5,
    require_importers,
)
from ldcast.data.readers.odim import read_odim
from ldcast.data.readers.opening import require_xarray
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError

Reader = Callable[[Path], RainEvent]  # those of READERS also take a `Reading`


def _cutting(read: Callable[[Path, Reading], RainEvent]) -> Callable[..., RainEvent]:
    """A reader that cuts out the piece that is asked for, of one that reads whole files."""

    def read_piece(path: Path, how: Reading = AS_STATED) -> RainEvent:
        return cut(read(path, how), how)

    return read_piece


READERS: dict[str, Callable[..., RainEvent]] = {
    "mch": _cutting(read_mch),
    "fmi": _cutting(read_fmi),
    "knmi": _cutting(read_knmi),
    "odim": _cutting(read_odim),
    "xarray": read_gridded,  # which loads no more than the piece
    "npz": _cutting(read_event_file),
}

_LENGTHS = ("pixel_size_m", "pixel_size_y_m", "x1", "y1", "x2", "y2")  # grid entries
_TOLERANCE = 1e-3  # of a pixel's side, by which they may differ in what is the same place


def reader_name(path: Path) -> str | None:
    """The reader of a file by its suffix; None where several services use it."""
    if path.suffix.lower() in GRIDDED_SUFFIXES:
        return "xarray"
    return "npz" if path.suffix.lower() == ".npz" else None


def require_reader(name: str) -> None:
    """Raises InputError, before any file is read, where the packages of a reader are missing."""
    if name == "xarray":
        require_xarray()
    elif name == "odim":
        require_hdf5()
    elif name != "npz":
        require_importers()


def read_frames(paths: Iterable[Path], reader: Reader, minutes: int) -> RainEvent:
    """The frames of all files in order of time; the files may be given in any order.

    Times within 30 s of the grid of whole `minutes` are rounded to it.

    Raises InputError, beside what `reader` raises, for no files, and as `join_events`.
    """
    events = sorted((reader(path) for path in paths), key=lambda event: event.time[0])
    if not events:
        raise InputError("got no files to read, expected one or more")
    return round_event(join_events(events, minutes), minutes)


def join_events(events: Sequence[RainEvent], minutes: int) -> RainEvent:
    """The frames of all events in order of time; the grid keeps what all say alike.

    minutes: how far apart the frames are that are used.

    Corners that differ by less than a thousandth of a pixel are the same; the first event's stay.
    Raises InputError for a time that occurs twice, for different shapes or grids, and for frames of
    amounts whose intervals overlap.
    """
    first = events[0]
    if len(events) == 1:
        return first
    for other in events[1:]:
        check_same_grid(first, other)
    joined = RainEvent(
        **{name: _concatenate(events, name) for name in PER_FRAME},
        grid={
            name: value
            for name, value in first.grid.items()
            if name in (*_LENGTHS, "projection")
            or all(_is_alike(value, event.grid.get(name)) for event in events)
        },
        name=f"{first.name}..{events[-1].name}",
        source=", ".join(event.source for event in events),
        notes=tuple(dict.fromkeys(note for event in events for note in event.notes)),
        fields=joined_fields(events),
    )
    order = np.argsort(joined.time, kind="stable")
    _check_times_differ(events, joined.time, order)
    if (np.diff(order) < 0).any():
        joined = joined.select(order)
    if joined.interval_start is not None:
        check_apart_in_time(joined.interval_start, joined.time, joined.name, minutes)
    return joined


def _concatenate(events: Sequence[RainEvent], name: str) -> np.ndarray | None:
    """The entries of all frames; None where no event has any.

    An event without them has the times that it has as those that were read, and no intervals (NaT).
    """
    if name == "frame_source":
        return np.concatenate([np.array(event.sources, np.str_) for event in events])
    parts = [getattr(event, name) for event in events]
    if all(part is None for part in parts):
        return None
    for index, event in enumerate(events):
        if parts[index] is None:
            no_time = np.full_like(event.time, "NaT")
            parts[index] = event.time if name == "time_as_read" else no_time
    return np.concatenate(parts)


def _check_times_differ(events: Sequence[RainEvent], time: np.ndarray, order: np.ndarray) -> None:
    """time: of all events, one after the other. order: that sorts it."""
    repeated = np.flatnonzero(np.diff(time[order]) == np.timedelta64(0, "s"))
    if len(repeated):
        owner = np.repeat(np.arange(len(events)), [len(event.time) for event in events])
        one, other = order[repeated[0] : repeated[0] + 2]
        raise InputError(
            f"{events[owner[one]].source} and {events[owner[other]].source} both have the frame of "
            f"{format_time(time[one])}, expected times that occur once; leave one out"
        )


def check_same_grid(first: RainEvent, other: RainEvent) -> None:
    """Raises InputError where two events differ in their pixels, corners or projection."""
    shapes = first.rain_rate.shape[1:], other.rain_rate.shape[1:]
    if shapes[0] != shapes[1]:
        _refuse_grid(first, other, "pixels", *shapes)
    tolerances = _tolerances(first)
    for name in _LENGTHS:
        values = first.grid.get(name), other.grid.get(name)
        if not (_is_alike(*values) or _is_near(*values, tolerances.get(name, 0.0))):
            _refuse_grid(first, other, name, *values)
    projections = first.grid.get("projection"), other.grid.get("projection")
    if not (_is_alike(*projections) or _is_same_projection(*map(str, projections))):
        _refuse_grid(first, other, "projection", *projections)


def _tolerances(event: RainEvent) -> dict[str, float]:
    """Of corners and pixel sizes, in their own units."""
    height, width = event.rain_rate.shape[1:]
    grid = event.grid
    tolerances = {name: grid[name] for name in ("pixel_size_m", "pixel_size_y_m") if name in grid}
    for low, high, count in (("x1", "x2", width), ("y1", "y2", height)):
        if _are_numbers(grid.get(low), grid.get(high)):
            tolerances |= dict.fromkeys((low, high), (grid[high] - grid[low]) / count)
    return {name: _TOLERANCE * side for name, side in tolerances.items() if _are_numbers(side)}


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float, np.number)) for value in values)


def _is_near(value: Any, other: Any, tolerance: float) -> bool:
    return _are_numbers(value, other) and abs(value - other) < tolerance


def _is_same_projection(text: str, other: str) -> bool:
    """Whether two PROJ strings differ in nothing but order, spaces and how numbers are written."""
    parts, others = _proj_parts(text), _proj_parts(other)
    return (
        "proj" in parts
        and parts.keys() == others.keys()
        and all(_says_the_same(value, others[name]) for name, value in parts.items())
    )


def _proj_parts(text: str) -> dict[str, str]:
    """What a PROJ string says, by name."""
    pairs = (part.lstrip("+").partition("=") for part in text.split())
    return {name: value for name, _, value in pairs}


def _says_the_same(value: str, other: str) -> bool:
    with contextlib.suppress(ValueError):  # no numbers
        return math.isclose(float(value), float(other), rel_tol=1e-9, abs_tol=1e-9)
    return value == other


def _is_alike(value: Any, other: Any) -> bool:
    return value == other or (value != value and other != other)  # NaN is unknown in both


def _refuse_grid(
    first: RainEvent, other: RainEvent, what: str, expected: object, got: object
) -> None:
    raise InputError(
        f"{other.source} differs in {what} from {first.source}: got {got}, expected {expected}; "
        "read files of different grids separately"
    )
