"""Forecast files of other systems: our own formats, plain arrays and the NetCDF of pysteps.

An .npz needs `rain_rate` (E, T, H, W), or (T, H, W) for one member, in mm/h, row 0 = north,
`lead_minutes` (T,) and `issue_time` (datetime64 or ISO text, UTC). It may have `case`, the corners
`x1 y1 x2 y2` and `units`. Our own forecast files have all that.
NetCDF and Zarr need `rain_rate` or `precip_intensity` with dimensions time, y, x and, for members,
one more of any name; a time whose units count from the issue time, or `forecast_reference_time`.
Rows are from the north where y falls and are turned where it rises.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ldcast.data.checks import FROM_DBZ, mm_per_hour, rounded_to_seconds
from ldcast.data.grids import CORNERS, Corners
from ldcast.data.readers.opening import open_dataset
from ldcast.data.spans import parse_time
from ldcast.errors import InputError
from ldcast.rain import MAX_RAIN_RATE, ROUNDING, as_float32
from ldcast.verification.case_files import CASE_ENTRY

if TYPE_CHECKING:  # an extra, imported where it is used
    from xarray import DataArray, Dataset

SUFFIXES = (".npz", ".nc", ".zarr")
# Of datasets: our own name, then those that pysteps has for rates, amounts and reflectivity, of
# which only the first is in mm/h.
_RAIN_NAMES = ("rain_rate", "precip_intensity", "precip_accum", "reflectivity")
_REQUIRED = ("rain_rate", "lead_minutes", "issue_time")
_MAX_IMPOSSIBLE = 1e-3  # share of values above `MAX_RAIN_RATE`; more are of another unit
_ROW_NUMBERS = "1"  # units of y in our own files without corners: rows, from the north
_ZERO_ZONE = re.compile(r"(\.0+)?( ?UTC| ?\+00:?00)?$")  # at the end of times that units count from
_METRES = {"km": 1000.0}  # per unit of x and y; others stay as they are


class OthersForecast(NamedTuple):
    """What a file holds.

    rain_rate: (E, T, H, W) float32 mm/h, not negative, row 0 = north, NaN = no forecast there.
    issue_time: UTC. lead_minutes: (T,). corners: None where the file does not say.
    """

    rain_rate: np.ndarray
    issue_time: np.datetime64
    lead_minutes: np.ndarray
    corners: Corners | None


def read_case_name(path: Path) -> str | None:
    """The case that a forecast file says it is of; None where it does not say.

    Reads no rain. Raises InputError if the file is damaged or of another format.
    """
    if path.suffix.lower() == ".npz":
        entries = _read_entries(path, (CASE_ENTRY,))
        if not entries:
            return None
        name = entries[CASE_ENTRY]
        if name.size != 1 or name.dtype.kind not in "US":
            raise InputError(f"{path}: case is {name!r}, expected the case's name as text")
        name = name.item()
        return name.decode(errors="replace") if isinstance(name, bytes) else name
    with open_dataset(path) as dataset:
        names = (CASE_ENTRY, f"input_{CASE_ENTRY}")  # ours has attributes of the input under this
        return next((str(dataset.attrs[name]) for name in names if name in dataset.attrs), None)


def read_others_forecast(path: Path) -> OthersForecast:
    """The forecast in a file, loaded and checked.

    Raises InputError if it is damaged, lacks something, is not in mm/h, or has values that no rain
    has: infinite, negative, or above 500 mm/h in more than one of a thousand.
    """
    is_arrays = path.suffix.lower() == ".npz"
    forecast = _from_arrays(path) if is_arrays else _from_dataset(path)
    shape, num_leads = forecast.rain_rate.shape, len(forecast.lead_minutes)
    if len(shape) != 4 or 0 in shape or shape[1] != num_leads:
        raise InputError(
            f"{path}: rain of shape {shape} with {num_leads} lead times, expected (member, lead "
            "time, y, x) or (lead time, y, x), none of them empty"
        )
    return forecast._replace(rain_rate=_checked(forecast.rain_rate, path))


# ---- arrays --------------------------------------------------------------------------------------


def _read_entries(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the entries that the file has."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}
    except Exception as why:  # of a dozen kinds from zipfile, zlib and NumPy: it is damaged
        raise InputError(
            f"{path} is damaged or no .npz file ({type(why).__name__}: {why}): write it again with "
            "numpy.savez_compressed"
        ) from None


def _from_arrays(path: Path) -> OthersForecast:
    entries = _read_entries(path, (*_REQUIRED, *CORNERS, "units"))
    missing = [name for name in _REQUIRED if name not in entries]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}: expected rain_rate (member, lead time, y, x) in "
            "mm/h, lead_minutes (lead time,) and issue_time (datetime64 or ISO text, UTC)"
        )
    _check_units(str(entries.get("units", "mm/h")), path)
    lead_minutes, rain_rate = entries["lead_minutes"], entries["rain_rate"]
    if lead_minutes.dtype.kind not in "iuf" or lead_minutes.ndim != 1:
        raise InputError(
            f"{path}: lead_minutes is {lead_minutes.dtype} of shape {lead_minutes.shape}, expected "
            "a number of minutes after the issue time for each frame"
        )
    corners = None
    given = [name for name in CORNERS if name in entries]
    if 0 < len(given) < len(CORNERS):
        raise InputError(
            f"{path} has {', '.join(given)}, expected all of {', '.join(CORNERS)} or none of them"
        )
    if given:
        corners = tuple(_number(entries[name], name, path) for name in CORNERS)
    return OthersForecast(
        rain_rate[None] if rain_rate.ndim == 3 else rain_rate,
        _time(entries["issue_time"], path),
        lead_minutes,
        corners,
    )


def _time(value: np.ndarray, path: Path) -> np.datetime64:
    """UTC, to the second; not of a number, which would count from an unknown beginning."""
    if value.ndim == 0 and value.dtype.kind == "M" and not np.isnat(value):
        return rounded_to_seconds(value)[()]
    try:
        if value.ndim == 0 and value.dtype.kind == "U":
            return parse_time(str(value))
    except InputError:
        pass
    raise InputError(
        f"{path}: issue_time is {value!r}, expected one datetime64 or ISO text in UTC, such as "
        "2016-07-11T22:00"
    )


def _number(value: np.ndarray, name: str, path: Path) -> float:
    if value.ndim or value.dtype.kind not in "iuf" or not np.isfinite(value):
        raise InputError(f"{path}: {name} is {value!r}, expected a finite number; or leave it out")
    return float(value)


# ---- datasets ------------------------------------------------------------------------------------


def _from_dataset(path: Path) -> OthersForecast:
    with open_dataset(path) as dataset:
        rain = _rain_variable(dataset, path)
        _check_units(str(rain.attrs.get("units", "")), path)
        members = _with_members(rain, path)
        issue_time = _issue_time(dataset, path)
        lead_minutes = (rounded_to_seconds(dataset["time"].values) - issue_time) / np.timedelta64(
            1, "m"
        )
        for axis in ("x", "y"):
            if axis not in rain.coords:  # xarray would number them, and rows would seem to rise
                raise InputError(
                    f"{path} has no coordinate {axis}, expected the centres of the pixels in metres"
                    ", or numbers with units '1' for rows from the north; add them"
                )
        (x1, x2), is_west_first = _edges(rain, "x", path)
        (y1, y2), is_south_first = _edges(rain, "y", path)
        if not is_west_first:
            raise InputError(
                f"{path}: x falls, expected columns from west to east; turn them and write it again"
            )
        is_placed = _units(rain, "y") != _ROW_NUMBERS
        values = _load(members, path)
    if is_placed and is_south_first:
        values = values[..., ::-1, :]
    return OthersForecast(
        np.ascontiguousarray(values),
        issue_time,
        lead_minutes,
        (x1, y1, x2, y2) if is_placed else None,
    )


def _rain_variable(dataset: Dataset, path: Path) -> DataArray:
    for name in _RAIN_NAMES:
        if name in dataset.data_vars:
            return dataset[name]
    raise InputError(
        f"{path} has {', '.join(map(str, dataset.data_vars)) or 'no variables'}, expected "
        "rain_rate, or precip_intensity as pysteps writes it; rename the rain"
    )


def _with_members(rain: DataArray, path: Path) -> DataArray:
    """(member, time, y, x); a new first axis where the file has one member."""
    more = [name for name in rain.dims if name not in ("time", "y", "x")]
    longer = [name for name in more if rain.sizes[name] > 1]
    if not {"time", "y", "x"} <= set(rain.dims) or len(longer) > 1:
        raise InputError(
            f"{path}: {rain.name} has dimensions {', '.join(map(str, rain.dims))}, expected time, "
            "y, x and for members one more"
        )
    axis = next(iter([*longer, *more]), "member")
    rain = rain.squeeze([name for name in more if name != axis], drop=True)
    rain = rain if more else rain.expand_dims(axis)
    return rain.transpose(axis, "time", "y", "x")


def _issue_time(dataset: Dataset, path: Path) -> np.datetime64:
    """By our own files' variable; else the time that the units of `time` count from."""
    time = dataset["time"]
    if time.dtype.kind == "M" and "forecast_reference_time" in dataset.variables:
        issue_time = dataset["forecast_reference_time"].values
        if issue_time.dtype.kind == "M" and issue_time.ndim == 0 and not np.isnat(issue_time):
            return rounded_to_seconds(issue_time)[()]
    elif time.dtype.kind == "M":
        start = str(time.encoding["units"]).partition(" since ")[2]
        with contextlib.suppress(InputError):
            return parse_time(_ZERO_ZONE.sub("", start.strip()).replace(" ", "T"))
    raise InputError(
        f"{path}: its time does not say when the forecast was issued, expected units such as "
        "'seconds since 2016-07-11 22:00:00', the issue time; set them"
    )


def _edges(rain: DataArray, axis: str, path: Path) -> tuple[tuple[float, float], bool]:
    """The outer edges of the pixels, lower one first, and whether the coordinates rise."""
    centres = rain[axis].values
    if centres.dtype.kind not in "iuf" or len(centres) < 2 or not np.isfinite(centres).all():
        raise InputError(f"{path}: {axis} is {centres}, expected at least two coordinates")
    centres = centres.astype(np.float64) * _METRES.get(_units(rain, axis), 1.0)
    steps = np.diff(centres)
    if (np.sign(steps) != np.sign(steps[0])).any() or steps[0] == 0:
        raise InputError(f"{path}: {axis} neither rises nor falls all along; write it again")
    half = abs(centres[-1] - centres[0]) / (len(centres) - 1) / 2
    return (float(centres.min() - half), float(centres.max() + half)), bool(steps[0] > 0)


def _units(rain: DataArray, axis: str) -> str:
    return str(rain[axis].attrs.get("units", ""))


def _load(rain: DataArray, path: Path) -> np.ndarray:
    try:
        return rain.to_numpy()
    except Exception as why:  # of many kinds, from the packages beneath xarray
        raise InputError(
            f"{path} is damaged ({type(why).__name__}: {why}): write it again"
        ) from None


# ---- values --------------------------------------------------------------------------------------


def _check_units(units: str, path: Path) -> None:
    if mm_per_hour(units) == 1:
        return
    fix = "convert them (mm in 5 minutes times 12)"
    if "dbz" in units.lower():
        fix = FROM_DBZ
    raise InputError(
        f"{path}: {f'units {units!r}' if units else 'no units'}, expected rates in mm/h; {fix}"
    )


def _checked(rain_rate: np.ndarray, path: Path) -> np.ndarray:
    """float32, with what rounding left below zero set to 0."""
    if rain_rate.dtype.kind != "f":
        raise InputError(
            f"{path}: its rain is {rain_rate.dtype}, expected floating point mm/h; apply the scale "
            "of stored counts"
        )
    checked, num_impossible = np.empty(rain_rate.shape, np.float32), 0
    for of_member, out in zip(rain_rate, checked, strict=True):  # one by one, to spare memory
        out[...] = as_float32(of_member)
        if np.isinf(out).any():
            raise InputError(f"{path}: infinite rain, expected mm/h; write NaN for no forecast")
        lowest = np.fmin.reduce(out, axis=None)
        if lowest < -ROUNDING:
            raise InputError(
                f"{path}: rain goes down to {lowest:g}, expected mm/h, never negative; if this is "
                f"reflectivity, {FROM_DBZ}"
            )
        out[out < 0] = 0
        num_impossible += np.count_nonzero(out > MAX_RAIN_RATE)
    if num_impossible > _MAX_IMPOSSIBLE * checked.size:
        raise InputError(
            f"{path}: {num_impossible / checked.size:.1%} of its values are above "
            f"{MAX_RAIN_RATE:g} mm/h, expected no more than {_MAX_IMPOSSIBLE:.1%}; is it in other "
            "units?"
        )
    return checked
