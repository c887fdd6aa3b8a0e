"""Where the pixels of a grid lie on the Earth (needs pyproj)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.grids import CORNERS, in_metres
from ldcast.errors import InputError

if TYPE_CHECKING:  # pyproj is an extra, imported where it is used
    from pyproj import CRS, Transformer

DEGREES = "OGC:CRS84"  # longitude and latitude on WGS84, in this order: what RFC 7946 lays down


@dataclass(frozen=True)
class Placement:
    """A grid on the Earth. to_grid: from `DEGREES` to the units in which its corners are.

    corners: x1 y1 x2 y2. shape: (H, W). Columns and rows are counted from the north-west corner of
    the grid: pixel (i, j) reaches from j to j + 1 and from i to i + 1.
    """

    to_grid: Transformer
    corners: tuple[float, float, float, float]
    shape: tuple[int, int]

    def to_pixels(self, degrees: np.ndarray) -> np.ndarray:
        """(n, 2) longitude and latitude -> (n, 2) column and row, NaN where there is none."""
        x1, y1, x2, y2 = self.corners
        x, y = self.to_grid.transform(*degrees.T)
        height, width = self.shape
        pixels = np.stack([(x - x1) / (x2 - x1) * width, (y2 - y) / (y2 - y1) * height], axis=1)
        pixels[~np.isfinite(pixels).all(axis=1)] = np.nan
        return pixels

    @property
    def middle(self) -> np.ndarray:
        """(2,) longitude and latitude."""
        return self.to_degrees(np.array([0.5]), np.array([0.5]))[0]

    def to_degrees(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The inverse, of columns and rows given as shares of the grid; infinite where none."""
        x1, y1, x2, y2 = self.corners
        x, y = x1 + columns * (x2 - x1), y2 - rows * (y2 - y1)
        return np.stack(self.to_grid.transform(x, y, direction="INVERSE"), axis=1)


def read_placement(grid: Mapping[str, Any], shape: tuple[int, int], what: str) -> Placement:
    """Where the pixels of a grid are.

    grid, shape: as for `ldcast.products.borders.read_borders`. what: is to be placed, for messages.
    Raises InputError for a grid without projection or corners, or with ones that make no sense, and
    where pyproj is missing.
    """
    pyproj = import_pyproj(what)
    missing = [name for name in ("projection", *CORNERS) if name not in grid]
    if missing:
        raise InputError(
            f"{what} cannot be placed: the data's grid lacks {', '.join(missing)}, expected a "
            "projection and the corners x1 y1 x2 y2; add them to the data or leave them out"
        )
    try:
        to_grid = make_transformer(DEGREES, in_metres(str(grid["projection"])))
    except (pyproj.exceptions.CRSError, pyproj.exceptions.ProjError):
        # The latter of what is no place on Earth: another planet, or a building's own plane.
        raise InputError(
            f"the data's grid has the projection '{grid['projection']}', which pyproj cannot "
            "place on Earth, expected PROJ text, WKT or an EPSG code; fix it in the data"
        ) from None
    x1, y1, x2, y2 = corners = tuple(float(grid[name]) for name in CORNERS)
    if not (x1 < x2 and y1 < y2 and np.isfinite(corners).all()):
        raise InputError(
            f"the data's grid has the corners {list_numbers(corners)}, expected x1 < x2 (west to "
            "east) and y1 < y2 (south to north); fix them in the data"
        )
    domain = Placement(to_grid, corners, shape)
    if not np.isfinite(domain.middle).all():
        raise InputError(
            f"the middle of the data's grid, by its corners {list_numbers(corners)}, lies nowhere "
            f"on Earth by its projection '{grid['projection']}'; fix them in the data"
        )
    return domain


def import_pyproj(what: str) -> Any:
    """The module; raises InputError where it is missing. what: needs it, for the message."""
    try:
        import pyproj
    except ModuleNotFoundError:
        raise InputError(
            f"{what} need pyproj, which is missing; install it with: pip install pyproj"
        ) from None
    return pyproj


def make_transformer(source: str | CRS, target: str | CRS) -> Transformer:
    """From one coordinate system to another, longitude or easting first in both."""
    import pyproj

    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def list_numbers(numbers: Sequence[float]) -> str:
    """For messages."""
    return ", ".join(f"{number:g}" for number in numbers)
