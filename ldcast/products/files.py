"""Forecast files in all their formats; the ending of the name says which."""

from __future__ import annotations

import errno
import importlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldcast.errors import InputError
from ldcast.machine.files import folder_atomically, naming, path_atomically
from ldcast.machine.folders import check_file_writable, check_output_path
from ldcast.products.dataset import from_dataset, to_dataset, to_pysteps
from ldcast.products.forecast import Forecast, read_npz, write_npz

if TYPE_CHECKING:  # an extra, imported where it is used
    import xarray

FORECAST_SUFFIXES = (".npz", ".nc", ".zarr")
FILE_FORMATS = ("pysteps",)  # that no ending stands for

NETCDF_ENGINES = {"netCDF4": "netcdf4", "h5netcdf": "h5netcdf"}  # package: xarray's name for it
# Any one of each group does.
_PACKAGES = {
    ".npz": (),
    ".nc": (("xarray",), tuple(NETCDF_ENGINES), ("pyproj",)),
    ".zarr": (("xarray",), ("zarr",), ("pyproj",)),
}
# Of a forecast's store, in format 3 and, as others may have copied it, in format 2.
_ZARR_METADATA = ("zarr.json", ".zarray")
_ZARR_SIGN = "forecast_reference_time"  # a variable that every forecast has, and radar data lack


def check_forecast_path(path: Path, file_format: str | None = None) -> None:
    """Raise InputError if no forecast can be written to `path`; to be called before the work.

    That is: an unknown ending or format, a place that cannot be written, or a package that is
    missing. An existing file or Zarr store of a forecast is fine; it will be replaced.
    """
    suffix = path.suffix.lower()
    if file_format is not None and file_format not in FILE_FORMATS:
        raise InputError(f"got format '{file_format}', expected {' or '.join(FILE_FORMATS)}")
    if file_format == "pysteps" and suffix != ".nc":
        raise InputError(
            f"{path} ends in '{path.suffix}', expected .nc for the format pysteps; for example "
            f"{path.with_suffix('.nc')}"
        )
    if suffix == ".zarr" and path.exists():
        _check_zarr_store(path)
        check_file_writable(path)
    else:
        check_output_path(path, FORECAST_SUFFIXES)
    require_packages(suffix)


def write_forecast(forecast: Forecast, path: Path, file_format: str | None = None) -> None:
    """Write `forecast` to `path`, whole or not at all, as .npz, NetCDF (.nc) or Zarr (.zarr).

    file_format: "pysteps" for a .nc that `pysteps.io.nowcast_importers.import_netcdf_pysteps`
        reads; None for the format of the ending.
    Raises InputError as `check_forecast_path`, OSError if it cannot be written or the disk is full.
    """
    check_forecast_path(path, file_format)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        write_npz(forecast, path)
        return
    dataset = to_dataset(forecast)
    if file_format == "pysteps":
        dataset = to_pysteps(dataset)
    if suffix == ".nc":
        with path_atomically(path) as unfinished:
            _write_netcdf(dataset, unfinished, path)
    else:
        with folder_atomically(path) as unfinished, naming(path):
            _write_zarr(dataset, unfinished)


def read_forecast(path: Path) -> Forecast:
    """The forecast that `write_forecast` wrote to `path`, whatever the format, except pysteps's.

    Raises FileNotFoundError, or InputError if it is damaged or no forecast file.
    """
    suffix = path.suffix.lower()
    if suffix not in (".nc", ".zarr"):
        return read_npz(path)
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    require_packages(suffix)
    import xarray

    engine = "zarr" if suffix == ".zarr" else _netcdf_engine()
    try:
        with xarray.open_dataset(path, engine=engine) as dataset:
            dataset.load()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); make the forecast again") from None
    return from_dataset(dataset, path)


def _write_netcdf(dataset: xarray.Dataset, unfinished: Path, path: Path) -> None:
    try:
        with naming(path):
            dataset.to_netcdf(unfinished, engine=_netcdf_engine(), format="NETCDF4")
    except RuntimeError as error:  # what netCDF4 makes of all that goes wrong in HDF5
        raise OSError(errno.EIO, f"{error} (is the disk full?)", str(path)) from None


def _write_zarr(dataset: xarray.Dataset, folder: Path) -> None:
    """Blank maps at first, which take no room, then one map at a time.

    Those of one request zarr writes side by side. Where one fails, on a full disk, the others would
    continue, and bring the folder back after it was removed.
    """
    import zarr

    maps = {name: values for name, values in dataset.data_vars.items() if values.ndim > 2}
    blank = {name: values.copy(data=_blank(values.values)) for name, values in maps.items()}
    with warnings.catch_warnings():
        # That format 3 has no rule for consolidated metadata, which spare a reader on the other end
        # of a network a request for each variable; others pass over them.
        warnings.simplefilter("ignore")
        dataset.assign(blank).to_zarr(folder, mode="w", consolidated=True)
    store = zarr.open_group(str(folder), mode="r+")
    for name, values in maps.items():
        for index in np.ndindex(values.shape[:-2]):
            store[name][index] = values.values[index]


def _blank(values: np.ndarray) -> np.ndarray:
    """What zarr takes for empty, in the shape of `values`, without memory of its own."""
    fill = np.nan if values.dtype.kind == "f" else 0
    return np.broadcast_to(values.dtype.type(fill), values.shape)


def _check_zarr_store(path: Path) -> None:
    """Raises InputError for a folder that is no forecast, so that it is not overwritten."""
    if not path.is_dir():
        raise InputError(f"{path} is a file, a Zarr store is a folder; remove it or name another")
    if not any((path / _ZARR_SIGN / name).exists() for name in _ZARR_METADATA):
        raise InputError(
            f"{path} is a folder but no Zarr store of a forecast, and is kept; name another"
        )


def require_packages(suffix: str) -> None:
    """Raises InputError where a package is missing that forecasts of this ending need."""
    for group in _PACKAGES[suffix]:
        if not any(map(_is_installed, group)):
            raise InputError(
                f"{suffix} files need {' or '.join(group)}, which is missing; "
                f"install it with: pip install {group[0]}"
            )


def _netcdf_engine() -> str:
    return next(engine for package, engine in NETCDF_ENGINES.items() if _is_installed(package))


def _is_installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True
