"""Rain that is read where it lies, a part at a time: what an event slices instead of an array."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np


class TileIndex(Protocol):
    """Statistics of the R x C tiles of T frames, in B blocks; see ldcast/data/tile_index.py."""

    def rows(self, name: str, first: int, stop: int) -> np.ndarray:
        """(stop - first, R, C) float32, one of `STATISTICS` for the frames first .. stop - 1."""

    def highest(self, name: str) -> np.ndarray:
        """(B, R, C) float32, the highest value of one of `BOUNDED`, 0 where there are none."""

    def class_counts(self, first: int, stop: int) -> np.ndarray:
        """(stop - first, 11) uint16: how many full tiles of each frame are of each class."""


class RainStore(Protocol):
    """Rain on a disk or behind an address, which is read a part at a time.

    shape: (T, H, W). tiles: statistics of its tiles. fingerprint: of all that its rain depends on.
    """

    shape: tuple[int, int, int]
    tiles: TileIndex
    fingerprint: str

    def read(self, frames: slice, rows: slice, columns: slice) -> np.ndarray:
        """(T, H, W) float32 mm/h, row 0 = north, NaN = no data.

        Raises UnreadableError where it cannot be read, after some tries.
        """


class StoredRain:
    """Some frames, in a row, of a store: sliced as an array is, and read only then.

    Item [t0:t1, y0:y1, x0:x1], or less of it: float32 mm/h, row 0 = north, NaN = no data.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, store: RainStore, frames: range) -> None:
        self.store, self.frames = store, frames

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.frames), *self.store.shape[1:])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: Any) -> np.ndarray:
        frames, *area = key if isinstance(key, tuple) else (key,)
        rows, columns = (slice(*of.indices(size)) for of, size in self._whole(area))
        if isinstance(frames, slice):
            chosen = self.frames[frames]
            return self.store.read(slice(chosen.start, chosen.stop, chosen.step), rows, columns)
        index = np.asarray(frames)
        first = int(index.min())
        around = self[first : int(index.max()) + 1, rows, columns]
        return around[index - first]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def select(self, frames: slice) -> "StoredRain":
        """Some of its frames, unread."""
        return StoredRain(self.store, self.frames[frames])

    def _whole(self, area: list[slice]) -> Iterator[tuple[slice, int]]:
        """Rows and columns, all where none are named, and the size of each axis."""
        sizes = self.shape[1:]
        return zip([*area, *[slice(None)] * (len(sizes) - len(area))], sizes, strict=True)
