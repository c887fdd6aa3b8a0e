"""Composites in ODIM HDF5, read by pysteps's importer: the OPERA Data Information Model's format.

Source: EUMETNET OPERA, data information model for HDF5 (ODIM_H5), version 2.4.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.archive import RainEvent
from ldcast.data.grids import metres_per_unit
from ldcast.data.importers import (
    attribute_text,
    minutes_between,
    parse_utc,
    rain_from_dbz,
    reading,
    relation_text,
    scale_lengths,
    service_event,
)
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError

if TYPE_CHECKING:  # an extra, imported where it is used
    import h5py

MARSHALL_PALMER = 200.0, 1.6  # Z = a R^b, as OPERA takes it for its own rain composites
QUANTITIES = ("RATE", "ACRR", "DBZH")  # by preference: what needs least conversion first


def read_odim(path: Path, how: Reading = AS_STATED) -> RainEvent:
    """One composite in ODIM HDF5: its RATE (mm/h), else ACRR (mm), else DBZH by Z = 200 R^1.6.

    Time is the end of the accumulation of ACRR, and the nominal time of the others.
    """
    with reading(path, "ODIM HDF5 with a composite") as importers:
        import h5py

        with h5py.File(path) as file:
            quantity, dataset, data = _field(file, path)
            time, minutes = _time(file, dataset, quantity, path)
            _check_levels(dataset, data, path)
            has_echo = _has_echo(dataset, data)
        values, _, metadata = importers.import_odim_hdf5(str(path), qty=quantity)
    if quantity == "DBZH":
        rain_rate = rain_from_dbz(values, MARSHALL_PALMER, has_echo)
        source = f"DBZH by {relation_text(MARSHALL_PALMER)}"
    else:
        rain_rate = np.where(has_echo, values * (60 / minutes), 0.0)
        source = f"ACRR in mm per {minutes:g} minutes" if quantity == "ACRR" else "RATE"
    unit = metres_per_unit(metadata["projection"])
    if unit != 1:  # corners are in km, pixel sizes in either
        metadata |= {"xpixelsize": None, "ypixelsize": None}
        scale_lengths(metadata, unit)
    return service_event(path, rain_rate, time, metadata, f"{source}, undetect as 0")


def _field(file: "h5py.File", path: Path) -> tuple[str, "h5py.Group", "h5py.Group"]:
    """(quantity, dataset group, data group) of the composite's rain."""
    kind = attribute_text(file["what"].attrs["object"])
    if kind not in ("COMP", "IMAGE"):
        raise InputError(f"{path} is a {kind}, expected a COMP: name a composite, not radar scans")
    fields = [
        (attribute_text(_inherited_what(dataset, data).get("quantity", "")), dataset, data)
        for dataset_name, dataset in file.items()
        if re.fullmatch(r"dataset\d+", dataset_name)
        for data_name, data in dataset.items()
        if re.fullmatch(r"data\d+", data_name)
    ]
    names = [quantity for quantity, *_ in fields]
    for quantity in QUANTITIES:
        if names.count(quantity) == 1:
            return fields[names.index(quantity)]
        if quantity in names:
            raise InputError(
                f"{path} has {quantity} {names.count(quantity)} times, expected one composite; "
                "split the file"
            )
    raise InputError(
        f"{path} has {', '.join(names) or 'no quantity'}, expected {', '.join(QUANTITIES)}"
        "; choose a product of rain or reflectivity"
    )


def _inherited_what(dataset: "h5py.Group", data: "h5py.Group") -> dict[str, Any]:
    """The attributes of the data's `what`, or, as in the importer, of the dataset's."""
    group = data if "what" in data else dataset
    return dict(group["what"].attrs) if "what" in group else {}


def _check_levels(dataset: "h5py.Group", data: "h5py.Group", path: Path) -> None:
    """ODIM lets a group inherit each attribute; the importer takes all of them from one group."""
    above = dict(dataset["what"].attrs) if "what" in dataset else {}
    inherited = above.keys() - _inherited_what(dataset, data)
    missed = sorted(inherited & {"gain", "offset", "nodata", "undetect"})
    if missed:
        raise InputError(
            f"{path}: {' and '.join(missed)} of {data.name} stand in {dataset.name}/what, expected "
            f"in {data.name}/what with the others, where pysteps reads them; copy them there"
        )


def _has_echo(dataset: "h5py.Group", data: "h5py.Group") -> np.ndarray:
    """(H, W) bool, False where nothing was detected.

    The importer writes undetect as -30 dBZ, or as the offset, where it cannot be told from echoes.
    """
    what = _inherited_what(dataset, data)
    codes = data["data"][...]
    # No data comes first in the importer, too, where one code stands for both.
    return (codes != what.get("undetect", 0.0)) | (codes == what.get("nodata"))


def _time(
    file: "h5py.File", dataset: "h5py.Group", quantity: str, path: Path
) -> tuple[np.datetime64, float]:
    """The time, and the minutes that the values are amounts of: 60 for rates in mm/h.

    Not from the importer, which gives no time, and states 15 minutes for every file.
    """
    if quantity != "ACRR":
        return _utc(file, "date", "time"), 60.0
    start = _utc(dataset, "startdate", "starttime")
    end = _utc(dataset, "enddate", "endtime")
    return end, minutes_between(start, end, path)


def _utc(group: "h5py.Group", date: str, time: str) -> np.datetime64:
    what = group["what"].attrs
    return parse_utc(attribute_text(what[date]) + attribute_text(what[time]), "%Y%m%d%H%M%S")
