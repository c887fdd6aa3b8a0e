"""Where a radar image lies: the entries of an event's `grid`, in metres, from what files say."""

import re
from pathlib import Path
from typing import Any

from ldcast.errors import InputError

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2: outer; south-west, then north-east

_LENGTHS = re.compile(r"\b(?P<name>R|a|b|x_0|y_0)=(?P<value>-?[\d.]+(e[+-]?\d+)?)")
_KM_RADIUS = 1e5  # an Earth's radius below this is in km
_TOLERANCE = 0.01  # of a pixel's side


def metric_grid(
    shape: tuple[int, int],
    corners: Corners,
    pixel_size: tuple[float, float] | None,
    projection: str | None,
    path: Path | str,
) -> dict[str, Any]:
    """`pixel_size_m` (along x), `pixel_size_y_m`, `projection` and `x1 y1 x2 y2`.

    shape: (H, W). corners, pixel_size (x, y): metres; None: the size that the corners give.
    projection: None where it is not known; then it has no entry.
    Raises InputError if the corners give pixels of another size, by over 1 %, than `pixel_size`: so
    it is where an importer knows one product's corners, and the image is another product.
    """
    x1, y1, x2, y2 = corners
    height, width = shape
    side_x, side_y = (x2 - x1) / width, (y2 - y1) / height
    stated_x, stated_y = pixel_size or (side_x, side_y)
    if max(abs(side_x / stated_x - 1), abs(side_y / stated_y - 1)) > _TOLERANCE:
        raise InputError(
            f"{path}: its corners and {height} x {width} pixels make them {side_y:g} x {side_x:g} "
            f"m, expected {stated_y:g} x {stated_x:g} m as in the product that this reader knows; "
            "write it as NetCDF with its own coordinates"
        )
    return {
        "pixel_size_m": stated_x,
        "pixel_size_y_m": stated_y,
        **({"projection": projection} if projection else {}),
        **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)),
    }


def metres_per_unit(projection: str) -> float:
    """1000 if the coordinates of a PROJ string are in km, 1 if they are in metres."""
    return 1000.0 if _has_km_radius(projection) or "+units=km" in projection else 1.0


def in_metres(projection: str) -> str:
    """The PROJ string with coordinates in metres; one that has them stays as it is."""
    if _has_km_radius(projection):  # and so is all else in it
        return _LENGTHS.sub(
            lambda found: f"{found['name']}={1000 * float(found['value']):.12g}", projection
        )
    return projection.replace("+units=km", "+units=m")  # x_0 and y_0 are in metres all the same


def _has_km_radius(projection: str) -> bool:
    radii = [found["value"] for found in _LENGTHS.finditer(projection) if found["name"] in "aR"]
    return any(float(radius) < _KM_RADIUS for radius in radii)
