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
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ldcast.data.grids import CORNERS, is_in_degrees
from ldcast.data.readers.cf import LONGLAT
from ldcast.errors import InputError
from ldcast.machine.files import UNFINISHED_PATTERN, open_atomically
from ldcast.products.coordinates import grid_mapping, horizontal, read_crs

VARIABLE = "rainfall_flux"
SHARD_FRAMES = 24  # in one file, with all rows and columns; two hours
CROPS, FRAMES = (12, 128, 128), (1, 0, 0)  # frames, rows, columns of a chunk; 0: the whole side
LAYOUTS = {"crops": CROPS, "frames": FRAMES}
MAX_BITS = 10  # of the mantissa of float16
_ROOT = "zarr.json"
_STATE = "ldcast_archive"  # the attribute by which a build knows its own
_TIME_CHUNK = 65536  # times in a chunk of their axis
_EPOCH = "seconds since 1970-01-01 00:00:00"
_ABOUT = ("source", "licence", "processing")  # texts of events, for all of an archive
_MAX_TEXT = 1000  # characters of one of them


@dataclass(frozen=True)
class Archive:
    """A store that `ldcast.data.build` writes, or is about to.

    grid: as an event's: `pixel_size_m`, `projection`, `x1 y1 x2 y2`, ...
    shape: (H, W). minutes: the cadence. bits: of the mantissa that were kept.
    layout: of `LAYOUTS`.
    time: (T,) datetime64[s] UTC, of the frames that readers see, increasing.
    unreadable: (N,) datetime64[s], those of them that are blank because their file was damaged.
    about: texts on where the rain is from and how it was read.
    """

    path: Path
    grid: dict[str, Any]
    shape: tuple[int, int]
    minutes: int
    bits: int
    layout: str
    time: np.ndarray = field(default_factory=lambda: np.empty(0, "datetime64[s]"))
    unreadable: np.ndarray = field(default_factory=lambda: np.empty(0, "datetime64[s]"))
    about: dict[str, str] = field(default_factory=dict)

    @property
    def relative_error(self) -> float:
        """Of a stored rain rate, at most: half of the last bit that was kept."""
        return 2.0 ** -(self.bits + 1)

    def with_about(self, texts: dict[str, Any]) -> "Archive":
        """The archive with an event's texts added to its own, each once, up to a length."""
        about = dict(self.about)
        for name in _ABOUT:
            new, old = str(texts.get(name, "")), about.get(name, "")
            if new and new not in old and len(old) + len(new) <= _MAX_TEXT:
                about[name] = f"{old}; {new}" if old else new
        return replace(self, about=about)


class Chunks(NamedTuple):
    """Pixels of a chunk and of a shard along time, y and x."""

    chunk: tuple[int, int, int]
    shard: tuple[int, int, int]


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
        return Archive(
            path=path,
            grid=state["grid"],
            shape=tuple(group[VARIABLE].shape[1:]),
            minutes=state["minutes"],
            bits=state["bits"],
            layout=state["layout"],
            time=group["time"][:].astype("datetime64[s]"),
            unreadable=np.array(state["unreadable"], "datetime64[s]"),
            about={name: str(group.attrs[name]) for name in _ABOUT if name in group.attrs},
        )
    except Exception as why:  # of many kinds, from zarr and json
        raise InputError(
            f"{path} is not an archive of ldcast.data.build ({type(why).__name__}: {why}), and is "
            "kept; name another --out, or name it as a SOURCE"
        ) from why


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


def missing_times(time: np.ndarray, minutes: int) -> np.ndarray:
    """(N,) datetime64[s]: the times of the cadence between the first frame and the last that no
    frame is of."""
    if len(time) == 0:
        return time
    step = np.timedelta64(60 * minutes, "s")
    return np.setdiff1d(np.arange(time[0], time[-1], step), time, assume_unique=True)


def _documents(archive: Archive) -> dict[str, bytes]:
    """All files of the store but the shards, by name."""
    zarr = require_zarr()
    files: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(files)
    group = zarr.create_group(store, attributes=_group_attributes(archive))
    crs = _crs(archive.grid)
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
        array.attrs.update({name: _plain(value) for name, value in mapping.items()})
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


def chunks_of(archive: Archive) -> Chunks:
    """How an archive's rain is cut up; a small domain has one chunk along a side."""
    frames, *sides = LAYOUTS[archive.layout]
    pixels = [min(side or whole, whole) for side, whole in zip(sides, archive.shape, strict=True)]
    shard = [-(-whole // side) * side for whole, side in zip(archive.shape, pixels, strict=True)]
    return Chunks((frames, *pixels), (SHARD_FRAMES, *shard))


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
        "grid": {name: _plain(value) for name, value in archive.grid.items()},
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


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


# ---- places --------------------------------------------------------------------------------------


def place_of(grid: dict[str, Any], shape: tuple[int, int], name: str) -> dict[str, Any]:
    """Of an event's `grid` what places an archive: pixel sizes, projection and corners.

    Without corners, or with a projection that pyproj does not know, places are metres from the
    south-west corner of the domain, and there is no projection.
    Raises InputError where the size of the pixels is not known then.
    """
    known = ("pixel_size_m", "pixel_size_y_m", "projection", *CORNERS)
    place = {key: _plain(grid[key]) for key in known if key in grid}
    if is_in_degrees(str(place.get("projection", ""))) and _crs(place) is None:
        place["projection"] = LONGLAT
    if place.keys() >= {*CORNERS} and ("projection" not in place or _crs(place) is not None):
        return place
    if "pixel_size_m" not in place:
        raise InputError(
            f"{name} does not say where its pixels lie, by x1 y1 x2 y2 and a projection of metres "
            "or degrees, nor how large they are, expected one of them; add pixel_size_m to it"
        )
    width = float(place["pixel_size_m"])
    height = float(place.get("pixel_size_y_m", width))
    place.pop("projection", None)
    return {**place, "x1": 0.0, "y1": 0.0, "x2": width * shape[1], "y2": height * shape[0]}


def _crs(grid: dict[str, Any]) -> Any:
    """The projection as pyproj has it; None without one, or where pyproj knows none."""
    if "projection" not in grid:
        return None
    try:
        return read_crs(grid)
    except ImportError as error:
        raise InputError(
            f"archives with a projection need pyproj ({error}); install it with: pip install pyproj"
        ) from error
