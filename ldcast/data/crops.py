"""Frames in, training examples out: which windows are drawn, and how they reach the networks.

A picker draws a `Window` from a generator; the data sets read it. Every draw is keyed by (seed,
attempt, iteration, index of the example in the global batch), so no example depends on another.
Events are read only by `event.rain_rate[t0:t1, y0:y1, x0:x1]`, `.shape` and their fields.

Wherever they occur here, `minutes` is how far apart the frames must be, and `multiple` of what the
size of a crop is a multiple, in pixels, for the networks that it is for.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from ldcast.data.archive import RainEvent, check_cadence
from ldcast.data.fields import FieldNeed, check_fields, fields_at
from ldcast.data.tiles import (
    CLASS_EDGES,
    TILE,
    WET_THRESHOLD,
    mean_of_windows,
    starts_by_tile,
    tile_classes,
    tile_valid_share,
    tile_wet_share,
    windows_with_data,
)
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.rain import as_float32, drop_impossible_rain, is_wet
from ldcast.seeds import STREAM_CROP, STREAM_VALIDATION, keyed_rng


@dataclass(frozen=True)
class Window:
    """Where a crop starts: index of its event, first frame, and first row and column."""

    event: int
    first_frame: int
    y: int
    x: int


class Example(NamedTuple):
    """What is read of one window; a batch of them has an axis B in front of each array.

    rain_rate: (1, T, H, W) float32 mm/h, NaN = no data. Where a margin is asked for, that many
        pixels on all sides are not of the crop itself.
    fields: name -> (F, c, H, W) float32, of as many frames as are needed, or F = 1 of what does not
        change; c is 2 for a vector, down and right. NaN = not known.
    """

    rain_rate: Tensor
    fields: dict[str, Tensor]

    def to(self, device: torch.device) -> "Example":
        fields = {name: field.to(device) for name, field in self.fields.items()}
        return Example(self.rain_rate.to(device), fields)


Picker = Callable[[np.random.Generator], Window]


class UniformPicker:
    """Draws every window of every event that has data with the same chance.

    A window has data if half of its pixels do, judged by the tiles nearest to it rather than by
    its own pixels (so a window may be half a tile off).
    Raises InputError for events that `check_events` refuses, or one that has no such window.
    """

    def __init__(
        self,
        events: list[RainEvent],
        num_frames: int,
        crop_size: int,
        minutes: int = FrameConfig.minutes_per_frame,
        multiple: int = 1,
    ):
        check_events(events, num_frames, crop_size, minutes, multiple)
        self._cells = [_WindowCells(event, num_frames, crop_size) for event in events]
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

    def __init__(self, event: RainEvent, num_frames: int, crop_size: int):
        has_data = windows_with_data(tile_valid_share(event), num_frames, crop_size)
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
    ):
        check_events(events, num_frames, crop_size, minutes, multiple)
        self._cells = [_WindowCells(event, num_frames, crop_size) for event in events]
        chances = []
        for event, cells in zip(events, self._cells, strict=True):
            wet_share = mean_of_windows(tile_wet_share(event), num_frames, crop_size)
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
    `tiles_per_class` (11,) says how many tiles each class has.
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
    ):
        check_events(events, num_frames, crop_size, minutes, multiple)
        if crop_size < TILE:
            raise InputError(f"crop size {crop_size}: equal_frequency needs at least {TILE} pixels")
        self._shapes = [event.rain_rate.shape for event in events]
        self._window_shape = (num_frames, crop_size, crop_size)
        classes = [tile_classes(event) for event in events]
        for event, event_classes in zip(events, classes, strict=True):
            if (event_classes < 0).all():
                raise InputError(
                    f"{event.name}: every {TILE}-px tile is more than half without data; "
                    "leave this event out"
                )
        self._table_shapes = [event_classes.shape for event_classes in classes]
        self._last_tile = np.cumsum([event_classes.size for event_classes in classes])
        flat_classes = np.concatenate([event_classes.ravel() for event_classes in classes])
        tiles = [np.flatnonzero(flat_classes == index) for index in range(len(CLASS_EDGES) + 1)]
        self.tiles_per_class = np.array([len(of_class) for of_class in tiles])
        self._tiles = [of_class for of_class in tiles if len(of_class)]

    def __call__(self, rng: np.random.Generator) -> Window:
        event, frame, row, column = self._draw_tile(rng)
        first_tile_pixel = (frame, row * TILE, column * TILE)
        last_tile_pixel = (frame, row * TILE + TILE - 1, column * TILE + TILE - 1)
        # Along each axis: the window ends behind the tile's last pixel, and inside the domain.
        starts = [
            int(rng.integers(max(0, last - length + 1), min(first, size - length) + 1))
            for first, last, length, size in zip(
                first_tile_pixel,
                last_tile_pixel,
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


PICKERS = {"uniform": UniformPicker, "wet": WetPicker, "equal_frequency": EqualFrequencyPicker}


class TrainingCrops(Dataset):
    """Training examples, each made from its key alone; to be used with `BatchKeys`.

    picker: of `PICKERS`.
    use_augmentation: flip vertically, flip horizontally and transpose, each with probability 1/2.
    fields: what is needed besides rain, by name.
    margin: pixels that are read around the crop. Each example knows a part of them, from none to
        all with equal chances; the rest of its margin is NaN, as is what lies outside the domain.
    Item (attempt, iteration, index in the global batch): `Example` of crop_size + 2 margin pixels.
    Raises InputError for events that the picker, `check_events` or `check_fields` refuses.
    """

    def __init__(
        self,
        events: list[RainEvent],
        num_frames: int,
        crop_size: int,
        picker: str,
        seed: int,
        use_augmentation: bool = True,
        fields: Mapping[str, FieldNeed] | None = None,
        margin: int = 0,
        minutes: int = FrameConfig.minutes_per_frame,
        multiple: int = 1,
    ):
        if picker not in PICKERS:
            raise InputError(f"crop picker '{picker}': expected {' or '.join(PICKERS)}")
        self.picker: Picker = PICKERS[picker](events, num_frames, crop_size, minutes, multiple)
        check_fields(events, fields or {})
        self._events = events
        self._num_frames = num_frames
        self._crop_size = crop_size
        self._seed = seed
        self._use_augmentation = use_augmentation
        self._fields, self._margin = fields or {}, margin
        self._picker_name = picker

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the examples: settings, and the events as they were read."""
        settings = (self._num_frames, self._crop_size, self._picker_name, self._seed)
        settings += (self._use_augmentation, self._margin, tuple(self._fields.items()))
        digest = hashlib.sha256(repr(settings).encode())
        for event in self._events:
            fields = [event.fields[name] for name in self._fields]
            times = [field.time for field in fields if field.time is not None]
            arrays = [event.rain_rate, event.time, *(field.values for field in fields), *times]
            for array in arrays:
                digest.update(f"{array.shape} {array.dtype}".encode())
                digest.update(np.ascontiguousarray(array).view(np.uint8))
        return digest.hexdigest()

    def __getitem__(self, key: tuple[int, int, int]) -> Example:
        rng = keyed_rng(self._seed, STREAM_CROP, *key)
        window = self.picker(rng)
        read = self._num_frames, self._crop_size, self._fields
        margin = int(rng.integers(self._margin + 1)) if self._margin else 0
        example = with_border(
            read_window(self._events, window, *read, margin), self._margin - margin
        )
        return augment(example, rng) if self._use_augmentation else example


class ValidationCrops(Dataset):
    """A fixed set of uniform crops, neither flipped nor transposed; `windows` says which.

    max_rain_rate: mm/h; pixels above it count as no data. fields: as for `TrainingCrops`.
    Item index: `Example` of crop_size pixels, without a margin: a forecast has none either.
    Raises InputError as `UniformPicker` and `check_fields` do.
    """

    def __init__(
        self,
        events: list[RainEvent],
        num_frames: int,
        crop_size: int,
        num_examples: int,
        seed: int,
        max_rain_rate: float = math.inf,
        fields: Mapping[str, FieldNeed] | None = None,
        minutes: int = FrameConfig.minutes_per_frame,
        multiple: int = 1,
    ):
        check_fields(events, fields or {})
        picker = UniformPicker(events, num_frames, crop_size, minutes, multiple)
        self.windows = validation_windows(picker, num_examples, seed)
        self._events = events
        self._num_frames = num_frames
        self._crop_size = crop_size
        self._max_rain_rate = max_rain_rate
        self._fields = fields

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Example:
        read = self._num_frames, self._crop_size, self._fields
        example = read_window(self._events, self.windows[index], *read)
        rain_rate, _ = drop_impossible_rain(example.rain_rate, self._max_rain_rate)
        return example._replace(rain_rate=rain_rate)


def driest_first(crops: ValidationCrops) -> Subset:
    """The crops in order of their share of wet pixels."""
    shares = [wet_share(crops[index].rain_rate).item() for index in range(len(crops))]
    return Subset(crops, np.argsort(shares, kind="stable").tolist())


class BatchKeys:
    """Batch sampler: the keys of the examples that one process computes, micro-batch after
    micro-batch.

    The global batch of an iteration is the same for any number of processes and micro-batches;
    `rank` and micro-batch only choose which indices of it a process computes, and when.
    attempt: part of every key; a run that is rolled back goes on with the next one.
    iterations: those yielded, so a resumed run starts at its own iteration.
    batch_size: of the global batch, over all processes and micro-batches.
    Yields lists of (attempt, iteration, index), num_micro_batches of them for each iteration.
    Raises InputError if the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        attempt: int,
        iterations: range,
        batch_size: int,
        num_micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ):
        assert 0 <= rank < world_size, (rank, world_size)
        num_shares = num_micro_batches * world_size
        if batch_size < 1 or batch_size % num_shares:
            raise InputError(
                f"batch size {batch_size} cannot be shared by {world_size} processes with "
                f"{num_micro_batches} micro-batches each: expected a multiple of {num_shares}, "
                f"such as --batch-size {max(1, round(batch_size / num_shares)) * num_shares}"
            )
        self._attempt, self._iterations = attempt, iterations
        self._micro_batch_size = batch_size // num_shares
        self._first_indices = range(
            rank * self._micro_batch_size, batch_size, world_size * self._micro_batch_size
        )

    def __len__(self) -> int:
        return len(self._iterations) * len(self._first_indices)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for iteration in self._iterations:
            for first in self._first_indices:
                indices = range(first, first + self._micro_batch_size)
                yield [(self._attempt, iteration, index) for index in indices]


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


def validation_windows(picker: UniformPicker, num_examples: int, seed: int) -> list[Window]:
    """The windows of the validation set: uniform, and fixed by the seed for a whole run."""
    return [picker(keyed_rng(seed, STREAM_VALIDATION, index)) for index in range(num_examples)]


def read_window(
    events: list[RainEvent],
    window: Window,
    num_frames: int,
    crop_size: int,
    fields: Mapping[str, FieldNeed] | None = None,
    margin: int = 0,
) -> Example:
    """Rain and fields of one window, with `margin` pixels around it; copies.

    What lies outside the domain is NaN.
    """
    event = events[window.event]
    frames = slice(window.first_frame, window.first_frame + num_frames)
    height, width = event.rain_rate.shape[1:]
    top, bottom = window.y - margin, window.y + crop_size + margin
    left, right = window.x - margin, window.x + crop_size + margin
    rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
    beyond = max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)

    def whole(inside: np.ndarray) -> Tensor:
        return F.pad(torch.from_numpy(as_float32(inside)), beyond, value=torch.nan)

    found = fields_at(event, fields or {}, event.time[frames])
    return Example(
        whole(event.rain_rate[frames, rows, columns])[None],
        {name: whole(values[..., rows, columns]) for name, values in found.items()},
    )


def with_border(example: Example, width: int) -> Example:
    """The example with `width` more pixels on all sides, of which nothing is known (NaN)."""
    if not width:
        return example
    border = (width,) * 4
    fields = {name: F.pad(field, border, value=torch.nan) for name, field in example.fields.items()}
    return Example(F.pad(example.rain_rate, border, value=torch.nan), fields)


def augment(example: Example, rng: np.random.Generator) -> Example:
    """Flipped vertically, flipped horizontally and transposed, each with chance 1/2.

    Vectors turn with the field: a flip changes the sign of a component, a transpose swaps them.
    """
    is_flipped_y, is_flipped_x, is_transposed = rng.random(3) < 0.5
    flipped_axes = [axis for axis, flip in ((-2, is_flipped_y), (-1, is_flipped_x)) if flip]

    def turn(field: Tensor) -> Tensor:
        field = torch.flip(field, flipped_axes)
        return field.transpose(-2, -1).contiguous() if is_transposed else field

    def turn_vector(field: Tensor) -> Tensor:
        sign = field.new_tensor([-1.0 if is_flipped_y else 1.0, -1.0 if is_flipped_x else 1.0])
        field = turn(field) * sign[:, None, None]
        return field.flip(-3) if is_transposed else field

    return Example(
        turn(example.rain_rate),
        {
            name: turn_vector(field) if field.shape[-3] == 2 else turn(field)
            for name, field in example.fields.items()
        },
    )


def wet_share(rain_rate: Tensor) -> Tensor:
    """Share of the pixels with data that have at least 0.1 mm/h; a scalar, 0 without data."""
    num_valid = (~rain_rate.isnan()).sum()
    return is_wet(rain_rate, WET_THRESHOLD).sum() / num_valid.clamp(min=1)


def valid_share(rain_rate: Tensor, compression: int) -> Tensor:
    """Share of pixels with data in each latent cell.

    rain_rate: (B, 1, T, H, W) mm/h, NaN = no data.
    compression: frames, rows and columns of a cell, and a divisor of T, H and W.
    Returns (B, 1, L, h, w) float32 in 0..1.
    """
    sizes = rain_rate.shape[2:]
    assert all(size % compression == 0 for size in sizes), (sizes, compression)
    return F.avg_pool3d((~rain_rate.isnan()).float(), compression)
