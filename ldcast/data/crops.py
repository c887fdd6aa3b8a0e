"""Frames in, training examples out: how the windows that a picker draws reach the networks.

A picker draws a `Window` from a generator; the data sets read it. Every draw is keyed by (seed,
attempt, iteration, index of the example in the global batch), so no example depends on another.
Events are read only by `event.rain_rate[t0:t1, y0:y1, x0:x1]`, `.shape` and their fields.

Wherever they occur here, `minutes` is how far apart the frames must be, and `multiple` of what the
size of a crop is a multiple, in pixels, for the networks that it is for.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from ldcast.data.event import RainEvent
from ldcast.data.fields import FieldNeed, check_fields, fields_at
from ldcast.data.pickers import Picker, Window
from ldcast.data.picking import build_picker
from ldcast.data.variations import check_motion, cut_along, moving, seen_from, with_factor
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.rain import WET_THRESHOLD, as_float32, drop_impossible_rain, is_wet
from ldcast.seeds import STREAM_CROP, STREAM_VALIDATION, keyed_rng


class Example(NamedTuple):
    """What is read of one window; a batch of them has an axis B in front of each array.

    rain_rate: (1, T, H, W) float32 mm/h, NaN = no data. Where a margin is asked for, that many
        pixels on all sides are not of the crop itself.
    fields: name -> (F, c, H, W) float32, of as many frames as are needed, or F = 1 of what does not
        change; c is 2 for a vector, down and right. NaN = not known.
    draw_weight: by which its loss is multiplied, see `Window`; (B,) of a batch.
    """

    rain_rate: Tensor
    fields: dict[str, Tensor]
    draw_weight: Tensor = torch.tensor(1.0)

    def to(self, device: torch.device) -> "Example":
        fields = {name: field.to(device) for name, field in self.fields.items()}
        return Example(self.rain_rate.to(device), fields, self.draw_weight.to(device))


class TrainingCrops(Dataset):
    """Training examples, each made from its key alone; to be used with `BatchKeys`.

    picker: a name of ldcast/data/picking.py. num_judged_frames: see ldcast/data/pickers.py.
    use_augmentation: flip vertically, flip horizontally and transpose, each with probability 1/2.
    crop_motion, rain_factor_db: pixels per frame and dB, see `moving` and `with_factor` of
        ldcast/data/variations.py; 0 for neither. max_rain_rate: mm/h; what the factor keeps to.
    fields: what is needed besides rain, by name.
    margin: pixels that are read around the crop. Each example knows a part of them, from none to
        all with equal chances; the rest of its margin is NaN, as is what lies outside the domain.
    Item (attempt, iteration, index in the global batch): `Example` of crop_size + 2 margin pixels.
    Raises InputError for events that the picker, `check_events`, `check_fields` or `check_motion`
    refuses.
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
        crop_motion: int = 0,
        rain_factor_db: float = 0.0,
        max_rain_rate: float = math.inf,
        num_judged_frames: int = 0,
    ):
        read = num_frames, crop_size, minutes, multiple, num_judged_frames
        self.picker: Picker = build_picker(picker, events, *read)
        check_fields(events, fields or {})
        if crop_motion:
            check_motion(events, fields or {}, crop_motion, num_frames, crop_size)
        self._events = events
        self._num_frames = num_frames
        self._crop_size = crop_size
        self._seed = seed
        self._use_augmentation = use_augmentation
        self._fields, self._margin = fields or {}, margin
        self._picker_name, self._judged_frames = picker, num_judged_frames
        self._crop_motion, self._rain_factor_db = crop_motion, rain_factor_db
        self._max_rain_rate = max_rain_rate

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the examples: settings, and the events as they were read."""
        settings = (self._num_frames, self._crop_size, self._picker_name, self._seed)
        settings += (self._use_augmentation, self._margin, tuple(self._fields.items()))
        settings += (self._crop_motion, self._rain_factor_db, self._max_rain_rate)
        settings += (self._judged_frames,)
        digest = hashlib.sha256(repr(settings).encode())
        for event in self._events:
            fields = [event.fields[name] for name in self._fields]
            times = [field.time for field in fields if field.time is not None]
            rain_rate = event.rain_rate
            if event.is_stored:
                digest.update(f"{rain_rate.store.fingerprint} {rain_rate.frames}".encode())
                rain_rate = np.empty(0)
            arrays = [rain_rate, event.time, *(field.values for field in fields), *times]
            for array in arrays:
                digest.update(f"{array.shape} {array.dtype}".encode())
                digest.update(np.ascontiguousarray(array).view(np.uint8))
        return digest.hexdigest()

    def __getitem__(self, key: tuple[int, int, int]) -> Example:
        rng = keyed_rng(self._seed, STREAM_CROP, *key)
        window = self.picker(rng)
        read = self._num_frames, self._crop_size, self._fields
        margin = int(rng.integers(self._margin + 1)) if self._margin else 0
        if self._crop_motion:
            size = self._events[window.event].rain_rate.shape[1:]
            motion = self._crop_motion, self._num_frames, self._crop_size
            window = moving(window, *motion, size, rng)
        example = with_border(
            read_window(self._events, window, *read, margin), self._margin - margin
        )
        example = example._replace(draw_weight=torch.tensor(window.weight))
        if self._rain_factor_db:
            factor = self._rain_factor_db, self._max_rain_rate
            example = example._replace(rain_rate=with_factor(example.rain_rate, *factor, rng))
        return augment(example, rng) if self._use_augmentation else example


class ValidationCrops(Dataset):
    """A fixed set of uniform crops, neither flipped nor transposed; `windows` says which.

    max_rain_rate: mm/h; pixels above it count as no data. fields: as for `TrainingCrops`.
    Item index: `Example` of crop_size pixels, without a margin: a forecast has none either.
    Crops of stored events are kept once they are read. Raises InputError as the picker and
    `check_fields` do.
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
        picker = build_picker("uniform", events, num_frames, crop_size, minutes, multiple)
        self.windows = validation_windows(picker, num_examples, seed)
        self._events = events
        self._num_frames = num_frames
        self._crop_size = crop_size
        self._max_rain_rate = max_rain_rate
        self._fields = fields
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Example:
        if index in self._kept:
            return self._kept[index]
        read = self._num_frames, self._crop_size, self._fields
        example = read_window(self._events, self.windows[index], *read)
        rain_rate, _ = drop_impossible_rain(example.rain_rate, self._max_rain_rate)
        example = example._replace(rain_rate=rain_rate)
        if self._events[self.windows[index].event].is_stored:
            self._kept[index] = example
        return example


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


def validation_windows(picker: Picker, num_examples: int, seed: int) -> list[Window]:
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

    What lies outside the domain is NaN. Of a window that moves, all that it passes is read at once,
    so that no chunk of a store is read twice; fields are as it sees them, see `seen_from`.
    """
    event = events[window.event]
    frames = slice(window.first_frame, window.first_frame + num_frames)
    height, width = event.rain_rate.shape[1:]
    size = crop_size + 2 * margin
    moves_down, moves_right = (step * (num_frames - 1) for step in (window.down, window.right))
    top, left = window.y - margin + min(moves_down, 0), window.x - margin + min(moves_right, 0)
    bottom, right = top + size + abs(moves_down), left + size + abs(moves_right)
    rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
    beyond = max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)

    def whole(inside: np.ndarray) -> Tensor:
        passed = F.pad(torch.from_numpy(as_float32(inside)), beyond, value=torch.nan)
        return cut_along(passed, window, window.y - margin - top, window.x - margin - left, size)

    needs = fields or {}
    found = fields_at(event, needs, event.time[frames])
    return Example(
        whole(event.rain_rate[frames, rows, columns])[None],
        {
            name: seen_from(window, whole(values[..., rows, columns]), needs[name])
            for name, values in found.items()
        },
    )


def with_border(example: Example, width: int) -> Example:
    """The example with `width` more pixels on all sides, of which nothing is known (NaN)."""
    if not width:
        return example
    border = (width,) * 4
    fields = {name: F.pad(field, border, value=torch.nan) for name, field in example.fields.items()}
    rain_rate = F.pad(example.rain_rate, border, value=torch.nan)
    return example._replace(rain_rate=rain_rate, fields=fields)


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

    fields = {
        name: turn_vector(field) if field.shape[-3] == 2 else turn(field)
        for name, field in example.fields.items()
    }
    return example._replace(rain_rate=turn(example.rain_rate), fields=fields)


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
