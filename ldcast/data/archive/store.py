"""An archive of rain that is read in place, chunk by chunk, and waited for when it is away."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ldcast.data.archive.patience import Patience
from ldcast.data.archive.sidecar import StoredTiles
from ldcast.data.readers.gridded import GriddedRain, describe_rain, find_rain
from ldcast.data.readers.opening import open_dataset
from ldcast.data.reading import Reading
from ldcast.data.tiles import TILE
from ldcast.errors import UnreadableError

_ROUNDING = 1e-3  # of shares in float16


class ArchiveStore:
    """The rain of an archive, `RainStore`; the decoding is that of NetCDF and Zarr files.

    address: path or address. shape: (T, H, W). tiles: of its index. fingerprint: of its index.
    how: how it was read when it was indexed.
    """

    def __init__(
        self,
        address: str | Path,
        shape: tuple[int, int, int],
        tiles: StoredTiles,
        fingerprint: str,
        how: Reading,
    ) -> None:
        self.address, self.shape, self.tiles = address, shape, tiles
        self.fingerprint, self.how = fingerprint, how
        self._patience = Patience(str(address))
        self._open: tuple[int, GriddedRain] | None = None  # by which process

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def read(self, frames: slice, rows: slice, columns: slice) -> np.ndarray:
        """(T, H, W) float32 mm/h, row 0 = north, NaN = no data.

        Raises UnreadableError where it cannot be read for a while, or where there is nothing
        although the index saw rain or data there: so a store that is away may look.
        """
        where = frames, rows, columns

        def read() -> np.ndarray:
            rain_rate = self._found().read(*where)
            self._check_is_there(rain_rate, *where)
            return rain_rate

        try:
            return self._patience(read, self._close)
        except UnreadableError as error:
            place = f"{frames.start} to {frames.stop - 1}"
            raise UnreadableError(f"{error}; at frames {place} of the archive") from error

    def _close(self) -> None:
        self._open = None

    def _found(self) -> GriddedRain:
        if self._open is None or self._open[0] != os.getpid():  # open stores survive no fork
            self._open = os.getpid(), describe_archive(self.address, self.how)
        return self._open[1]

    def _check_is_there(
        self, rain_rate: np.ndarray, frames: slice, rows: slice, columns: slice
    ) -> None:
        """A chunk that is not there reads as the fill value, without an error.

        A frame of nothing else is compared with its tiles: more of them than lies outside of this
        part has data, or rain.
        """
        (tile_rows, in_rows), (tile_columns, in_columns) = (
            _overlap(part, size) for part, size in zip((rows, columns), self.shape[1:], strict=True)
        )
        outside = 1 - np.outer(in_rows, in_columns) + _ROUNDING
        for index, frame in enumerate(rain_rate):
            for name, is_nothing in (("valid_share", np.isnan(frame)), ("wet_share", ~(frame > 0))):
                if not is_nothing.all():
                    continue
                at = frames.start + index
                share = self.tiles.rows(name, at, at + 1)[0, tile_rows, tile_columns]
                if (share > outside).any():
                    raise UnreadableError(
                        f"{self.address}: frame {at} holds nothing, expected what its index saw; "
                        "is the store whole, and the index newer than it?"
                    )


def _overlap(part: slice, size: int) -> tuple[slice, np.ndarray]:
    """The tiles that pixels of one axis are in, and which share of each tile they are."""
    first, stop = part.start // TILE, -(-part.stop // TILE)
    begins = TILE * np.arange(first, stop)
    ends = np.minimum(begins + TILE, size)
    inside = np.minimum(ends, part.stop) - np.maximum(begins, part.start)
    return slice(first, stop), inside / (ends - begins)


def describe_archive(address: str | Path, how: Reading) -> GriddedRain:
    """What an archive says of its rain. Raises InputError as `read_gridded` does."""
    dataset = open_dataset(address)
    rain, bounds = find_rain(dataset, address, how)
    return describe_rain(rain, str(address), bounds, how)
