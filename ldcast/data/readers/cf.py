"""Axes, directions and projection of an xarray DataArray, by the CF conventions.

Source: CF Conventions 1.11, chapters 4 (coordinate types) and 5.6 (grid mappings).
"""

import contextlib
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.grids import in_metres, metres_per_unit, metric_grid
from ldcast.errors import InputError

if TYPE_CHECKING:  # an extra, imported where it is used
    from pyproj import CRS
    from xarray import DataArray

LONGLAT = "+proj=longlat +datum=WGS84 +no_defs"

# What makes a coordinate an axis: its standard name, its attribute `axis`, or its own name.
_AXES = {
    "time": ("time", "T"),
    "y": ("projection_y_coordinate", "latitude", "grid_latitude", "Y", "y", "lat"),
    "x": ("projection_x_coordinate", "longitude", "grid_longitude", "X", "x", "lon"),
}
_METRES = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 1.0),
    **dict.fromkeys(("km", "kilometre", "kilometres", "kilometer", "kilometers"), 1000.0),
}
_PROJ_TEXTS = ("proj4", "proj4_params", "proj4_string", "proj4text")
_WKT_TEXTS = ("crs_wkt", "spatial_ref")
_SMALLEST_PIXEL = 20.0  # m, of a radar image; smaller ones are km taken for metres
_UNEVEN = 0.01  # of the spacing; coordinates in float32 are off by less


def with_axes(rain: "DataArray", where: str) -> "DataArray":
    """`rain` with exactly the dimensions time, y and x, in this order, whatever they are called.

    A time that is only a coordinate becomes a dimension; others of size 1 go.
    Raises InputError, naming the dimensions, where that is not possible.
    """
    if not any(_is_axis(rain, name, "time") for name in rain.dims):
        scalars = [name for name, coord in rain.coords.items() if coord.ndim == 0]
        rain = rain.expand_dims([name for name in scalars if _is_axis(rain, name, "time")])
    axes = [_find_axis(rain, kind, where) for kind in _AXES]
    for name in set(rain.dims) - set(axes):
        if rain.sizes[name] > 1:
            raise InputError(
                f"{where}: {rain.name} has {rain.sizes[name]} of dimension {name}, expected time, "
                f"y and x alone; select one by .isel({name}=0) in xarray"
            )
        rain = rain.isel({name: 0}, drop=True)
    return rain.transpose(*axes)


def time_dimension(rain: "DataArray") -> Any | None:
    """The dimension of time, None if it has none; of several the first."""
    return next((name for name in rain.dims if _is_axis(rain, name, "time")), None)


def oriented(rain: "DataArray", where: str) -> tuple["DataArray", dict[str, Any]]:
    """`rain` (time, y, x) with row 0 in the north and column 0 in the west, and its `grid`.

    The grid has the outer corners `x1 y1 x2 y2`, metres, `pixel_size_m` and `pixel_size_y_m`, and
    `projection` where a grid mapping is among the coordinates of `rain`. In degrees, corners stay
    so, and the pixel sizes are metres at the domain's centre; without a grid mapping they are taken
    for degrees of WGS84. Coordinates without units have those of the grid mapping.
    Raises InputError for coordinates that lack units in both or are not evenly spaced.
    """
    rain = _with_units(rain, where)
    _, y_axis, x_axis = rain.dims
    is_metric = {_units(rain, axis, where) in _METRES for axis in (x_axis, y_axis)}
    if len(is_metric) > 1:
        raise InputError(f"{where}: only one of {x_axis} and {y_axis} is in degrees; fix its units")
    x, y = _coordinate(rain, x_axis, where), _coordinate(rain, y_axis, where)
    if x[0] > x[-1]:
        rain = rain.isel({x_axis: slice(None, None, -1)})
    if y[0] < y[-1]:
        rain = rain.isel({y_axis: slice(None, None, -1)})
    (x1, x2), (y1, y2) = _outer(x), _outer(y)
    in_degrees = is_metric == {False}
    projection = _projection(rain, where) or (LONGLAT if in_degrees else None)
    corners = x1, y1, x2, y2
    return rain, metric_grid(rain.shape[1:], corners, None, projection, where, in_degrees)


def _is_axis(rain: "DataArray", name: Any, kind: str) -> bool:
    if name not in rain.coords:
        return False
    attributes = rain[name].attrs
    says = {str(attributes.get("standard_name")), str(attributes.get("axis")), str(name).lower()}
    return not says.isdisjoint(_AXES[kind])


def _find_axis(rain: "DataArray", kind: str, where: str) -> Any:
    found = [name for name in rain.dims if _is_axis(rain, name, kind)]
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"{where}: of the dimensions {', '.join(map(str, rain.dims))} of {rain.name}, "
        f"{' and '.join(map(str, found)) or 'none'} is the {kind} axis, expected one that has a "
        f"coordinate with standard_name {' or '.join(_AXES[kind][: 1 if kind == 'time' else 2])}; "
        "set this attribute, or add the coordinate by assign_coords in xarray"
    )


def _with_units(rain: "DataArray", where: str) -> "DataArray":
    """`rain` whose x and y have units, from the grid mapping where they state none."""
    bare = [axis for axis in rain.dims[1:] if not str(rain[axis].attrs.get("units", ""))]
    mapping = _grid_mapping(rain) if bare else None
    if mapping is None:
        return rain
    units = _units_of_mapping(mapping, where)
    for axis in bare:
        _check_plausible(rain, axis, units, where)
        rain = rain.assign_coords({axis: rain[axis].assign_attrs(units=units)})
    return rain


def _units_of_mapping(mapping: dict[str, Any], where: str) -> str:
    """Of its axes, as pyproj calls them: metre, kilometre, degree, or what no rain is in.

    PROJ text in metres may have an Earth's radius in km, and then so are its coordinates.
    """
    texts = [str(mapping[name]) for name in _PROJ_TEXTS if name in mapping]
    if texts and not any(mapping.get(name) for name in _WKT_TEXTS):
        if metres_per_unit(texts[0]) != 1:
            return "km"
        mapping = {"crs_wkt": texts[0]}  # pyproj recognises which it is
    crs = _flat(_crs(mapping, {}, where))
    return str(crs.axis_info[0].unit_name) if crs.axis_info else "none"


def _check_plausible(rain: "DataArray", axis: Any, units: str, where: str) -> None:
    """Raises InputError where coordinates cannot be in the units that a grid mapping has.

    The km of some files have a grid mapping in metres, and metres one in degrees.
    """
    values = rain[axis].to_numpy()
    if values.dtype.kind not in "fiu" or len(values) < 2:
        return  # refused elsewhere
    step = abs(float(values[-1]) - float(values[0])) / (len(values) - 1)
    is_possible = np.abs(values).max() <= 360 if units.startswith("degree") else True
    if units in _METRES:
        is_possible = step * _METRES[units] >= _SMALLEST_PIXEL
    if not is_possible:
        raise InputError(
            f"{where}: {axis} has no units, and those of its grid mapping, {units}, do not fit "
            f"steps of {step:g} from {values[0]:g} to {values[-1]:g}; set its attribute units to "
            "m, km or degrees"
        )


def _units(rain: "DataArray", axis: Any, where: str) -> str:
    units = str(rain[axis].attrs.get("units", "")).lower()
    if units in _METRES or units.startswith("degree"):
        return units
    raise InputError(
        f"{where}: {axis} has {f'units {units!r}' if units else 'no units'}, expected m, km or "
        "degrees; set its attribute units"
    )


def _coordinate(rain: "DataArray", axis: Any, where: str) -> np.ndarray:
    """Centres of pixels, metres or degrees, float64."""
    values = rain[axis].to_numpy()
    if values.dtype.kind not in "fiu":
        raise InputError(f"{where}: {axis} is {values.dtype}, expected numbers; fix its values")
    values = values.astype(np.float64)
    steps = np.diff(values)
    if len(values) < 2 or not np.isfinite(values).all() or (mean := steps.mean()) == 0:
        raise InputError(f"{where}: {axis} is {values}, expected at least 2 different coordinates")
    if np.abs(steps / mean - 1).max() > _UNEVEN:
        raise InputError(
            f"{where}: {axis} goes in steps from {steps.min():g} to {steps.max():g}, expected even "
            "ones; interpolate to a regular grid"
        )
    return values * _factor(rain, axis, where)


def _factor(rain: "DataArray", axis: Any, where: str) -> float:
    """Metres per unit of the coordinates; 1 for degrees, which stay so."""
    return _METRES.get(_units(rain, axis, where), 1.0)


def _outer(values: np.ndarray) -> tuple[float, float]:
    """The outer edges of evenly spaced pixels, the lower one first."""
    half = abs(values[-1] - values[0]) / (len(values) - 1) / 2
    return float(values.min() - half), float(values.max() + half)


# ---- projection ----------------------------------------------------------------------------------


def _projection(rain: "DataArray", where: str) -> str | None:
    """As PROJ text in metres, or as WKT where PROJ text says less; None if nothing is said."""
    mapping = _grid_mapping(rain)
    if mapping is None:
        return None
    texts = [str(mapping[name]) for name in _PROJ_TEXTS if name in mapping]
    if texts and not any(mapping.get(name) for name in _WKT_TEXTS):
        return in_metres(texts[0])
    _, y_axis, x_axis = rain.dims
    factors = {
        "false_easting": _factor(rain, x_axis, where),
        "false_northing": _factor(rain, y_axis, where),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyproj warns that PROJ text says less than WKT
        return _projection_text(_crs(mapping, factors, where), texts)


def _projection_text(crs: "CRS", texts: list[str]) -> str:
    """The first of the PROJ texts, or pyproj's own, that says all of `crs`; else WKT."""
    from pyproj.exceptions import CRSError

    crs = _flat(crs)
    own = ""
    with contextlib.suppress(CRSError):  # PROJ text has no words for it
        own = crs.to_proj4().replace(" +type=crs", "")
    for text in filter(None, [*texts, own]):
        if _says_all(text, crs):
            return in_metres(text)
    # Kilometres can be undone in PROJ text alone.
    return in_metres(own) if metres_per_unit(own) != 1 else crs.to_wkt()


def _flat(crs: "CRS") -> "CRS":
    """Without the height, which rain does not have."""
    return (crs.sub_crs_list[0] if crs.is_compound else crs).to_2d()


def _says_all(text: str, crs: "CRS") -> bool:
    """Whether a PROJ text is the same projection of the same datum.

    Most datums are not in PROJ text: without its own, a Swiss grid is off by 166 m. Axes may be in
    another order or direction, since x is first and eastward wherever a grid is placed.
    """
    from pyproj.exceptions import CRSError

    try:
        other = crs.from_proj4(text)
    except CRSError:
        return False
    return (
        crs.geodetic_crs.equals(other.geodetic_crs, ignore_axis_order=True)
        and crs.coordinate_operation == other.coordinate_operation
    )


def _grid_mapping(rain: "DataArray") -> dict[str, Any] | None:
    """The attributes of the grid mapping that `rain` names, or else of the only one it has."""
    named = rain.encoding.get("grid_mapping", rain.attrs.get("grid_mapping", ""))
    name = _mapping_of(str(named), rain.dims[1:])
    if name in rain.coords:
        return rain[name].attrs
    crs_names = {*_PROJ_TEXTS, *_WKT_TEXTS, "grid_mapping_name"}
    found = [coord.attrs for coord in rain.coords.values() if crs_names & coord.attrs.keys()]
    return found[0] if len(found) == 1 else None


def _mapping_of(named: str, axes: tuple[Any, ...]) -> str:
    """The grid mapping of these axes in "crs", or in "wgs84: lat lon crs: x y"."""
    if ":" not in named:
        return named.strip()
    for name, coordinates in re.findall(r"(\w+):((?:\s+\w+(?!\w*:))*)", named):
        if set(axes) <= set(coordinates.split()):
            return name
    return named.partition(":")[0].strip()


def _crs(mapping: dict[str, Any], factors: dict[str, float], where: str) -> "CRS":
    """factors: from the units of the coordinates, in which CF has these attributes, to metres."""
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError as error:
        raise InputError(
            f"{where}: its projection needs pyproj ({error}); install it with: pip install pyproj"
        ) from error
    try:
        for name in _WKT_TEXTS:
            if mapping.get(name) is not None and str(mapping[name]):
                return CRS.from_user_input(mapping[name])
        scaled = {name: factors[name] * mapping[name] for name in factors.keys() & mapping.keys()}
        return CRS(CRS.from_cf({**mapping, **scaled}))  # to_2d fails on the subclass that it is
    except (CRSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{where}: its grid mapping cannot be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); expected WKT in crs_wkt or the attributes of "
            "the CF conventions"
        ) from error
