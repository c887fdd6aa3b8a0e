"""Radar reflectivity as rain, by a relation Z = a R^b that the user names."""

import re

import numpy as np

from ldcast.errors import InputError

BY_ZR = (
    "reflectivity becomes rain by --zr A B of Z = A R^B, such as --zr 200 1.6 (for training in "
    "python -m ldcast.data.build)"
)
LOWEST_DBZ = -150.0  # no radar measures less: it is a code

_LINEAR = ("mm6m-3", "mm6/m3")
_DRY = 1.0  # mm6 m-3, 0 dBZ; by every common relation less than 0.1 mm/h


def check_relation(zr: tuple[float, float]) -> None:
    """Raises InputError for what is no relation of rain, (b, a) for instance."""
    a, b = zr
    if not (1 <= a < np.inf and 0.5 <= b <= 4):
        raise InputError(
            f"got --zr {a:g} {b:g}, expected A of 1 or more and B of 0.5 to 4, of Z = A R^B; such "
            "as --zr 200 1.6"
        )


def is_reflectivity_unit(units: str) -> bool:
    return _plain(units) in ("dbz", *_LINEAR)


def rain_from_reflectivity(
    reflectivity: np.ndarray, units: str, zr: tuple[float, float], where: str
) -> np.ndarray:
    """mm/h, NaN where there is no data, exactly 0 at 0 dBZ and below, minus infinity included.

    reflectivity: (T, H, W) in `units`, dBZ or mm6 m-3. Returns the same array, changed in place.
    where: named in messages. Raises InputError for other units, and for codes below all echoes.
    """
    if not is_reflectivity_unit(units):
        raise InputError(
            f"{where}: reflectivity has {f'units {units!r}' if units else 'no units'}, expected "
            "dBZ or mm6 m-3; set its attribute units"
        )
    is_linear, (a, b) = _plain(units) in _LINEAR, zr
    for frame in reflectivity:
        lowest = np.min(frame, where=np.isfinite(frame), initial=np.inf)
        if lowest < (0 if is_linear else LOWEST_DBZ):
            raise InputError(
                f"{where}: reflectivity goes down to {lowest:g} {units}, which no radar measures; "
                "if it means no data, set it as the attribute missing_value, else raise it to -30"
            )
        z = frame if is_linear else 10 ** (frame.astype(np.float64) / 10)
        frame[...] = np.where(z <= _DRY, 0.0, (z / a) ** (1 / b))
    return reflectivity


def _plain(units: str) -> str:
    return re.sub(r"[\s*^().]", "", units.lower())
