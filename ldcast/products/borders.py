"""Coast and border lines from the user's files, placed on the pixels of a grid (needs pyproj)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldcast.errors import InputError
from ldcast.products.border_files import read_lines
from ldcast.products.placement import Placement, read_placement

# Lines are straight in degrees (RFC 7946, section 3.1.1) and so bent on most maps. The border along
# the 49th parallel is two points in some files; so points are put in, at least every ...
MAX_STEP_DEGREES = 0.1


def read_borders(
    paths: Sequence[Path], grid: Mapping[str, Any], shape: tuple[int, int]
) -> list[np.ndarray]:
    """The lines of the files that cross the grid, where they lie on it.

    paths: GeoJSON files (.geojson, .json; RFC 7946: longitude and latitude on WGS84) or ESRI
        shapefiles (.shp; by their .prj, without one as GeoJSON; needs pyshp). Lines and outlines
        of areas are read, points are not.
    grid: `projection` (as pyproj reads it: PROJ text, WKT or EPSG code) and the outer corners
        `x1 y1` (south-west) and `x2 y2` (north-east) in metres, also where PROJ text counts in km;
        those of a projection in degrees or feet are in these.
    shape: (H, W), rows and columns between those corners.

    Returns arrays (n, 2) float64 of columns and rows, counted from the north-west corner of the
    grid: pixel (i, j) reaches from j to j + 1 and from i to i + 1. Lines are not cut at the edges.

    Raises InputError for what cannot be read, for files of another region, for a grid without
    projection or corners, and where pyproj (or pyshp) is missing.
    """
    domain = read_placement(grid, shape, "border lines")
    return [line for path in paths for line in _place(read_lines(path), domain, path)]


def _place(lines: list[np.ndarray], domain: Placement, path: Path) -> list[np.ndarray]:
    """Lines in degrees -> those on the grid, in pixels; raises InputError for another region."""
    points = np.concatenate([np.concatenate([line, [[np.nan, np.nan]]]) for line in lines])
    dense = _densify(points)
    dense[~_is_near(dense, domain)] = np.nan
    height, width = domain.shape
    placed = [
        run
        for run in _runs(domain.to_pixels(dense))
        if (run.max(axis=0) > 0).all() and (run.min(axis=0) < [width, height]).all()
    ]
    if not placed:  # fine for a grid inside a country
        _check_region(points, domain, path)
    return placed


def _check_region(points: np.ndarray, domain: Placement, path: Path) -> None:
    (west, south), (east, north) = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    longitude, latitude = domain.middle
    is_around = south <= latitude <= north and any(
        west <= longitude + turn <= east for turn in (-360, 0, 360)
    )
    if not is_around:
        raise InputError(
            f"{path} has lines from longitude {west:.1f} to {east:.1f} and latitude {south:.1f} "
            f"to {north:.1f}, expected some at the data's grid, around {longitude:.1f}, "
            f"{latitude:.1f}; give a file of that region"
        )


def _densify(points: np.ndarray) -> np.ndarray:
    """With points put in between, in degrees, where two of a line are far apart.

    NaN separates lines; so it does those that jump from one end of the world map to the other.
    """
    start, step = points[:-1], np.diff(points, axis=0)
    step[np.abs(step[:, 0]) > 180] = np.nan
    num_parts = np.ceil(np.nan_to_num(np.abs(step).max(axis=1)) / MAX_STEP_DEGREES).astype(int)
    num_parts = np.where(np.isnan(step[:, 0]), 2, np.maximum(num_parts, 1))
    segment = np.repeat(np.arange(len(start)), num_parts)
    part = np.arange(len(segment)) - np.repeat(np.cumsum(num_parts) - num_parts, num_parts)
    offset = (part / num_parts[segment])[:, None] * step[segment]
    offset[part == 0] = 0  # a NaN step must not take its first point along
    return np.concatenate([start[segment] + offset, points[-1:]])


def _is_near(degrees: np.ndarray, domain: Placement) -> np.ndarray:
    """(n,) bool: not further from the middle of the grid than its corners, or little more.

    Most projections are made for a part of the Earth, and fold or tear what is far from it, so
    that a coast at the other side of the globe could cross the map.
    """
    along = np.linspace(0, 1, 33)
    zero, one = np.zeros_like(along), np.ones_like(along)
    edges = np.concatenate([along, along, zero, one]), np.concatenate([zero, one, along, along])
    middle = _directions(domain.middle[None])[0]
    reach = np.arccos(np.clip(_directions(domain.to_degrees(*edges)) @ middle, -1, 1)).max()
    if not np.isfinite(reach):  # the map shows more than one side of the globe
        return np.isfinite(degrees).all(axis=1)
    reach = min(1.1 * reach + math.radians(2 * MAX_STEP_DEGREES), math.pi)
    return _directions(degrees) @ middle >= math.cos(reach)


def _directions(degrees: np.ndarray) -> np.ndarray:
    """(n, 2) longitude and latitude -> (n, 3) unit vectors from the Earth's centre."""
    longitude, latitude = np.radians(np.where(np.isfinite(degrees), degrees, np.nan)).T
    flat = np.cos(latitude)
    return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=1)


def _runs(points: np.ndarray) -> Iterator[np.ndarray]:
    """The stretches of two points and more without NaN."""
    is_point = np.concatenate([[False], np.isfinite(points[:, 0]), [False]])
    starts, ends = np.flatnonzero(np.diff(is_point)).reshape(-1, 2).T
    for start, end in zip(starts, ends, strict=True):
        if end - start > 1:
            yield points[start:end]
