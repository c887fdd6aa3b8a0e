"""Where a radar image lies: the entries of an event's `grid`, from what files say."""

import math
import re
from pathlib import Path
from typing import Any

from ldcast.errors import InputError

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2: outer; south-west, then north-east

CORNERS = ("x1", "y1", "x2", "y2")  # outer, of the grid: south-west, then north-east
PIXEL_SIZES = ("pixel_size_m", "pixel_size_y_m")
_LENGTHS = re.compile(r"\b(?P<name>R|a|b|x_0|y_0)=(?P<value>-?[\d.]+(e[+-]?\d+)?)")
_KM_RADIUS = 1e5  # an Earth's radius below this is in km
_TOLERANCE = 0.01  # of a pixel's side
_DEGREES = re.compile(
    r"\bproj=(longlat|latlong|lonlat|latlon)\b|\bEPSG:+(4326|4258|4269)\b|^\s*GEOG", re.IGNORECASE
)
_RADIUS, _ECCENTRICITY_2 = 6378137.0, 0.00669437999014  # of WGS84: at the equator, and squared


def metric_grid(
    shape: tuple[int, int],
    corners: Corners,
    pixel_size: tuple[float, float] | None,
    projection: str | None,
    path: Path | str,
    in_degrees: bool = False,
) -> dict[str, Any]:
    """`pixel_size_m` (along x), `pixel_size_y_m`, `projection` and `x1 y1 x2 y2`.

    shape: (H, W). corners, pixel_size (x, y): metres, or degrees; None: the size that the corners
        give.
    projection: None where it is not known; then it has no entry.
    in_degrees: corners stay so; the pixel sizes are metres at the domain's centre.
    Raises InputError if the corners give pixels of another size, by over 1 %, than `pixel_size`: so
    it is where an importer knows one product's corners, and the image is another product.
    """
    x1, y1, x2, y2 = corners
    height, width = shape
    side_x, side_y = (x2 - x1) / width, (y2 - y1) / height
    stated_x, stated_y = pixel_size or (side_x, side_y)
    if max(abs(side_x / stated_x - 1), abs(side_y / stated_y - 1)) > _TOLERANCE:
        unit = "degrees" if in_degrees else "m"
        raise InputError(
            f"{path}: its corners and {height} x {width} pixels make them {side_y:g} x {side_x:g} "
            f"{unit}, expected {stated_y:g} x {stated_x:g} {unit} as in the product that this "
            "reader knows; write it as NetCDF with its own coordinates"
        )
    if in_degrees:
        stated_x, stated_y = _metres_at_centre(shape, corners)
    return {
        "pixel_size_m": stated_x,
        "pixel_size_y_m": stated_y,
        **({"projection": projection} if projection else {}),
        **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)),
    }


def with_metres(grid: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """`grid`, of longitudes and latitudes with metres at its centre for missing pixel sizes.

    So, too, for such below a metre, which are degrees. Other grids stay as they are.
    """
    try:
        corners = tuple(float(grid[name]) for name in ("x1", "y1", "x2", "y2"))
        is_known = float(grid.get("pixel_size_m", 0.0)) >= 1
    except (KeyError, TypeError, ValueError):
        return grid
    x1, y1, x2, y2 = corners
    is_on_earth = -90 <= y1 < y2 <= 90 and 0 < x2 - x1 <= 360
    if is_known or not is_on_earth or not is_in_degrees(str(grid.get("projection", ""))):
        return grid
    sides = _metres_at_centre(shape, corners)
    return {**grid, **dict(zip(("pixel_size_m", "pixel_size_y_m"), sides, strict=True))}


def is_in_degrees(projection: str) -> bool:
    """Whether the coordinates of a PROJ string or WKT are longitude and latitude."""
    return bool(_DEGREES.search(projection))


def _metres_at_centre(shape: tuple[int, int], corners: Corners) -> tuple[float, float]:
    """(x, y) sides of the pixel in the middle of a grid in degrees, on the ellipsoid of WGS84."""
    x1, y1, x2, y2 = corners
    height, width = shape
    latitude = math.radians((y1 + y2) / 2)
    shrink = 1 - _ECCENTRICITY_2 * math.sin(latitude) ** 2
    along = _RADIUS / math.sqrt(shrink) * math.cos(latitude)
    across = _RADIUS * (1 - _ECCENTRICITY_2) / shrink**1.5
    return math.radians(x2 - x1) / width * along, math.radians(y2 - y1) / height * across


def metres_per_unit(projection: str) -> float:
    """1000 if the coordinates of a PROJ string are in km, 1 if they are in metres or degrees."""
    if is_in_degrees(projection):  # whatever the Earth's radius is in
        return 1.0
    return 1000.0 if _has_km_radius(projection) or "+units=km" in projection else 1.0


def in_metres(projection: str) -> str:
    """The PROJ string with coordinates in metres; one that has them is unchanged."""
    if _has_km_radius(projection):  # and so is all else in it
        return _LENGTHS.sub(
            lambda found: f"{found['name']}={1000 * float(found['value']):.12g}", projection
        )
    return projection.replace("+units=km", "+units=m")  # x_0 and y_0 are in metres all the same


def _has_km_radius(projection: str) -> bool:
    radii = [found["value"] for found in _LENGTHS.finditer(projection) if found["name"] in "aR"]
    return any(float(radius) < _KM_RADIUS for radius in radii)
