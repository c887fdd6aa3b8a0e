"""Which frames of a Zarr folder were written, judged by the chunks that are there; no rain is read.

zarr counts chunks, and a shard as one of them, but does not name what is inside a shard. So the two
things that it takes are read here by the format's own rules: the names of chunks, and the index of
a shard. A chunk that is not there reads as the fill value. Zarr 3 does not write chunks equal to
it, so such a chunk was either never written or holds that value alone.
Source: Zarr specifications 2 and 3; the sharding codec of 3.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldcast.data.addresses import is_remote, read_bytes, within

if TYPE_CHECKING:  # an extra, imported where it is used
    from xarray import Dataset

_NO_CHUNK = np.uint64(2**64 - 1)  # offset of an inner chunk that its shard does not have

# Fill values of NetCDF (netcdf.h) by type; bytes have none that is not used as a value.
_NETCDF_FILL = {
    **dict.fromkeys(("f4", "f8"), 9.969209968386869e36),
    **{"i2": -32767, "u2": 65535, "i4": -2147483647, "u4": 4294967295},
}


class Written(NamedTuple):
    """What the chunks of an array show about its frames.

    frames: (T,) bool, False where none of the chunks that hold a frame is there.
    chunk: (T,) int, which chunk of the time axis a frame is in.
    """

    frames: np.ndarray
    chunk: np.ndarray

    def select(self, frames: slice) -> "Written":
        return Written(self.frames[frames], self.chunk[frames])

    def is_one_chunk(self, frame: int, other: int) -> bool:
        return bool(self.chunk[frame] == self.chunk[other])


class _ShardIndex(NamedTuple):
    """Where a shard says which of its inner chunks it has."""

    inner: tuple[int, ...]  # pixels of an inner chunk along each axis
    num_chunks: tuple[int, ...]  # of them along each axis
    dtype: str
    num_bytes: int
    is_at_end: bool


class _Layout(NamedTuple):
    """How an array is cut into files."""

    chunk: tuple[int, ...]  # pixels of a chunk or shard along each axis
    key: re.Pattern[str]  # of a chunk's file; its groups are the chunk's indices
    shard_index: _ShardIndex | None


def written_frames(store: Path | str, name: str, axis: int, num_frames: int) -> Written | None:
    """Which frames of an array have a chunk; in shards, an inner chunk.

    store: Zarr folder. name: of the array in it. axis: its time axis. None where this cannot be
    known: not a Zarr folder, one behind an address, or a layout that is not known here.
    """
    if is_remote(store):  # whose chunks would be listed one by one
        return None
    document = _document(store / name)
    layout = document and _layout(document)
    if not layout:
        return None
    is_written = np.zeros(num_frames, bool)
    for path, indices in _chunk_files(store / name, layout):
        first = indices[axis] * layout.chunk[axis]
        held = is_written[first : first + layout.chunk[axis]]  # a view
        held |= _frames_held(path, layout, axis)[: len(held)]
    shards = layout.shard_index
    per_chunk = (shards.inner if shards else layout.chunk)[axis]
    return Written(is_written, np.arange(num_frames) // per_chunk)


def zero_is_a_value(raw: "Dataset", store: Path | str) -> "Dataset":
    """`raw`, not decoded yet, where a fill that stands for 0 is no longer taken for no data.

    In Zarr 2, `fill_value` is what an unwritten chunk reads as, 0 unless its writer chose another,
    but xarray masks it: dry rain becomes no data, and so does the first of times counted from 0.
    What the attributes state as `_FillValue` stays masked, and so does a code that is not 0 once
    it is unpacked.
    """
    for name, variable in raw.variables.items():
        document = _document(within(store, str(name)))
        if not document or document["zarr_format"] != 2 or document["fill_value"] != 0:
            continue
        stated = _json(within(store, str(name), ".zattrs")) or {}
        if "_FillValue" in stated:
            variable.attrs["_FillValue"] = variable.dtype.type(stated["_FillValue"])
        elif float(stated.get("add_offset", 0)) == 0:
            variable.attrs.pop("_FillValue", None)
    return raw


def unwritten_is_no_data(raw: "Dataset") -> "Dataset":
    """`raw` of NetCDF, not decoded yet, where what was never written is no data.

    Such pixels have the format's own fill value, which xarray masks only where it is stated.
    """
    for variable in raw.data_vars.values():
        fill = _NETCDF_FILL.get(variable.dtype.str[1:])
        if fill is not None and not {"_FillValue", "missing_value"} & variable.attrs.keys():
            variable.attrs["_FillValue"] = variable.dtype.type(fill)
    return raw


def _frames_held(path: Path, layout: _Layout, axis: int) -> np.ndarray:
    """(frames of a chunk,) bool: those that this file has a chunk of."""
    if layout.shard_index is None:
        return np.ones(layout.chunk[axis], bool)
    has_chunk = _read_index(path, layout.shard_index)
    others = tuple(other for other in range(has_chunk.ndim) if other != axis)
    return has_chunk.any(axis=others).repeat(layout.shard_index.inner[axis])


def _read_index(path: Path, index: _ShardIndex) -> np.ndarray:
    """Bool for each inner chunk of a shard; all False if the shard is cut short."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < index.num_bytes:
            return np.zeros(index.num_chunks, bool)
        file.seek(-index.num_bytes if index.is_at_end else 0, 2 if index.is_at_end else 0)
        count = 2 * int(np.prod(index.num_chunks))
        entries = np.frombuffer(file.read(index.num_bytes), index.dtype, count)
    return entries.reshape(*index.num_chunks, 2)[..., 0] != _NO_CHUNK  # (offset, length) of each


def _chunk_files(folder: Path, layout: _Layout) -> Iterator[tuple[Path, tuple[int, ...]]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if found := layout.key.fullmatch(path.relative_to(folder).as_posix()):
                yield path, tuple(map(int, found.groups()))


def _document(folder: Path | str) -> dict[str, Any] | None:
    """What describes an array of either version; None if there is none."""
    found = _json(within(folder, "zarr.json")) or _json(within(folder, ".zarray"))
    return found if found and "shape" in found else None


def _json(address: Path | str) -> dict[str, Any] | None:
    try:
        return json.loads(read_bytes(address))
    except (OSError, ValueError):
        return None


def _layout(document: dict[str, Any]) -> _Layout | None:
    num_axes = len(document["shape"])
    if document["zarr_format"] == 2:
        separator = document.get("dimension_separator", ".")
        return _Layout(tuple(document["chunks"]), _key("", separator, num_axes), None)
    grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
    if grid["name"] != "regular" or keys["name"] not in ("default", "v2"):
        return None
    is_default = keys["name"] == "default"
    separator = keys.get("configuration", {}).get("separator", "/" if is_default else ".")
    chunk = tuple(grid["configuration"]["chunk_shape"])
    key = _key(f"c{separator}" if is_default else "", separator, num_axes)
    return _Layout(chunk, key, _shard_index(document["codecs"][0], chunk))


def _key(prefix: str, separator: str, num_axes: int) -> re.Pattern[str]:
    return re.compile(re.escape(prefix) + re.escape(separator).join([r"(\d+)"] * num_axes))


def _shard_index(codec: dict[str, Any], shard: tuple[int, ...]) -> _ShardIndex | None:
    """None where there are no shards, or none whose index has a size known beforehand."""
    settings = codec.get("configuration", {})
    codecs = {codec["name"]: codec for codec in settings.get("index_codecs", [])}
    if codec["name"] != "sharding_indexed" or not codecs.keys() <= {"bytes", "crc32c"}:
        return None
    inner = tuple(settings["chunk_shape"])
    num_chunks = tuple(whole // part for whole, part in zip(shard, inner, strict=True))
    is_big = codecs["bytes"].get("configuration", {}).get("endian") == "big"
    return _ShardIndex(
        inner=inner,
        num_chunks=num_chunks,
        dtype=">u8" if is_big else "<u8",
        num_bytes=16 * int(np.prod(num_chunks)) + 4 * ("crc32c" in codecs),
        is_at_end=settings.get("index_location", "end") == "end",
    )
