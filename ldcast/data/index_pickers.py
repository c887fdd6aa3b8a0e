"""Pickers of windows that look at an index of tiles alone, so that archives need not be in memory.

A window is proposed with a chance that is no less than its own, by the highest values of its block
of frames, and kept with the chance that is left: so the draws are exact, though nothing is known of
all windows at once. What is kept in memory is a few numbers for each block and tile.

Windows are judged by the tiles nearest to them, as in ldcast/data/pickers.py, and so are arrays in
memory, whose index is computed.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ldcast.data.event import RainEvent
from ldcast.data.pickers import MixedPicker, WetPicker, Window, check_events
from ldcast.data.stored import TileIndex
from ldcast.data.tile_index import BLOCK, ComputedTiles, classes_of_tiles
from ldcast.data.tiles import MIN_VALID_SHARE, TILE, mean_of_windows, starts_by_tile
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.seeds import STREAM_SHOWN, keyed_rng

MAX_TRIES = 10_000  # proposals of one draw
NUM_FOR_MEAN = 1000  # windows that the mean chance is taken over
_ROUNDING = 1e-3  # of a share, between float16 tiles and their means


class Chance(NamedTuple):
    """How the chance of a window depends on its rain, from 0 to 1.

    statistic: of a tile. of_tile: what counts of that, rising. of_window: the chance by the mean
    over its tiles and frames, rising.
    """

    statistic: str
    of_tile: Callable[[np.ndarray], np.ndarray]
    of_window: Callable[[np.ndarray], np.ndarray]


class IndexPicker:
    """Draws windows with data, each by its chance.

    chance: see above. A window has data if half of its pixels do, and half of those of its judged
    frames.
    Raises InputError for events that `check_events` refuses, or without a window that has data.
    """

    def __init__(
        self,
        events: list[RainEvent],
        num_frames: int,
        crop_size: int,
        minutes: int,
        multiple: int,
        num_judged_frames: int = 0,
        *,
        chance: Chance,
    ):
        check_events(events, num_frames, crop_size, minutes, multiple)
        self._num_frames, self._crop_size, self._chance = num_frames, crop_size, chance
        self._judged_frames = num_judged_frames or num_frames
        self._tiles = _Tiles(events)
        self._cells = [
            _Cells(index, size, crop_size, chance)
            for index, size in zip(self._tiles.indices, self._tiles.sizes, strict=True)
        ]
        self._pieces = _pieces(self._tiles, num_frames - 1)
        per_frame = [cells.proposals.sum(axis=1, dtype=np.float64) for cells in self._cells]
        chances = [
            (piece.stop - piece.first) * per_frame[piece.source][piece.first // BLOCK]
            for piece in self._pieces
        ]
        self._last_chance = np.cumsum(chances)
        if self._last_chance[-1] == 0:
            raise InputError(_no_data(events, num_frames, crop_size))
        self._events = events

    def __call__(self, rng: np.random.Generator) -> Window:
        for _ in range(MAX_TRIES):
            window, bound = self._propose(rng)
            if rng.random() * bound < self.chance_of(window):
                return window
        raise InputError(_no_data(self._events, self._num_frames, self._crop_size))

    def chance_of(self, window: Window) -> float:
        """Of any window of the events; 0 where it has too little data."""
        source, first = self._tiles.place(window)
        stop, chance = first + self._num_frames, self._chance
        rows, columns = self._cells[source].tiles_of(window)
        index = self._tiles.indices[source]
        valid_share = index.rows("valid_share", first, stop)[:, rows, columns]
        of_judged = valid_share[: self._judged_frames]
        if min(valid_share.mean(), of_judged.mean()) < MIN_VALID_SHARE:
            return 0.0
        judged = first, first + self._judged_frames
        values = index.rows(chance.statistic, *judged)[:, rows, columns]
        mean = np.nan_to_num(chance.of_tile(values)).mean()
        return float(chance.of_window(mean))

    def _propose(self, rng: np.random.Generator) -> tuple[Window, float]:
        """A window, and how likely it was proposed in the measure of chances."""
        piece = self._pieces[_draw(self._last_chance, rng)]
        cells = self._cells[piece.source]
        block = piece.first // BLOCK
        cell = _draw(np.cumsum(cells.proposals[block]), rng)
        frame = int(rng.integers(piece.first, piece.stop)) - self._tiles.first[piece.event]
        window = Window(piece.event, frame, *cells.place_in(cell, rng))
        return window, float(cells.bounds[block, cell])


class ImportancePicker(IndexPicker):
    """Draws windows with a chance that rises smoothly with their rain, and weights them.

    The weight of a window is the mean chance of all windows over its own, so that the weighted mean
    over draws is that over all windows with data, whatever the rain. Dry windows have `DRY_CHANCE`
    of the chance of those with much more than `HEAVY` everywhere.
    Source: Ravuri et al. 2021 (DGMR), on importance sampling; here of the means of tiles.
    """

    DRY_CHANCE, HEAVY = 0.1, 1.0  # mm/h

    def __init__(
        self,
        events: list[RainEvent],
        num_frames: int,
        crop_size: int,
        minutes: int = FrameConfig.minutes_per_frame,
        multiple: int = 1,
        num_judged_frames: int = 0,
    ):
        settings = num_frames, crop_size, minutes, multiple, num_judged_frames
        super().__init__(events, *settings, chance=IMPORTANCE)
        uniform = IndexPicker(events, *settings, chance=UNIFORM)
        windows = (uniform(keyed_rng(0, STREAM_SHOWN, index)) for index in range(NUM_FOR_MEAN))
        self.mean_chance = float(np.mean([self.chance_of(window) for window in windows]))

    def __call__(self, rng: np.random.Generator) -> Window:
        window = super().__call__(rng)
        return replace(window, weight=self.mean_chance / self.chance_of(window))


class IndexEqualFrequencyPicker:
    """`EqualFrequencyPicker` by an index: a class, a tile of it, a window that contains the tile.

    Raises InputError as that does, but for events without a classed tile among others.
    """

    def __init__(
        self,
        events: list[RainEvent],
        num_frames: int,
        crop_size: int,
        minutes: int = FrameConfig.minutes_per_frame,
        multiple: int = 1,
        num_judged_frames: int = 0,
    ):
        check_events(events, num_frames, crop_size, minutes, multiple)
        if crop_size < TILE:
            raise InputError(
                f"crop size {crop_size}: equal_frequency and mixed need at least {TILE} pixels"
            )
        self._events, self._window_shape = events, (num_frames, crop_size, crop_size)
        num_judged = num_judged_frames or num_frames
        self._judged_shape = (num_judged, crop_size, crop_size)
        self._tiles = _Tiles(events)
        self._pieces = _pieces(self._tiles, num_frames - num_judged)
        counts = [
            self._tiles.indices[source].class_counts(first, stop).sum(axis=0, dtype=np.int64)
            for _, source, first, stop in self._pieces
        ]
        self._last_tile = np.cumsum(counts, axis=0)  # (pieces, classes)
        self._classes = np.flatnonzero(self._last_tile[-1])
        if not len(self._classes):
            raise InputError(_no_data(events, 1, TILE))

    def __call__(self, rng: np.random.Generator) -> Window:
        event, *corner = self._draw_tile(rng)
        shape = self._events[event].rain_rate.shape
        lengths = (1, TILE, TILE)
        starts = [
            int(rng.integers(max(0, at + of_tile - judged), min(at, size - length) + 1))
            for at, of_tile, judged, length, size in zip(
                corner, lengths, self._judged_shape, self._window_shape, shape, strict=True
            )
        ]
        return Window(event, *starts)

    def _draw_tile(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(event, frame, y, x) of a tile's first pixel."""
        of_class = int(self._classes[rng.integers(len(self._classes))])
        last_tile = self._last_tile[:, of_class]
        number = int(rng.integers(last_tile[-1]))
        at = int(np.searchsorted(last_tile, number, side="right"))
        event, source, first, stop = self._pieces[at]
        number -= int(last_tile[at - 1]) if at else 0
        index = self._tiles.indices[source]
        in_frames = np.cumsum(index.class_counts(first, stop)[:, of_class], dtype=np.int64)
        frame = int(np.searchsorted(in_frames, number, side="right"))
        number -= int(in_frames[frame - 1]) if frame else 0
        frame += first
        rows = (index.rows(name, frame, frame + 1) for name in ("percentile_99", "valid_share"))
        classes = classes_of_tiles(*rows, self._tiles.sizes[source])[0]
        row, column = np.argwhere(classes == of_class)[number]
        in_event = frame - self._tiles.first[event]
        return event, in_event, int(row) * TILE, int(column) * TILE


class _Tiles:
    """The indices of some events, each once where they share a store.

    source, first: of each event, which index it is in, and from which frame of it on.
    """

    def __init__(self, events: list[RainEvent]) -> None:
        self.indices: list[TileIndex] = []
        self.sizes: list[tuple[int, int]] = []
        self.source, self.first, self.length = [], [], []
        known: dict[int, int] = {}
        for event in events:
            of_event = event.rain_rate.store if event.is_stored else event
            if id(of_event) not in known:
                known[id(of_event)] = len(self.indices)
                is_stored = event.is_stored
                self.indices.append(of_event.tiles if is_stored else ComputedTiles(event.rain_rate))
                self.sizes.append(event.rain_rate.shape[1:])
            self.source.append(known[id(of_event)])
            self.first.append(event.rain_rate.frames.start if event.is_stored else 0)
            self.length.append(len(event.time))

    def place(self, window: Window) -> tuple[int, int]:
        """In which index a window is, and from which frame of it on."""
        return self.source[window.event], self.first[window.event] + window.first_frame


class _Piece(NamedTuple):
    """Frames of one event within one block: those of an index from `first` to before `stop`."""

    event: int
    source: int
    first: int
    stop: int


def _pieces(tiles: _Tiles, num_last: int) -> list[_Piece]:
    """All frames of the events but the last ones of each, cut at the ends of blocks."""
    pieces = []
    for event, (source, first, length) in enumerate(
        zip(tiles.source, tiles.first, tiles.length, strict=True)
    ):
        stop = first + length - num_last
        bounds = [first, *range((first // BLOCK + 1) * BLOCK, stop, BLOCK), stop]
        pieces += [_Piece(event, source, *pair) for pair in itertools.pairwise(bounds)]
    return pieces


class _Cells:
    """The places of windows of one index, grouped by nearest tile, and their chances at most.

    bounds: (B, cells), no window that starts in a block has a chance above that.
    proposals: (B, cells), the same times the number of places in the cell.
    """

    def __init__(
        self, index: TileIndex, size: tuple[int, int], crop_size: int, chance: Chance
    ) -> None:
        means = {}
        for name, of_tile in (("valid_share", _unchanged), (chance.statistic, chance.of_tile)):
            highest = of_tile(index.highest(name))
            next_block = np.concatenate([highest[1:], highest[-1:]])  # windows may reach into it
            means[name] = mean_of_windows(np.maximum(highest, next_block), 1, crop_size)
        bounds = np.minimum(chance.of_window(means[chance.statistic] + _ROUNDING), 1.0)
        bounds = np.where(means["valid_share"] + _ROUNDING < MIN_VALID_SHARE, 0.0, bounds)
        self._num_tiles = max(1, round(crop_size / TILE))
        self._shape = bounds.shape[1:]
        self._starts = [
            starts_by_tile(pixels - crop_size + 1, num)
            for pixels, num in zip(size, self._shape, strict=True)
        ]
        places = np.outer(*(np.diff(starts) for starts in self._starts))
        self.bounds = bounds.reshape(len(bounds), -1).astype(np.float32)
        self.proposals = self.bounds * places.ravel().astype(np.float32)

    def place_in(self, cell: int, rng: np.random.Generator) -> tuple[int, int]:
        """(y, x) of a window of this cell, each with the same chance."""
        at = np.unravel_index(cell, self._shape)
        y, x = (
            int(rng.integers(starts[tile], starts[tile + 1]))
            for starts, tile in zip(self._starts, at, strict=True)
        )
        return y, x

    def tiles_of(self, window: Window) -> tuple[slice, slice]:
        """Rows and columns of the tiles that a window is judged by."""
        first = (
            int(np.searchsorted(starts, start, side="right")) - 1
            for starts, start in zip(self._starts, (window.y, window.x), strict=True)
        )
        rows, columns = (slice(at, at + self._num_tiles) for at in first)
        return rows, columns


def _draw(last: np.ndarray, rng: np.random.Generator) -> int:
    """An index with the chances that have these cumulative sums."""
    found = int(np.searchsorted(last, rng.random() * last[-1], side="right"))
    return min(found, int(np.searchsorted(last, last[-1])))  # rounding may reach the end


def _no_data(events: list[RainEvent], num_frames: int, crop_size: int) -> str:
    return (
        f"{events[0].name}{' and others' if len(events) > 1 else ''}: no {crop_size}-px window of "
        f"{num_frames} frames was found that has data in half of it; choose other data or a "
        "smaller --crop-size"
    )


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def _certain(mean: np.ndarray) -> np.ndarray:
    return np.ones_like(mean)


def _of_wet_share(mean: np.ndarray) -> np.ndarray:
    dry = WetPicker.DRY_CHANCE
    return np.minimum(dry + (1 - dry) * mean / WetPicker.WET_SHARE, 1.0)


def _saturated(mean_rain: np.ndarray) -> np.ndarray:
    return 1 - np.exp(-mean_rain / ImportancePicker.HEAVY)


def _of_saturated(mean: np.ndarray) -> np.ndarray:
    dry = ImportancePicker.DRY_CHANCE
    return np.minimum(dry + (1 - dry) * mean, 1.0)


UNIFORM = Chance("valid_share", _unchanged, _certain)
WET = Chance("wet_share", _unchanged, _of_wet_share)
IMPORTANCE = Chance("mean", _saturated, _of_saturated)


class IndexMixedPicker(MixedPicker):
    """`MixedPicker` by an index."""

    PARTS = (partial(IndexPicker, chance=WET), IndexEqualFrequencyPicker)


INDEX_PICKERS = {
    "uniform": partial(IndexPicker, chance=UNIFORM),
    "wet": partial(IndexPicker, chance=WET),
    "equal_frequency": IndexEqualFrequencyPicker,
    "importance": ImportancePicker,
    "mixed": IndexMixedPicker,
}
