"""The flags that say how files are read, the same in every command that has them."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ldcast.data.event import RainEvent
from ldcast.data.readers.importers import relation_text
from ldcast.data.readers.reflectivity import check_relation
from ldcast.data.reading import Reading
from ldcast.errors import InputError


def add_reading_flags(add: Callable[..., object]) -> None:
    """add: a parser's `add_argument`."""
    add(
        "--crop",
        type=int,
        nargs=4,
        metavar=("ROW", "COL", "HEIGHT", "WIDTH"),
        help="read a piece of the domain: pixels, from its north-west corner",
    )
    add(
        "--box",
        type=float,
        nargs=4,
        metavar=("WEST", "SOUTH", "EAST", "NORTH"),
        help="read the smallest piece that holds a box in degrees",
    )
    add(
        "--zr",
        type=float,
        nargs=2,
        metavar=("A", "B"),
        help="reflectivity in the files becomes rain by Z = A R^B, such as 200 1.6",
    )


def reading_of(flags: argparse.Namespace, minutes: int) -> Reading:
    """What the flags ask of a reader. Raises InputError for what no reader could do.

    minutes: how far apart the frames of the model are.
    """
    if flags.crop and flags.box:
        raise InputError("got --crop and --box, expected one of them: leave one out")
    if flags.crop:
        _check_crop(*flags.crop)
    if flags.zr:
        check_relation(flags.zr)
    return Reading(
        zr=tuple(flags.zr) if flags.zr else None,
        crop=tuple(flags.crop) if flags.crop else None,
        box=_checked_box(*flags.box) if flags.box else None,
        minutes=minutes,
    )


def _check_crop(row: int, column: int, height: int, width: int) -> None:
    if row < 0 or column < 0 or height < 1 or width < 1:
        raise InputError(
            f"got --crop {row} {column} {height} {width}, expected ROW and COL of 0 or more, and "
            "HEIGHT and WIDTH of 1 or more"
        )


def _checked_box(
    west: float, south: float, east: float, north: float
) -> tuple[float, float, float, float]:
    """The box; where it crosses 180 degrees east, EAST is above that."""
    if west > 0 > east:
        east += 360
    is_finite = all(map(math.isfinite, (west, south, east, north)))
    if not is_finite or not (west < east <= west + 360 and -90 <= south < north <= 90):
        raise InputError(
            f"got --box {west:g} {south:g} {east:g} {north:g}, expected WEST SOUTH EAST NORTH in "
            "degrees, with WEST below EAST and SOUTH below NORTH"
        )
    return west, south, east, north


def reader_with(reader: Callable[..., RainEvent], how: Reading) -> Callable[..., RainEvent]:
    """A reader, of `READERS` or `read_event`, that reads so and finds what of it is not used."""

    def read(path: Path | str) -> RainEvent:
        event = reader(path, how)
        check_used(how, [event])
        return event

    return read


def check_used(how: Reading, events: Sequence[RainEvent]) -> None:
    """Raises InputError where a relation was named, but nothing that was read is reflectivity."""
    if how.zr is None:
        return
    made_by = [str(event.grid.get("processing", "")) for event in events]
    if not any(relation_text(how.zr) in text for text in made_by):
        raise InputError(
            f"--zr {how.zr[0]:g} {how.zr[1]:g} is for reflectivity, but {events[0].name} holds "
            "rain; leave it out"
        )
