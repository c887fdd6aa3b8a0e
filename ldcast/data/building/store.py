"""An archive of rain on disk: a Zarr store that is whole at every moment.

zarr encodes everything in memory, and the files are put in place here, each under its name only
when it is complete. Rain comes first, in shards of `SHARD_FRAMES` frames, then the times, then what
describes the arrays, and last the group's `zarr.json`, whose consolidated metadata say how many
frames there are: frames appear when it is replaced. A build that is killed before leaves shards
that no reader sees and the next build writes again.

The store follows MLCast's convention for source data, save for its chunks: dimensions time, y, x;
`standard_name` and `units` of a rain rate; `crs` with `spatial_ref`; `missing_times`, those that
the cadence has between the first frame and the last and the time axis has not;
`consistent_timestep_start`.
Source: Zarr specification 3 and its sharding codec; CF Conventions 1.11; MLCast's specification of
source data 0.2.
"""

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ldcast.data.building.archive import (
    ABOUT,
    SHARD_FRAMES,
    Archive,
    chunks_of,
    crs_of,
    missing_times,
    plain,
)
from ldcast.errors import InputError
from ldcast.machine.files import UNFINISHED_PATTERN, open_atomically
from ldcast.products.coordinates import grid_mapping, horizontal

VARIABLE = "rainfall_flux"
_ROOT = "zarr.json"
_STATE = "ldcast_archive"  # the attribute by which a build knows its own
_TIME_CHUNK = 65536  # times in a chunk of their axis
_EPOCH = "seconds since 1970-01-01 00:00:00"


def require_zarr() -> ModuleType:
    """zarr, of version 3. Raises InputError where it is missing or older."""
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"archives need zarr ({error}); install it with: pip install 'zarr>=3' numcodecs pyproj"
        ) from error
    if int(zarr.__version__.split(".")[0]) < 3:
        raise InputError(
            f"zarr is of version {zarr.__version__}, expected 3 or newer, which writes shards "
            "(Python 3.11 or newer); install it with: pip install 'zarr>=3'"
        )
    return zarr


# ---- reading -------------------------------------------------------------------------------------


def open_archive(path: Path) -> Archive | None:
    """The archive at `path`; None where there is nothing yet, or only what a killed build left.

    Raises InputError for what `ldcast.data.build` did not write: it is kept.
    """
    if not path.exists():
        return None
    if path.is_dir() and not (path / _ROOT).exists():
        if all(entry.name == VARIABLE for entry in path.iterdir()):
            return None
        raise InputError(f"{path} is a folder but no archive, and is kept; name another --out")
    try:
        group = _read_group(path)
        state = json.loads(str(group.attrs[_STATE]))
        archive = Archive(
            path=path,
            grid=state["grid"],
            shape=tuple(group[VARIABLE].shape[1:]),
            minutes=state["minutes"],
            bits=state["bits"],
            layout=state["layout"],
            time=group["time"][:].astype("datetime64[s]"),
            unreadable=np.array(state["unreadable"], "datetime64[s]"),
            about={name: str(group.attrs[name]) for name in ABOUT if name in group.attrs},
        )
    except Exception as why:  # of many kinds, from zarr and json
        raise InputError(
            f"{path} is not an archive of ldcast.data.build ({type(why).__name__}: {why}), and is "
            "kept; name another --out, or name it as a SOURCE"
        ) from why
    found, expected = (group[VARIABLE].chunks, group[VARIABLE].shards), chunks_of(archive)
    if found != expected:
        raise InputError(
            f"{path} has chunks and shards of {found}, expected {tuple(expected)}, which this "
            "version writes; name another --out, and it as a SOURCE"
        )
    return archive


def read_frames(archive: Archive, first: int, stop: int) -> np.ndarray:
    """(stop - first, H, W) float16 mm/h, those that readers see."""
    return _read_group(archive.path)[VARIABLE][first:stop]


def _read_group(path: Path) -> Any:
    return require_zarr().open_group(str(path), mode="r")


# ---- writing -------------------------------------------------------------------------------------


def write_shard(archive: Archive, index: int, frames: np.ndarray) -> None:
    """Puts the frames of one shard into their file; readers see them after `commit`.

    index: of the shard along time. frames: (up to `SHARD_FRAMES`, H, W) float16 mm/h.
    """
    files: dict[str, Any] = {}
    array = _create_rain(require_zarr().storage.MemoryStore(files), "", archive, SHARD_FRAMES)
    array[: len(frames)] = frames
    path = shard_path(archive, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "c/0/0/0" in files:
        with open_atomically(path) as file:
            file.write(files["c/0/0/0"].to_bytes())
    else:  # zarr writes nothing where there is no data
        path.unlink(missing_ok=True)


def shard_path(archive: Archive, index: int) -> Path:
    """The file of a shard; all rows and columns are in it."""
    return archive.path / VARIABLE / "c" / str(index) / "0" / "0"


def commit(archive: Archive) -> None:
    """Makes the frames of `archive.time` those that readers see; their shards are there."""
    documents = _documents(archive)
    in_order = sorted(documents, key=lambda name: (name == _ROOT, name.endswith(_ROOT)))
    for name in in_order:  # chunks, then arrays, then the group
        path = archive.path / name
        if not path.exists() or path.read_bytes() != documents[name]:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_atomically(path) as file:
                file.write(documents[name])


def clear_unfinished_shards(path: Path) -> None:
    """Removes what a killed build left half-written; the archive must be held by `lock_folder`."""
    for unfinished in path.rglob(UNFINISHED_PATTERN):
        unfinished.unlink()


def _documents(archive: Archive) -> dict[str, bytes]:
    """All files of the store but the shards, by name."""
    zarr = require_zarr()
    files: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(files)
    group = zarr.create_group(store, attributes=_group_attributes(archive))
    crs = crs_of(archive.grid)
    is_placed = {"grid_mapping": "crs"} if crs is not None else {}
    _create_rain(store, VARIABLE, archive, len(archive.time), _rain_attributes(archive, is_placed))
    _add(group, "time", archive.time, _time_attributes("time of the radar image, UTC"))
    missing = missing_times(archive.time, archive.minutes)
    if len(missing):
        attributes = _time_attributes("times of the cadence without a radar image, UTC", axis=False)
        _add(group, "missing_times", missing, attributes)
    for name, (axis, values, attributes, _) in horizontal(archive.grid, archive.shape, crs).items():
        array = group.create_array(
            name, data=np.asarray(values, np.float64), dimension_names=(axis,)
        )
        array.attrs.update(attributes)
    if crs is not None:
        mapping = grid_mapping(crs, str(archive.grid["projection"]))
        array = group.create_array("crs", data=np.array(0, np.int32), dimension_names=())
        array.attrs.update({name: plain(value) for name, value in mapping.items()})
    with warnings.catch_warnings():
        # That format 3 has no rule for consolidated metadata yet; xarray and zarr use them.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    return {name: value.to_bytes() for name, value in files.items()}


def _create_rain(
    store: Any, name: str, archive: Archive, num_frames: int, attributes: Any = None
) -> Any:
    """The array of rain, without values: no data."""
    chunks = chunks_of(archive)
    zarr = require_zarr()
    return zarr.create_array(
        store,
        name=name or None,
        shape=(num_frames, *archive.shape),
        chunks=chunks.chunk,
        shards=chunks.shard,
        dtype="float16",
        fill_value=np.nan,
        compressors=zarr.codecs.ZstdCodec(level=3),
        dimension_names=("time", "y", "x"),
        attributes=attributes,
    )


def _add(group: Any, name: str, time: np.ndarray, attributes: dict[str, str]) -> None:
    seconds = time.astype("datetime64[s]").astype(np.int64)
    array = group.create_array(
        name,
        shape=seconds.shape,
        chunks=(_TIME_CHUNK,),
        dtype="int64",
        dimension_names=(name,),
        attributes=attributes,
    )
    array[:] = seconds


def _time_attributes(long_name: str, axis: bool = True) -> dict[str, str]:
    return {
        "standard_name": "time",
        "long_name": long_name,
        "units": _EPOCH,
        "calendar": "proleptic_gregorian",
        **({"axis": "T"} if axis else {}),
    }


def _rain_attributes(archive: Archive, is_placed: dict[str, str]) -> dict[str, Any]:
    return {
        "standard_name": VARIABLE,
        "long_name": "rain rate, in mm/h",
        "units": "kg m-2 h-1",
        **is_placed,
        # CF 1.12's names for what rounding has lost.
        "quantization_nsb": archive.bits,
        "quantization_maximum_relative_error": archive.relative_error,
        "comment": f"rounded by numcodecs' BitRound to {archive.bits} bits of the mantissa: "
        f"relative error at most {archive.relative_error:.2g}; NaN = no data",
    }


def _group_attributes(archive: Archive) -> dict[str, Any]:
    state = {
        "version": 1,
        "minutes": archive.minutes,
        "bits": archive.bits,
        "layout": archive.layout,
        "grid": {name: plain(value) for name, value in archive.grid.items()},
        "unreadable": [str(time) for time in archive.unreadable],
    }
    start = {"consistent_timestep_start": f"{archive.time[0]}Z"} if len(archive.time) else {}
    return {
        "Conventions": "CF-1.11",
        "title": "Radar rain rates",
        **start,
        **archive.about,
        _STATE: json.dumps(state),  # a text, which NetCDF can hold, too
    }
