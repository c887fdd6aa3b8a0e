"""A piece of a large domain, cut out as it is read: by pixels, or by degrees.

The piece of a box in degrees is the smallest rectangle of pixels that holds it: where the grid's
projection turns or bends the box, the corners of the piece lie outside of it.
"""

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldcast.data.event import RainEvent
from ldcast.data.grids import CORNERS, PIXEL_SIZES, in_metres, is_in_degrees, with_metres
from ldcast.data.reading import Reading
from ldcast.errors import InputError

if TYPE_CHECKING:  # extras
    from pyproj import Transformer
    from xarray import DataArray

_POINTS_PER_EDGE = 1000  # of a box; its projected edges bend less than 0.01 pixel between them


class PieceError(InputError):
    """A piece that the domain does not have: the request is wrong, not the file."""


class Piece(NamedTuple):
    """Rows from the north and columns from the west. is_part: of a box that goes on outside."""

    rows: slice
    columns: slice
    is_part: bool = False


def cut(event: RainEvent, how: Reading) -> RainEvent:
    """The event's piece that `how` asks for, a copy with its own corners; else the event itself.

    Raises InputError for a piece that is not in the domain, and for a box where the grid does not
    say where it lies.
    """
    if how.crop is None and how.box is None:
        return event
    shape = event.rain_rate.shape[1:]
    piece = find_piece(how, shape, event.grid, event.name)
    return replace(
        event,
        rain_rate=event.rain_rate[:, piece.rows, piece.columns].copy(),
        fields={name: of.cut(piece.rows, piece.columns) for name, of in event.fields.items()},
        grid=grid_of_piece(event.grid, shape, piece),
        notes=(*event.notes, *describe_piece(how, piece)),
    )


def cut_unloaded(
    rain: "DataArray", grid: dict[str, Any], how: Reading, where: str
) -> tuple["DataArray", dict[str, Any], tuple[str, ...]]:
    """As `cut`, of what is not loaded yet: the piece, its grid, and notes.

    rain: (time, y, x), row 0 = north, column 0 = west. where: named in messages.
    """
    if how.crop is None and how.box is None:
        return rain, grid, ()
    piece = find_piece(how, rain.shape[1:], grid, where)
    _, y_axis, x_axis = rain.dims
    part = rain.isel({y_axis: piece.rows, x_axis: piece.columns})
    return part, grid_of_piece(grid, rain.shape[1:], piece), describe_piece(how, piece)


def find_piece(how: Reading, shape: tuple[int, int], grid: dict[str, Any], where: str) -> Piece:
    """Which pixels of (H, W) `how` asks for; it has a crop or a box."""
    if how.crop is not None:
        return _piece_of_crop(how.crop, shape, where)
    corners = _corners(grid)
    if corners is None or "projection" not in grid:
        raise PieceError(
            f"{where}: --box needs to know where the pixels lie, but the file has no projection "
            "with x1, y1, x2 and y2; give --crop instead"
        )
    try:
        return _piece_of_box(how.box, shape, corners, in_metres(str(grid["projection"])))
    except PieceError as error:
        raise PieceError(f"{where}: {error}") from error


def grid_of_piece(grid: dict[str, Any], shape: tuple[int, int], piece: Piece) -> dict[str, Any]:
    """`grid` with the corners of a piece; what is left of incomplete corners goes.

    Pixel sizes of a grid in degrees are metres at its centre, which is another now.
    shape: (H, W) of the whole.
    """
    corners = _corners(grid)
    if corners is None:
        return {name: value for name, value in grid.items() if name not in CORNERS}
    x1, y1, x2, y2 = corners
    side_x, side_y = (x2 - x1) / shape[1], (y2 - y1) / shape[0]
    edges = {
        "x1": x1 + side_x * piece.columns.start,
        "y1": y2 - side_y * piece.rows.stop,
        "x2": x1 + side_x * piece.columns.stop,
        "y2": y2 - side_y * piece.rows.start,
    }
    gone = PIXEL_SIZES if is_in_degrees(str(grid.get("projection", ""))) else ()
    kept = {name: value for name, value in {**grid, **edges}.items() if name not in gone}
    height = piece.rows.stop - piece.rows.start
    return with_metres(kept, (height, piece.columns.stop - piece.columns.start))


def describe_piece(how: Reading, piece: Piece) -> tuple[str, ...]:
    """A note on which pixels a box became."""
    if how.box is None:
        return ()
    height = piece.rows.stop - piece.rows.start
    width = piece.columns.stop - piece.columns.start
    beyond = ", and the rest of it lies outside" if piece.is_part else ""
    return (
        f"--box holds {height} x {width} pixels, as --crop {piece.rows.start} "
        f"{piece.columns.start} {height} {width} does{beyond}",
    )


def _piece_of_crop(crop: tuple[int, int, int, int], shape: tuple[int, int], where: str) -> Piece:
    row, column, height, width = crop
    if row + height > shape[0] or column + width > shape[1]:
        raise PieceError(
            f"{where}: --crop ends at row {row + height} and column {column + width}, expected "
            f"no more than its {shape[0]} x {shape[1]} pixels; choose a piece inside"
        )
    return Piece(slice(row, row + height), slice(column, column + width))


def _corners(grid: dict[str, Any]) -> tuple[float, ...] | None:
    """x1, y1, x2, y2; None where one is missing or they are none."""
    try:
        corners = tuple(float(grid[name]) for name in CORNERS)
    except (KeyError, TypeError, ValueError):
        return None
    x1, y1, x2, y2 = corners
    is_area = all(map(math.isfinite, corners)) and x1 < x2 and y1 < y2
    return corners if is_area else None


# ---- boxes ---------------------------------------------------------------------------------------


@lru_cache(maxsize=16)  # the files of a feed are of one grid
def _piece_of_box(
    box: tuple[float, float, float, float],
    shape: tuple[int, int],
    corners: tuple[float, ...],
    projection: str,
) -> Piece:
    to_plane = _transformer(projection)
    x, y = _outline(*box)
    if _is_true_longlat(to_plane):
        x = _turned_to(x, corners)
    else:
        x, y = to_plane.transform(x, y)
        x, y = x[np.isfinite(x)], y[np.isfinite(y)]
    x1, y1, x2, y2 = corners
    first_column, end_column = _indices(x, x1, (x2 - x1) / shape[1])
    first_row, end_row = _indices(-y, -y2, (y2 - y1) / shape[0])
    rows = slice(max(first_row, 0), min(end_row, shape[0]))
    columns = slice(max(first_column, 0), min(end_column, shape[1]))
    is_empty = columns.start >= columns.stop or rows.start >= rows.stop
    if is_empty or not _is_in_box(to_plane, box, shape, corners, Piece(rows, columns)):
        west, south, east, north = _degrees(to_plane, corners)
        raise PieceError(
            f"--box {' '.join(f'{edge:g}' for edge in box)} holds no pixel, expected one in the "
            f"domain, which goes from {west:.2f} to {east:.2f} degrees east and from "
            f"{south:.2f} to {north:.2f} north; give WEST SOUTH EAST NORTH of a part of that"
        )
    is_part = (first_row, end_row, first_column, end_column) != (
        *(rows.start, rows.stop),
        *(columns.start, columns.stop),
    )
    return Piece(rows, columns, is_part)


def _is_in_box(
    to_plane: "Transformer",
    box: tuple[float, float, float, float],
    shape: tuple[int, int],
    corners: tuple[float, ...],
    piece: Piece,
) -> bool:
    """Whether some of a piece lies in the box: around a far side of the Earth, none does."""
    west, south, east, north = box
    x1, y1, x2, y2 = corners
    columns = np.linspace(piece.columns.start, piece.columns.stop, 65)
    rows = np.linspace(piece.rows.start, piece.rows.stop, 65)
    x, y = x1 + (x2 - x1) / shape[1] * columns, y2 - (y2 - y1) / shape[0] * rows
    x, y = (axis.ravel() for axis in np.meshgrid(x, y))
    if not _is_true_longlat(to_plane):
        x, y = to_plane.transform(x, y, direction="INVERSE")
    is_inside = ((x - west) % 360 <= east - west) & (y >= south) & (y <= north)
    return bool(is_inside.any())


def _indices(values: np.ndarray, first: float, side: float) -> tuple[int, int]:
    """(first, end) of the pixels whose centres lie between the lowest and the highest value."""
    if len(values) == 0:
        return 0, 0
    low = math.ceil((values.min() - first) / side - 0.5 - 1e-6)
    return low, math.floor((values.max() - first) / side - 0.5 + 1e-6) + 1


def _outline(west: float, south: float, east: float, north: float) -> tuple[np.ndarray, np.ndarray]:
    """Points all around a rectangle, x and y."""
    along = np.linspace(0, 1, _POINTS_PER_EDGE)
    x, y = west + (east - west) * along, south + (north - south) * along
    return (
        np.concatenate([x, x, np.full_like(y, west), np.full_like(y, east)]),
        np.concatenate([np.full_like(x, south), np.full_like(x, north), y, y]),
    )


def _turned_to(longitude: np.ndarray, corners: tuple[float, ...]) -> np.ndarray:
    """Longitudes by as many whole turns as bring them nearest to the domain's own, as 0 to 360."""
    middle = (corners[0] + corners[2]) / 2
    return longitude + 360 * np.round((middle - longitude.mean()) / 360)


def _degrees(to_plane: "Transformer", corners: tuple[float, ...]) -> tuple[float, ...]:
    """West, south, east and north of a domain; NaN where its projection has none."""
    if _is_true_longlat(to_plane):
        return corners
    longitude, latitude = to_plane.transform(*_outline(*corners), direction="INVERSE")
    longitude = longitude[np.isfinite(longitude)]
    latitude = latitude[np.isfinite(latitude)]
    if not len(longitude) or not len(latitude):
        return (math.nan,) * 4
    return longitude.min(), latitude.min(), longitude.max(), latitude.max()


def _is_true_longlat(to_plane: "Transformer") -> bool:
    """Whether x and y are longitude and latitude, not those of a rotated pole."""
    crs = to_plane.target_crs
    return crs.is_geographic and not crs.is_derived


def _transformer(projection: str) -> "Transformer":
    """From WGS84's longitude and latitude to x and y."""
    try:
        from pyproj import Transformer
        from pyproj.exceptions import CRSError
    except ImportError as error:
        raise InputError(
            f"--box needs pyproj ({error}); install it with: pip install pyproj, or give --crop"
        ) from error
    try:
        return Transformer.from_crs("OGC:CRS84", projection, always_xy=True)
    except CRSError as error:
        raise PieceError(
            f"--box needs a projection that pyproj knows, got '{projection[:100]}' "
            f"({' '.join(str(error).split())[:100]}); give --crop instead"
        ) from error
