"""The format of a file that was not read, by its first bytes, and what to do with it."""

import contextlib
import gzip
from pathlib import Path
from typing import NamedTuple

_ZARR_NAMES = ("zarr.json", ".zgroup", ".zmetadata")
_SET = "set standard_name to rainfall_rate and units to mm h-1"
_HEAD_BYTES = 16


class Kind(NamedTuple):
    """A format.

    what: its name. readers: of `READERS` that may read it. remedy: what to do where none does.
    """

    what: str
    readers: tuple[str, ...] = ()
    remedy: str = ""


_GRIB = Kind(
    "GRIB, which is not read",
    remedy="convert it to NetCDF, by wgrib2 FILE -netcdf OUT.nc or by xarray with cfgrib, and "
    f"{_SET}",
)
_NETCDF = Kind("NetCDF", ("xarray",), "give it a name that ends in .nc")
_HDF5 = Kind("HDF5", ("odim", "knmi"))
_UNPACK = "unpack it first"

# By the bytes that a file starts with.
_KINDS = {
    b"GRIB": _GRIB,
    b"\x89HDF": _HDF5,
    b"CDF": _NETCDF,
    b"GIF8": Kind("a GIF", ("mch",)),
    b"P5": Kind("a PGM", ("fmi",)),
    b"PK\x03\x04": Kind("an .npz file", ("npz",)),
    b"\x89PNG": Kind("a PNG", remedy="colours are no rain rates: get the data themselves"),
    b"\xff\xd8\xff": Kind("a JPEG", remedy="colours are no rain rates: get the data themselves"),
    **dict.fromkeys(
        (b"II*\0", b"MM\0*"),
        Kind("a TIFF, which is not read", remedy=f"write it as NetCDF with times, and {_SET}"),
    ),
    b"BUFR": Kind("BUFR, which is not read", remedy="get it as ODIM HDF5 or NetCDF"),
    b"BZh": Kind("packed by bzip2", remedy=_UNPACK),
    b"\xfd7zXZ": Kind("packed by xz", remedy=_UNPACK),
    b"(\xb5/\xfd": Kind("packed by zstd", remedy=_UNPACK),
}
_GZIP = b"\x1f\x8b"


def kind_of(path: Path) -> Kind | None:
    """The format of a file or Zarr folder; None where it is not known here.

    Never raises: what cannot be looked into is not known.
    """
    if is_zarr(path):
        return Kind("a Zarr store", ("xarray",), "give it a name that ends in .zarr")
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        if not head.startswith(_GZIP):
            kind = _kind_of_bytes(head)
            return _kind_of_hdf5(path) if kind is _HDF5 else kind
        with gzip.open(path) as file:
            inside = _kind_of_bytes(file.read(_HEAD_BYTES))
    except (OSError, EOFError):
        return None
    if inside and "fmi" in inside.readers:
        return Kind("a PGM, gzipped", inside.readers)
    if inside is None:
        return Kind("gzipped", remedy="unpack it by gunzip")
    then = inside.remedy or _with_reader(str(path.with_suffix("")), inside.readers)
    return Kind(f"{inside.what}, gzipped", remedy=f"unpack it by gunzip, then {then}")


def next_step(path: Path) -> str:
    """What to do with a file or a folder that is no event file, in words that fit each command.

    Empty for a file that is not known here or should be an event file.
    """
    if path.is_dir() and not is_zarr(path):
        return _next_step_of_folder(path)
    kind = kind_of(path)
    if kind is None or "npz" in kind.readers:
        return ""
    return f"it is {kind.what}: {kind.remedy or _with_reader(str(path), kind.readers)}"


def looks_like(path: Path, other_than: str = "") -> str:
    """What a file is, where a reader is to be chosen or failed; empty if not known.

    other_than: empty also where this reader may well be the right one.
    """
    kind = kind_of(path)
    if kind is None or other_than in kind.readers or (other_than and kind is _HDF5):
        return ""
    readers = f" (--reader {' or '.join(kind.readers)})" if kind.readers else f": {kind.remedy}"
    return f"{path.name} is {kind.what}{readers}"


def is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in _ZARR_NAMES)


def _next_step_of_folder(folder: Path) -> str:
    """By what most of its files seem to be, which is what the first of them is."""
    for path in sorted(folder.iterdir()):
        kind = None if path.name.startswith(".") else kind_of(path)
        if kind and kind.readers:
            return _with_reader(f"{folder}/*", kind.readers)
        if kind:
            return f"{path.name} in it is {kind.what}: {kind.remedy}"
    return "name a file, or a folder that has files of radar rain"


def _with_reader(files: str, readers: tuple[str, ...]) -> str:
    by_infer = f"infer.py reads it with --reader {' or '.join(readers)}"
    if readers[0] in ("npz", "xarray"):
        return f"{by_infer}, other commands take {files}"
    return (
        f"{by_infer}; for other commands convert it: python -m ldcast.data.build {files} "
        f"--reader {readers[0]} --out EVENT.npz"
    )


def _kind_of_bytes(head: bytes) -> Kind | None:
    return next((kind for start, kind in _KINDS.items() if head.startswith(start)), None)


def _kind_of_hdf5(path: Path) -> Kind:
    """Which HDF5 it is, where h5py is there to look; else that of all."""
    with contextlib.suppress(Exception):  # missing, or of a dozen kinds: then any HDF5
        import h5py

        with h5py.File(path) as file:
            if "_NCProperties" in file.attrs:
                return _NETCDF
            if "overview" in file and "image1" in file:
                return Kind("HDF5 of KNMI", ("knmi",))
            if "what" in file and "dataset1" in file:
                return Kind("ODIM HDF5", ("odim",))
    return _HDF5
