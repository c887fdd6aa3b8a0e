"""NetCDF files and Zarr stores as xarray datasets, from a disk or behind an address."""

import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ldcast.data.addresses import is_remote, require_fsspec
from ldcast.data.formats import looks_like
from ldcast.data.readers.chunks import unwritten_is_no_data, zero_is_a_value
from ldcast.errors import InputError, UnreadableError

if TYPE_CHECKING:  # an extra, imported where it is used
    from xarray import Dataset


def require_xarray() -> ModuleType:
    """xarray. Raises InputError where it is missing."""
    try:
        import xarray
    except ImportError as error:
        raise InputError(
            f"NetCDF and Zarr need xarray ({error}); install it with: pip install xarray netCDF4 "
            "zarr"
        ) from error
    return xarray


def open_dataset(address: Path | str) -> "Dataset":
    """What is at a path, or at an address of a Zarr store, decoded by the CF conventions.

    Values are not loaded. Raises UnreadableError where it is missing or cannot be read.
    """
    is_store = is_remote(address) or address.is_dir()
    if is_remote(address):
        require_fsspec(address)
    elif not address.exists():
        raise UnreadableError(f"{address} is missing, expected a NetCDF file or a Zarr folder")
    xarray = require_xarray()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated")
            engine = "zarr" if is_store else None
            raw = xarray.open_dataset(address, engine=engine, decode_cf=False, cache=False)
            return xarray.decode_cf(
                zero_is_a_value(raw, address) if is_store else unwritten_is_no_data(raw),
                decode_coords="all",  # grid mappings, too, become coordinates
                decode_timedelta=False,
            )
    except Exception as why:  # of many kinds, from xarray and the packages beneath it
        said = " ".join(str(why).split())
        if "unable to decode time units" in said:
            fix = "fix units and calendar of the time, such as minutes since 2020-01-01, standard"
        elif is_remote(address):
            fix = "check the address, its credentials and that its metadata are consolidated"
        else:
            fix = looks_like(address, other_than="xarray") or (
                "fetch it again, or: pip install netCDF4 zarr"
            )
        raise UnreadableError(
            f"{address} is not a readable NetCDF or Zarr ({type(why).__name__}: {said[:200]}); "
            f"{fix}"
        ) from why
