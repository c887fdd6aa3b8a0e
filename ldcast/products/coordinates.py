"""Where and when a forecast is valid: its coordinates and projection as CF wants them (pyproj)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.grids import in_metres
from ldcast.products.forecast import Forecast

if TYPE_CHECKING:  # an extra, imported where it is used
    import pyproj


def clock(forecast: Forecast) -> dict[str, tuple]:
    """The issue time, and along `time` the valid times and the lead times."""
    issue_time, encoding = np.datetime64(forecast.issue_time, "s"), time_encoding(forecast)
    return {
        "time": (
            "time",
            forecast.time.astype("datetime64[ns]"),
            {"standard_name": "time", "long_name": "valid time, UTC", "axis": "T"},
            encoding,
        ),
        "forecast_reference_time": (
            (),
            issue_time.astype("datetime64[ns]"),
            {
                "standard_name": "forecast_reference_time",
                "long_name": "issue time, UTC: that of the newest radar image",
            },
            {**encoding, "units": "seconds since 1970-01-01 00:00:00", "dtype": "int64"},
        ),
        # Not "minutes", which xarray may turn into timedelta64 when it reads.
        "lead_minutes": (
            "time",
            np.asarray(forecast.lead_minutes, np.int32),
            {"standard_name": "forecast_period", "long_name": "lead time", "units": "min"},
        ),
    }


def window_times(forecast: Forecast) -> dict[str, tuple]:
    """Along `window`, of what falls in windows of time: when they start and end."""
    if forecast.amounts is None:
        return {}
    encoding = time_encoding(forecast)
    about_end = {"standard_name": "time", "bounds": "window_bounds"}
    return {
        f"window_{edge}": (
            "window",
            getattr(forecast.amounts, f"window_{edge}").astype("datetime64[ns]"),
            {"long_name": f"{edge} of the window, UTC", **about},
            encoding,
        )
        for edge, about in {"start": {}, "end": about_end}.items()
    }


def time_encoding(forecast: Forecast) -> dict[str, str]:
    """How times are stored: pysteps takes `time` for seconds of lead time, whatever its units."""
    issue_time = str(np.datetime64(forecast.issue_time, "s")).replace("T", " ")
    return {"units": f"seconds since {issue_time}", "dtype": "int32"}


def horizontal(
    grid: dict[str, Any], shape: tuple[int, int], crs: pyproj.CRS | None
) -> dict[str, tuple]:
    """x (W,) and y (H,) of the centres of pixels, or the numbers of columns and rows.

    shape: (H, W). crs: as `read_crs` gives it. None beside a projection leaves the units open: they
        may be feet or degrees.
    """
    height, width = shape
    if not _has_corners(grid):
        # Without an axis attribute, by which CF would take them for longitude and latitude.
        return {
            "x": ("x", np.arange(width), {"long_name": "column, from the west", "units": "1"}),
            "y": ("y", np.arange(height), {"long_name": "row, from the north", "units": "1"}),
        }
    x1, y1, x2, y2 = (float(grid[name]) for name in ("x1", "y1", "x2", "y2"))
    centres = {
        "x": x1 + (x2 - x1) / width * (np.arange(width) + 0.5),
        "y": y2 - (y2 - y1) / height * (np.arange(height) + 0.5),
    }
    are_metres = crs is None and "projection" not in grid
    return {
        name: (name, values, _axis_attributes(name, crs, are_metres), {"_FillValue": None})
        for name, values in centres.items()
    }


def _has_corners(grid: dict[str, Any]) -> bool:
    return {"x1", "y1", "x2", "y2"} <= grid.keys()


def read_crs(grid: dict[str, Any]) -> pyproj.CRS | None:
    """The projection of x and y; None if pyproj and CF know none for them."""
    import pyproj

    if "projection" not in grid or not _has_corners(grid):
        return None
    try:
        crs = pyproj.CRS(in_metres(str(grid["projection"])))
    except pyproj.exceptions.CRSError:
        return None
    units = {axis.unit_name for axis in crs.axis_info}
    is_plane = (crs.is_geographic or crs.is_projected) and len(crs.axis_info) == 2
    return crs if is_plane and units <= {"metre", "degree"} else None


def _axis_attributes(name: str, crs: pyproj.CRS | None, are_metres: bool) -> dict[str, str]:
    """What `x` or `y` is: by its projection, or else on a plane in metres, or of units unknown."""
    axis = name.upper()
    if crs is not None:
        attributes = next(found for found in crs.cs_to_cf() if found["axis"] == axis)
        return {**attributes, "units": attributes["units"].replace("metre", "m")}
    if not are_metres:
        return {"long_name": f"{name} in the units of input_projection"}
    return {
        "standard_name": f"projection_{name}_coordinate",
        "long_name": {"x": "Easting", "y": "Northing"}[name],
        "units": "m",
        "axis": axis,
    }


def grid_mapping(crs: pyproj.CRS, text: str) -> dict[str, Any]:
    """CF's attributes, the WKT (which alone has all of some projections) and the input's text.

    The text only where it is PROJ's, for readers that know no WKT; like the coordinates, in metres.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what only the WKT has
        attributes = crs.to_cf()
    if attributes.get("grid_mapping_name") == "polar_stereographic":
        # pyproj leaves out the pole, which CF asks for, where the scale is given by a parallel.
        pole = np.copysign(90.0, attributes.get("standard_parallel", 90.0))
        attributes.setdefault("latitude_of_projection_origin", float(pole))
    attributes["spatial_ref"] = attributes["crs_wkt"]
    is_proj_text = text.lstrip().startswith(("+", "proj="))
    return {**attributes, "proj4": in_metres(text)} if is_proj_text else attributes
