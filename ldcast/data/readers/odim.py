"""Composites in ODIM HDF5: the OPERA Data Information Model's format.

Read without pysteps, whose importer takes all attributes of a field from one group, compares
`nodata` and `undetect` in another type than the data's, and gives neither time nor interval.
Source: EUMETNET OPERA, data information model for HDF5 (ODIM_H5), version 2.4.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldcast.data.event import RainEvent
from ldcast.data.grids import metres_per_unit
from ldcast.data.readers.importers import (
    attribute_text,
    minutes_between,
    parse_digits,
    rain_from_dbz,
    reading,
    refuse_relation,
    relation_text,
    require_hdf5,
    scale_lengths,
    service_event,
)
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError

if TYPE_CHECKING:  # an extra, imported where it is used
    import h5py

MARSHALL_PALMER = 200.0, 1.6  # Z = a R^b, as OPERA takes it for its own rain composites
QUANTITIES = ("RATE", "ACRR", "DBZH")  # by preference: what needs least conversion first


class _Field(NamedTuple):
    """An image and the attributes of its groups; those of the file and the dataset are inherited.

    what, where: the attributes of the groups of these names. group: holds the image, `data`.
    """

    quantity: str
    what: dict[str, Any]
    where: dict[str, Any]
    group: "h5py.Group"


def read_odim(path: Path, how: Reading = AS_STATED) -> RainEvent:
    """One composite in ODIM HDF5: its RATE (mm/h), else ACRR (mm), else DBZH by Z = 200 R^1.6.

    Where `how` has a Z-R relation it is DBZH by that. Time is the end of the accumulation of ACRR,
    and the nominal time of the others.
    """
    with reading(path, "ODIM HDF5 with a composite"):
        require_hdf5()
        import h5py

        with h5py.File(path) as file:
            field = _choose(_fields(file, path), path, how)
            values, has_echo = _values(field)
            metadata = _place(field.where)
            time, start = _time(field, path)
    if field.quantity == "DBZH":
        relation = how.zr or MARSHALL_PALMER
        rain_rate = rain_from_dbz(values, relation, has_echo)
        source = f"DBZH by {relation_text(relation)}"
    elif start is not None:
        minutes = minutes_between(start, time, path)
        rain_rate = np.where(has_echo, values * (60 / minutes), 0.0)
        source = f"ACRR in mm per {minutes:g} minutes"
    else:
        rain_rate, source = np.where(has_echo, values, 0.0), "RATE"
    return service_event(path, rain_rate, time, metadata, f"{source}, undetect as 0", start)


def odim_time(path: Path, how: Reading = AS_STATED) -> np.datetime64:
    """The time of what `read_odim` reads, without its image."""
    with reading(path, "ODIM HDF5 with a composite"):
        require_hdf5()
        import h5py

        with h5py.File(path) as file:
            return _time(_choose(_fields(file, path), path, how), path)[0]


# ---- fields --------------------------------------------------------------------------------------


def _fields(file: "h5py.File", path: Path) -> list[_Field]:
    kind = attribute_text(file["what"].attrs["object"])
    if kind not in ("COMP", "IMAGE"):
        raise InputError(f"{path} is a {kind}, expected a COMP: name a composite, not radar scans")
    return [
        _field(file, dataset, data)
        for dataset_name, dataset in file.items()
        if re.fullmatch(r"dataset\d+", dataset_name)
        for data_name, data in dataset.items()
        if re.fullmatch(r"data\d+", data_name)
    ]


def _field(file: "h5py.File", dataset: "h5py.Group", data: "h5py.Group") -> _Field:
    what, where = (
        {
            name: value
            for group in (file, dataset, data)  # what is lower counts
            if about in group
            for name, value in group[about].attrs.items()
        }
        for about in ("what", "where")
    )
    return _Field(attribute_text(what.get("quantity", "")), what, where, data)


def _choose(fields: list[_Field], path: Path, how: Reading) -> _Field:
    """The composite's rain; its reflectivity where `how` has a Z-R relation."""
    names = [field.quantity for field in fields]
    for quantity in ("DBZH",) if how.zr else QUANTITIES:
        if names.count(quantity) == 1:
            return fields[names.index(quantity)]
        if quantity in names:
            raise InputError(
                f"{path} has {quantity} {names.count(quantity)} times, expected one composite; "
                "split the file"
            )
    listed = ", ".join(names) or "no quantity"
    refuse_relation(path, how, listed)
    raise InputError(
        f"{path} has {listed}, expected {', '.join(QUANTITIES)}; choose a product of rain or "
        "reflectivity"
    )


# ---- values --------------------------------------------------------------------------------------


def _values(field: _Field) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float64 in the quantity's unit, NaN for no data; and bool, False for no echo.

    Where one code stands for both, it is no data.
    """
    what, codes = field.what, field.group["data"][...]
    gain, offset = _number(what.get("gain", 1.0)), _number(what.get("offset", 0.0))
    is_missing = _is_level(codes, what["nodata"]) if "nodata" in what else np.False_
    has_echo = ~_is_level(codes, what.get("undetect", 0.0)) | is_missing
    values = np.where(is_missing, np.nan, codes * gain + offset)
    return values, has_echo


def _number(value: Any) -> np.floating:
    """A numeric attribute in its own precision, or in float64 where it is an integer or a text."""
    number = np.ravel(value)[0]
    return number if isinstance(number, np.floating) else np.float64(attribute_text(value))


def _is_level(codes: np.ndarray, value: Any) -> np.ndarray:
    """(H, W) bool: where the code of no data, or of no echo, stands.

    Both are compared in the data's type, or in that of the attribute where it has fewer digits:
    -9999.9 of float64 is no number of float32. What the type cannot hold, such as -1 beside
    unsigned numbers, is nowhere. NaN is where NaN is.
    """
    level = _number(value)
    if codes.dtype.kind != "f":
        return codes == np.float64(level)
    if np.isnan(level):
        return np.isnan(codes)
    kind = min(codes.dtype, level.dtype, key=lambda dtype: dtype.itemsize)
    with np.errstate(over="ignore"):
        return codes.astype(kind) == level.astype(kind)


# ---- time and place ------------------------------------------------------------------------------


def _time(field: _Field, path: Path) -> tuple[np.datetime64, np.datetime64 | None]:
    """The time, and the start of an amount's interval; None of what is of an instant.

    Radars scan for minutes: the start and end of these are not those of an amount.
    """
    if field.quantity != "ACRR":
        return _utc(field, "date", "time", path), None
    start = _utc(field, "startdate", "starttime", path)
    return _utc(field, "enddate", "endtime", path), start


def _utc(field: _Field, date: str, time: str, path: Path) -> np.datetime64:
    text = f"{attribute_text(field.what[date])} {_clock(field.what[time])}"
    return parse_digits(text, "%Y%m%d %H%M%S", path)


def _clock(value: Any) -> str:
    """HHMMSS; a number has lost the 0 before one digit of the hour."""
    is_number = np.asarray(value).dtype.kind in "iu"
    text = attribute_text(value)
    return text.zfill(6) if is_number and len(text) == 5 else text


def _place(where: dict[str, Any]) -> dict[str, Any]:
    """Projection, corners and pixel sizes, as pysteps's importers name them, in metres or degrees.

    Of the corners that are given the outermost count.
    """
    import pyproj

    projection = attribute_text(where["projdef"])
    to_map = pyproj.Proj(projection)

    def corners(*names: str) -> np.ndarray:
        """(2, N) x and y of those that are given."""
        known = [name for name in names if f"{name}_lon" in where and f"{name}_lat" in where]
        degrees = [[_number(where[f"{name}_{axis}"]) for name in known] for axis in ("lon", "lat")]
        return np.array(to_map(*degrees))

    metadata = {
        "projection": projection,
        "x1": corners("LL", "UL")[0].min(),
        "y1": corners("LL", "LR")[1].min(),
        "x2": corners("LR", "UR")[0].max(),
        "y2": corners("UL", "UR")[1].max(),
        "xpixelsize": where.get("xscale"),
        "ypixelsize": where.get("yscale"),
        "yorigin": "upper",
    }
    unit = metres_per_unit(projection)
    if unit != 1:  # corners are in km, pixel sizes in either
        metadata |= {"xpixelsize": None, "ypixelsize": None}
        scale_lengths(metadata, unit)
    return metadata
