"""Tables of 32-pixel tiles: where an event has data, and how heavy its rain is there."""

from collections.abc import Callable, Iterator

import einops
import numpy as np
import torch
from torch.nn import functional as F

from ldcast.data.event import RainEvent
from ldcast.rain import WET_THRESHOLD, is_wet

TILE = 32  # pixels; windows are judged by tiles of this size
MIN_VALID_SHARE = 0.5  # of a tile or window, for it to count
CLASS_EDGES = np.geomspace(0.2, 50.0, 10)  # mm/h: 11 classes, of Leinonen et al. 2023


def tile_valid_share(event: RainEvent) -> np.ndarray:
    """(T, ceil(H / 32), ceil(W / 32)) float32: share of pixels with data in each tile, the partial
    tiles at the end of rows and columns included."""
    return _tile_share(event, lambda frame: ~np.isnan(frame))


def tile_wet_share(event: RainEvent) -> np.ndarray:
    """Like `tile_valid_share`, the share of pixels with 0.1 mm/h or more."""
    return _tile_share(event, lambda frame: is_wet(frame, WET_THRESHOLD))


def _tile_share(event: RainEvent, counts: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """counts: which pixels (H, W) bool of a frame (H, W) mm/h."""
    _, height, width = event.rain_rate.shape
    rows, columns = np.arange(0, height, TILE), np.arange(0, width, TILE)
    num_pixels = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    shares = []
    for frame in _frames(event):
        is_counted = counts(frame).astype(np.int32)
        num = np.add.reduceat(np.add.reduceat(is_counted, rows, axis=0), columns, axis=1)
        shares.append((num / num_pixels).astype(np.float32))
    return np.stack(shares)


def tile_classes(event: RainEvent) -> np.ndarray:
    """(T, H // 32, W // 32) int8: number of CLASS_EDGES that the 99th percentile of each full tile
    reaches, 0..10; -1 where less than half of the tile has data."""
    return np.stack([_classes_of_frame(frame) for frame in _frames(event)])


def _frames(event: RainEvent) -> Iterator[np.ndarray]:
    """Frames one by one, (H, W) float32, so that an archive is never in memory at once."""
    num_frames, height, width = event.rain_rate.shape
    for frame in range(num_frames):
        rain_rate = event.rain_rate[frame : frame + 1, 0:height, 0:width]
        yield np.asarray(rain_rate[0], dtype=np.float32)


def _classes_of_frame(rain_rate: np.ndarray) -> np.ndarray:
    """Classes of the tiles of one frame (H, W) mm/h."""
    num_rows, num_columns = (size // TILE for size in rain_rate.shape)
    pixels = einops.rearrange(
        rain_rate[: num_rows * TILE, : num_columns * TILE],
        "(row y) (column x) -> row column (y x)",
        y=TILE,
        x=TILE,
    )
    has_data = ~np.isnan(pixels)
    num_valid = has_data.sum(axis=-1)
    classes = np.full((num_rows, num_columns), -1, dtype=np.int8)
    counts = num_valid >= MIN_VALID_SHARE * TILE**2
    pixels = np.where(has_data, pixels, -1.0)[counts]  # no data sorts below all rain
    percentile = percentile_99(pixels, num_valid[counts])
    classes[counts] = np.searchsorted(CLASS_EDGES, percentile, side="right")
    return classes


def percentile_99(pixels: np.ndarray, num_valid: np.ndarray) -> np.ndarray:
    """(N,) smallest value that at least 99 % of the `num_valid` (N,) largest of `pixels` (N, P) do
    not exceed. Only the largest hundredth needs sorting."""
    num_above = num_valid // 100  # values that may exceed the percentile
    num_top = pixels.shape[1] // 100 + 1
    top = np.sort(np.partition(pixels, -num_top, axis=1)[:, -num_top:], axis=1)
    return np.take_along_axis(top, num_top - 1 - num_above[:, None], axis=1)[:, 0]


def windows_with_data(shares: np.ndarray, num_frames: int, crop_size: int) -> np.ndarray:
    """Whether the window that starts at each frame and tile has data in half of its pixels.

    shares: (T, rows, columns) share of data in each tile.
    Returns bool (T - num_frames + 1, rows - k + 1, columns - k + 1), with windows of k x k tiles.
    """
    return mean_of_windows(shares, num_frames, crop_size) >= MIN_VALID_SHARE


def mean_of_windows(shares: np.ndarray, num_frames: int, crop_size: int) -> np.ndarray:
    """Mean of a table of tiles over the window that starts at each frame and tile, float32."""
    num_tiles = max(1, round(crop_size / TILE))
    window = (num_frames, num_tiles, num_tiles)
    return F.avg_pool3d(torch.from_numpy(shares)[None], window, stride=1)[0].numpy()


def starts_by_tile(num_starts: int, num_tiles: int) -> np.ndarray:
    """(num_tiles + 1,) bounds: starts bounds[i] .. bounds[i+1]-1 are nearest to tile i; the last
    tile takes those beyond it."""
    bounds = np.arange(num_tiles + 1) * TILE - TILE // 2
    bounds[0], bounds[-1] = 0, num_starts
    return np.minimum(bounds, num_starts)
