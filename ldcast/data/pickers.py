"""Which windows of the events are drawn: pickers, each from a generator alone.

Wherever they occur here, `minutes` is how far apart the frames must be, and `multiple` of what the
size of a crop is a multiple, in pixels, for the networks that it is for. `num_judged_frames` is by
how many of a window's first frames its rain is judged, 0 for all. If windows are chosen by rain
that is still to come, networks learn that it comes too often; if by what is known at the issue
time, they do not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ldcast.data.cadence import check_cadence
from ldcast.data.event import RainEvent
from ldcast.data.tiles import (
    CLASS_EDGES,
    TILE,
    mean_of_windows,
    starts_by_tile,
    tile_classes,
    tile_valid_share,
    tile_wet_share,
    windows_with_data,
)
from ldcast.errors import InputError
from ldcast.frames import FrameConfig


@dataclass(frozen=True)
class Window:
    """Where a crop starts: index of its event, first frame, and first row and column.

    down, right: pixels per frame by which it moves; y and x are then those of the first frame.
    weight: by which its loss is multiplied, so that the mean over draws is that over all windows.
    """

    event: int
    first_frame: int
    y: int
    x: int
    weight: float = 1.0
    down: int = 0
    right: int = 0


Picker = Callable[[np.random.Generator], Window]


class UniformPicker:
    """Draws every window of every event that has data with the same chance.

    A window has data if half of its pixels do, and half of those of its judged frames, by the
    tiles nearest to it rather than by its own pixels (so a window may be half a tile off).
    Raises InputError for events that `check_events` refuses, or one that has no such window.
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
        num_judged = num_judged_frames or num_frames
        self._cells = [_WindowCells(event, num_frames, crop_size, num_judged) for event in events]
        self._num_windows = np.cumsum([cells.num_windows for cells in self._cells])

    def __call__(self, rng: np.random.Generator) -> Window:
        number = rng.integers(self._num_windows[-1])
        event = int(np.searchsorted(self._num_windows, number, side="right"))
        return Window(event, *self._cells[event].draw(rng))


class _WindowCells:
    """The windows of one event, grouped by first frame and nearest tile.

    All windows of such a cell are judged alike, so drawing a cell by its number of windows, then a
    window in it, is uniform over all windows that count, without a redraw.
    """

    def __init__(self, event: RainEvent, num_frames: int, crop_size: int, num_judged: int):
        valid_share = tile_valid_share(event)
        has_data = windows_with_data(valid_share, num_frames, crop_size)
        if num_judged < num_frames:  # of a past without data nothing can be forecast
            of_judged = valid_share[: len(event.time) - num_frames + num_judged]
            has_data &= windows_with_data(of_judged, num_judged, crop_size)
        _, height, width = event.rain_rate.shape
        self._shape = has_data.shape
        self._rows = starts_by_tile(height - crop_size + 1, self._shape[1])
        self._columns = starts_by_tile(width - crop_size + 1, self._shape[2])
        windows_per_tile = np.outer(np.diff(self._rows), np.diff(self._columns))
        self.windows_per_cell = has_data * windows_per_tile
        self._last_window = np.cumsum(self.windows_per_cell)
        self.num_windows = int(self._last_window[-1])
        if self.num_windows == 0:
            raise InputError(
                f"{event.name}: every {crop_size}-px window of {num_frames} frames is more than "
                "half without data; leave this event out or choose a smaller --crop-size"
            )

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        number = rng.integers(self.num_windows)
        cell = np.searchsorted(self._last_window, number, side="right")
        return self.draw_in(int(cell), rng)

    def draw_in(self, cell: int, rng: np.random.Generator) -> tuple[int, int, int]:
        """(first frame, y, x) of a window of this cell, each with the same chance."""
        first_frame, row, column = np.unravel_index(cell, self._shape)
        y = rng.integers(self._rows[row], self._rows[row + 1])
        x = rng.integers(self._columns[column], self._columns[column + 1])
        return int(first_frame), int(y), int(x)


class WetPicker:
    """Draws windows with a chance that rises with the share of their pixels that are wet.

    Dry windows have `DRY_CHANCE` of the chance of those that are wet in `WET_SHARE` or more; in
    between it rises linearly. Unlike equal frequency it favours no heavy rain over light rain.
    Windows are judged as `UniformPicker` judges them, by tiles. Raises InputError as it does.
    """

    DRY_CHANCE, WET_SHARE = 0.05, 0.2

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
        num_judged = num_judged_frames or num_frames
        self._cells = [_WindowCells(event, num_frames, crop_size, num_judged) for event in events]
        chances = []
        for event, cells in zip(events, self._cells, strict=True):
            wet_share = tile_wet_share(event)[: len(event.time) - num_frames + num_judged]
            wet_share = mean_of_windows(wet_share, num_judged, crop_size)
            chance = self.DRY_CHANCE + (1 - self.DRY_CHANCE) * wet_share / self.WET_SHARE
            chances.append((cells.windows_per_cell * chance.clip(max=1.0)).ravel())
        self._first_cells = np.cumsum([0, *map(len, chances)])
        self._last_chance = np.cumsum(np.concatenate(chances))

    def __call__(self, rng: np.random.Generator) -> Window:
        number = rng.random() * self._last_chance[-1]
        cell = int(np.searchsorted(self._last_chance, number, side="right"))
        event = int(np.searchsorted(self._first_cells, cell, side="right")) - 1
        return Window(event, *self._cells[event].draw_in(cell - self._first_cells[event], rng))


class EqualFrequencyPicker:
    """Draws windows around dry, light and heavy tiles alike.

    Each 32-px tile of each frame is classed by the 99th percentile of its rain; a class is drawn
    among those that occur, then a tile of that class, then a window that contains the tile at its
    frame, each with equal chances. Tiles with data in less than half of their pixels have no class,
    and so have the partial tiles at the end of rows and columns; windows can reach there.
    Raises InputError for events that `check_events` refuses, crops below a tile, or an event
    without a classed tile.
    Source: Leinonen et al. 2023 (arXiv:2304.12891), section on training data.
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
        self._shapes = [event.rain_rate.shape for event in events]
        self._window_shape = (num_frames, crop_size, crop_size)
        num_judged = num_judged_frames or num_frames
        self._judged_shape = (num_judged, crop_size, crop_size)
        classes = [
            tile_classes(event)[: len(event.time) - num_frames + num_judged] for event in events
        ]
        for event, event_classes in zip(events, classes, strict=True):
            if (event_classes < 0).all():
                raise InputError(
                    f"{event.name}: every {TILE}-px tile of its first {len(event_classes)} frames "
                    "is more than half without data; leave this event out"
                )
        self._table_shapes = [event_classes.shape for event_classes in classes]
        self._last_tile = np.cumsum([event_classes.size for event_classes in classes])
        flat_classes = np.concatenate([event_classes.ravel() for event_classes in classes])
        tiles = [np.flatnonzero(flat_classes == index) for index in range(len(CLASS_EDGES) + 1)]
        self._tiles = [of_class for of_class in tiles if len(of_class)]

    def __call__(self, rng: np.random.Generator) -> Window:
        event, frame, row, column = self._draw_tile(rng)
        first_tile_pixel = (frame, row * TILE, column * TILE)
        last_tile_pixel = (frame, row * TILE + TILE - 1, column * TILE + TILE - 1)
        # Along each axis: what is judged ends behind the tile's last pixel, the window inside the
        # domain.
        starts = [
            int(rng.integers(max(0, last - judged + 1), min(first, size - length) + 1))
            for first, last, judged, length, size in zip(
                first_tile_pixel,
                last_tile_pixel,
                self._judged_shape,
                self._window_shape,
                self._shapes[event],
                strict=True,
            )
        ]
        return Window(event, *starts)

    def _draw_tile(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(event, frame, row, column) of a tile, the latter two in tiles."""
        of_class = self._tiles[rng.integers(len(self._tiles))]
        tile = of_class[rng.integers(len(of_class))]
        event = int(np.searchsorted(self._last_tile, tile, side="right"))
        tile_in_event = tile - self._last_tile[event] + np.prod(self._table_shapes[event])
        frame, row, column = np.unravel_index(tile_in_event, self._table_shapes[event])
        return event, int(frame), int(row), int(column)


class MixedPicker:
    """Draws half of the windows as `WetPicker` does, half as `EqualFrequencyPicker`.

    Wide rain from the one, from the other the cores of storms, which are a tiny part of all rain.
    Raises InputError as they do.
    """

    PARTS: ClassVar[tuple[Callable[..., Picker], ...]] = (WetPicker, EqualFrequencyPicker)

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
        self._pickers = [part(events, *settings) for part in self.PARTS]

    def __call__(self, rng: np.random.Generator) -> Window:
        return self._pickers[rng.integers(len(self._pickers))](rng)


def check_events(
    events: list[RainEvent], num_frames: int, crop_size: int, minutes: int, multiple: int
) -> None:
    """Raises InputError if there is no event, or one that is too short, too small for the crop, or
    of frames that are not `minutes` apart."""
    if not events:
        raise InputError("no event to draw crops from: name at least one by --data")
    smallest = min(min(event.rain_rate.shape[1:]) for event in events)
    largest_crop = smallest // multiple * multiple
    for event in events:
        length, height, width = event.rain_rate.shape
        if length < num_frames:
            raise InputError(
                f"{event.name} has {length} frames, expected at least {num_frames}; "
                "choose a longer span or leave it out"
            )
        if min(height, width) < crop_size:
            remedy = f"use --crop-size {largest_crop}" if largest_crop else "leave it out"
            if 0 < largest_crop < TILE:
                remedy += " and --data.crop-picker uniform"
            raise InputError(
                f"{event.name} has {height} x {width} pixels, "
                f"expected at least {crop_size} x {crop_size}; {remedy}"
            )
        check_cadence(event, minutes)
