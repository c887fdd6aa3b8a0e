"""The index of an archive: statistics of the tiles of its frames, in a Zarr group of its own.

Beside `radar.zarr` lies `radar.index.zarr`, version 1, with R x C tiles of 32 pixels, T frames and
B blocks of 288 frames:
    time (T,)                        seconds since 1970-01-01, UTC
    state (T,)                       one of the numbers of `State`
    valid_share, wet_share, mean, percentile_99 (T, R, C)     see ldcast/data/tile_index.py
    class_counts (T, 11)             full tiles of each class of `equal_frequency`
    highest_valid_share, highest_wet_share, highest_mean (B, R, C)    of each block
and the attributes of `About`. A chunk of the large arrays holds one block.
"""

import enum
import os
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.addresses import beside, is_remote, require_fsspec, stem
from ldcast.data.archive.patience import Patience
from ldcast.data.tile_index import BLOCK, BOUNDED, NUM_CLASSES, STATISTICS
from ldcast.data.tiles import TILE
from ldcast.errors import InputError, UnreadableError

if TYPE_CHECKING:  # an extra, imported where it is used
    from zarr import Group

FORMAT, VERSION = "ldcast tile index", 1
SUFFIX = ".index.zarr"
_MAX_KEPT = 64  # chunks in memory: about 0.3 MB each for 640 x 710 pixels
_PER_FRAME_CHUNK = 64 * BLOCK  # frames
_BLOCKS_PER_CHUNK = 64


class State(enum.IntEnum):
    """What is known of a frame."""

    NOT_INDEXED = 0
    GOOD = 1
    BLANK = 2  # no pixel has data
    UNREADABLE = 3  # a chunk cannot be decoded
    NO_RAIN = 4  # values that cannot be rain
    LISTED_MISSING = 5  # in the archive's missing_times


@dataclass(frozen=True)
class About:
    """What an index is of.

    archive: path or address. size: (H, W). num_times: of the archive, which may have more than are
    indexed where it was allocated ahead. zr: relation by which reflectivity became rain.
    problems: the first ones of frames that cannot be used.
    """

    archive: str
    size: tuple[int, int]
    num_times: int
    zr: tuple[float, float] | None = None
    problems: tuple[str, ...] = ()
    format: str = FORMAT
    version: int = VERSION


def index_address(archive: str | Path) -> str | Path:
    """Where the index of an archive lies, if it lies beside it."""
    return beside(archive, stem(archive) + SUFFIX)


def require_zarr() -> ModuleType:
    """zarr. Raises InputError where it is missing or older than 3."""
    try:
        import zarr
    except ImportError as error:
        raise InputError(f"archives need zarr ({error}); pip install 'zarr>=3' xarray") from error
    if int(zarr.__version__.partition(".")[0]) < 3:
        raise InputError(f"got zarr {zarr.__version__}, expected 3 or newer: pip install 'zarr>=3'")
    return zarr


def open_group(address: str | Path, mode: str = "r") -> "Group | None":
    """The group of an index; None if there is nothing of the kind.

    Raises InputError for an index of another version.
    """
    if is_remote(address):
        require_fsspec(str(address))
    elif not Path(address).is_dir():
        return None
    zarr = require_zarr()
    try:
        group = zarr.open_group(str(address), mode=mode)
    except FileNotFoundError:
        return None
    except Exception as why:  # of many kinds, from the packages beneath zarr
        raise UnreadableError(
            f"{address} cannot be opened ({type(why).__name__}: {' '.join(str(why).split())[:200]}"
            "); check the address and its credentials"
        ) from why
    if group.attrs.get("format") != FORMAT:
        return None
    version = group.attrs.get("version")
    if version != VERSION:
        raise InputError(
            f"{address} is an index of version {version}, expected {VERSION}: remove it and build "
            "it again by python -m ldcast.data.index"
        )
    return group


def create_group(address: str | Path, about: About) -> "Group":
    """A new index without a frame, in the place of what is there."""
    zarr = require_zarr()
    group = zarr.open_group(str(address), mode="w")
    num_rows, num_columns = (-(-size // TILE) for size in about.size)
    arrays: dict[str, tuple[tuple[int, ...], int, str, tuple[str, ...]]] = {
        "time": ((), _PER_FRAME_CHUNK, "i8", ()),
        "state": ((), _PER_FRAME_CHUNK, "u1", ()),
        "class_counts": ((NUM_CLASSES,), _PER_FRAME_CHUNK, "u2", ("class",)),
    }
    tiles = (num_rows, num_columns), ("tile_row", "tile_column")
    for name in STATISTICS:
        arrays[name] = (tiles[0], BLOCK, "f2", tiles[1])
    for name, (shape, chunk, dtype, dims) in arrays.items():
        group.create_array(
            name,
            shape=(0, *shape),
            chunks=(chunk, *shape),
            dtype=dtype,
            dimension_names=("time", *dims),
        )
    for name in BOUNDED:
        group.create_array(
            f"highest_{name}",
            shape=(0, *tiles[0]),
            chunks=(_BLOCKS_PER_CHUNK, *tiles[0]),
            dtype="f2",
            dimension_names=("block", *tiles[1]),
        )
    group["time"].attrs.update({"units": "seconds since 1970-01-01", "standard_name": "time"})
    write_about(group, about)
    return group


def write_about(group: "Group", about: About) -> None:
    group.attrs.update(asdict(about))


def read_about(group: "Group") -> About:
    attributes: dict[str, Any] = dict(group.attrs)
    zr = attributes["zr"]
    return About(
        attributes["archive"],
        tuple(attributes["size"]),
        attributes["num_times"],
        tuple(zr) if zr else None,
        tuple(attributes["problems"]),
    )


class StoredTiles:
    """The tiles of an index, `TileIndex`, read chunk by chunk; the newest are kept.

    Each process opens the store for itself: open ones do not survive a fork.
    """

    def __init__(self, address: str | Path) -> None:
        self._address = address
        self._kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._patience = Patience(str(address))
        self._open: tuple[int, Group] | None = None  # by which process

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def rows(self, name: str, first: int, stop: int) -> np.ndarray:
        return self._read(name, first, stop, BLOCK).astype(np.float32)

    def highest(self, name: str) -> np.ndarray:
        found = self._load(f"highest_{name}", slice(None))
        return np.nan_to_num(found).astype(np.float32)

    def class_counts(self, first: int, stop: int) -> np.ndarray:
        return self._read("class_counts", first, stop, _PER_FRAME_CHUNK)

    def _read(self, name: str, first: int, stop: int, per_chunk: int) -> np.ndarray:
        parts = []
        for chunk in range(first // per_chunk, (stop - 1) // per_chunk + 1):
            start = chunk * per_chunk
            rows = self._chunk(name, chunk, per_chunk)
            parts.append(rows[max(first - start, 0) : stop - start])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _chunk(self, name: str, chunk: int, per_chunk: int) -> np.ndarray:
        key = name, chunk
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        rows = self._load(name, slice(chunk * per_chunk, (chunk + 1) * per_chunk))
        self._kept[key] = rows
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return rows

    def _load(self, name: str, part: slice) -> np.ndarray:
        def read() -> np.ndarray:
            values = self._array(name)[part]
            if name.endswith("valid_share") and not values.any():  # as where nothing is there
                self._close()
                self._array(name)  # raises where nothing is
            return values

        return self._patience(read, self._close)

    def _close(self) -> None:
        self._open = None

    def _array(self, name: str) -> Any:
        if self._open is None or self._open[0] != os.getpid():
            group = open_group(self._address)
            if group is None:
                raise UnreadableError(f"{self._address} is gone, expected the index of an archive")
            self._open = os.getpid(), group
        return self._open[1][name]
