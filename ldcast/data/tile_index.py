"""What is known of the tiles of many frames before their rain is read: for pickers of windows.

A tile is of 32 x 32 pixels, those at the end of rows and columns of fewer. Numbers are float16.
"""

from collections.abc import Sequence

import einops
import numpy as np

from ldcast.data.tiles import CLASS_EDGES, MIN_VALID_SHARE, TILE, percentile_99
from ldcast.rain import WET_THRESHOLD, is_wet

BLOCK = 288  # frames whose highest values are known together; a day of 5 minutes
NUM_CLASSES = len(CLASS_EDGES) + 1
# Of each tile: share of its pixels with data; with 0.1 mm/h and more; mean and 99th percentile of
# those with data, mm/h, NaN where there are none.
STATISTICS = ("valid_share", "wet_share", "mean", "percentile_99")
BOUNDED = STATISTICS[:3]  # their highest values of each block are known


class ComputedTiles:
    """The index of rain in memory, computed at once.

    rain_rate: (T, H, W) mm/h, NaN = no data.
    """

    def __init__(self, rain_rate: np.ndarray) -> None:
        self._size = rain_rate.shape[1:]
        frames = [tile_statistics(np.asarray(frame, np.float32)) for frame in rain_rate]
        self._rows = {name: np.stack([of[name] for of in frames]) for name in STATISTICS}

    def rows(self, name: str, first: int, stop: int) -> np.ndarray:
        return self._rows[name][first:stop].astype(np.float32)

    def highest(self, name: str) -> np.ndarray:
        starts = range(0, len(self._rows[name]), BLOCK)
        return np.stack([highest_of_block(self.rows(name, s, s + BLOCK)) for s in starts])

    def class_counts(self, first: int, stop: int) -> np.ndarray:
        rows = (self.rows(name, first, stop) for name in ("percentile_99", "valid_share"))
        return count_classes(classes_of_tiles(*rows, self._size))


def tile_statistics(rain_rate: np.ndarray) -> dict[str, np.ndarray]:
    """All of `STATISTICS` of a frame (H, W) float32 mm/h, each (R, C) float16."""
    height, width = rain_rate.shape
    beyond = ((0, -height % TILE), (0, -width % TILE))
    inside = np.pad(np.ones((height, width), bool), beyond)
    pixels = _by_tile(np.pad(rain_rate, beyond, constant_values=np.nan))
    num_pixels = _by_tile(inside).sum(axis=-1)
    has_data = ~np.isnan(pixels)
    num_valid = has_data.sum(axis=-1)
    filled = np.where(has_data, pixels, -1.0)  # no data sorts below all rain
    table = filled.reshape(-1, TILE**2)
    percentile = percentile_99(table, num_valid.ravel()).reshape(num_valid.shape)
    total = np.where(has_data, pixels, 0.0).sum(axis=-1)
    is_empty = num_valid == 0
    statistics = {
        "valid_share": num_valid / num_pixels,
        "wet_share": is_wet(pixels, WET_THRESHOLD).sum(axis=-1) / num_pixels,
        "mean": np.where(is_empty, np.nan, total / np.maximum(num_valid, 1)),
        "percentile_99": np.where(is_empty, np.nan, percentile),
    }
    return {name: values.astype(np.float16) for name, values in statistics.items()}


def classes_of_tiles(
    percentile: np.ndarray, valid_share: np.ndarray, size: Sequence[int]
) -> np.ndarray:
    """(T, R, C) int8: number of CLASS_EDGES that the 99th percentile of a tile reaches, 0..10.

    -1 where less than half of the tile has data, and for partial tiles. size: (H, W) of the rain.
    """
    classes = np.searchsorted(CLASS_EDGES, percentile.astype(np.float32), side="right")
    is_classed = valid_share >= MIN_VALID_SHARE
    is_classed[:, size[0] // TILE :] = False
    is_classed[:, :, size[1] // TILE :] = False
    return np.where(is_classed, classes, -1).astype(np.int8)


def count_classes(classes: np.ndarray) -> np.ndarray:
    """(T, 11) uint16 of (T, R, C) classes."""
    return np.stack(
        [(classes == index).sum(axis=(1, 2)) for index in range(NUM_CLASSES)], axis=1
    ).astype(np.uint16)


def highest_of_block(rows: np.ndarray) -> np.ndarray:
    """(R, C) of (T, R, C); 0 where there is nothing but NaN."""
    return np.nan_to_num(rows).max(axis=0)


def _by_tile(field: np.ndarray) -> np.ndarray:
    return einops.rearrange(field, "(row y) (column x) -> row column (y x)", y=TILE, x=TILE)
