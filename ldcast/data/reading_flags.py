"""The flags that say how files are read, the same in every command that has them."""

import argparse
import math
from collections.abc import Callable

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


def reading_of(flags: argparse.Namespace) -> Reading:
    """What the flags ask of a reader. Raises InputError for what no reader could do."""
    if flags.crop and flags.box:
        raise InputError("got --crop and --box, expected one of them: leave one out")
    if flags.crop:
        _check_crop(*flags.crop)
    return Reading(
        crop=tuple(flags.crop) if flags.crop else None,
        box=_checked_box(*flags.box) if flags.box else None,
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
