"""Frames that a file has room for but no rain yet: left out at its end, with a note."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.data.checks import rounded_to_seconds
from ldcast.data.event import RainEvent, list_frames
from ldcast.data.readers.chunks import Written, written_frames
from ldcast.errors import InputError

if TYPE_CHECKING:  # an extra, imported where it is used
    from xarray import DataArray, Dataset

_IF_UNWRITTEN = "if not written yet, choose an earlier issue time"
_SUDDEN = 0.01  # of the pixels: rain on more does not end everywhere within one frame


def without_unwritten_end(
    dataset: "Dataset", rain: "DataArray", time_axis: Any, store: Path | str
) -> tuple["Dataset", Written | None, list[str]]:
    """What was written of a Zarr folder that was allocated ahead.

    rain: a variable of the dataset. time_axis: its dimension of time.
    Returns the dataset without the run of unwritten frames at the end of the time axis, what is
    known of the others, None if nothing is, and a line on what was left out. Loads one pixel.
    Raises InputError where nothing was written.
    """
    num_frames = rain.sizes[time_axis]
    written = written_frames(store, str(rain.name), rain.dims.index(time_axis), num_frames)
    if written is None or written.frames.all():
        return dataset, written, []
    fill = _fill(rain, time_axis, written)
    why = "" if np.isnan(fill) else f", or all {fill:g}, which Zarr does not write"
    if not written.frames.any():
        raise InputError(
            f"{store}: none of the {num_frames} frames of {rain.name} has a chunk: not written "
            f"yet{why}; write them, and if all are dry with write_empty_chunks=True"
        )
    stop = int(np.flatnonzero(written.frames)[-1]) + 1
    if stop == num_frames:
        return dataset, written, []
    left_out = _frames(dataset[time_axis].values[stop:])
    note = f"no data in {left_out} at the end of the store, without a chunk: not written yet{why}"
    return dataset.isel({time_axis: slice(stop)}), written.select(slice(stop)), [note]


def without_empty_end(event: RainEvent, rain: "DataArray", written: Written | None) -> RainEvent:
    """The event without frames at its end that hold nothing; notes name these, and doubtful ones.

    Such are frames without data, unless all are so; and those of exactly 0 that follow on a frame
    with rain, which does not end so suddenly, in the same chunk. Others, which may be dry, are
    doubted: those after rain, and those that share a chunk.
    rain: (time, y, x), what the event was read from or cut out of: what rained elsewhere is there.
    """
    notes = [*event.notes, *_note_of_unwritten(event, rain, written)]
    stop = _last(event, lambda frame: not np.isnan(frame).all())
    if 0 < stop < len(event.time):
        notes.append(f"no data in {list_frames(event.time[stop:])} at the end")
        event = event.select(slice(stop))
    stop = _last(event, lambda frame: (frame != 0).any())
    is_sudden = 0 < stop < len(event.time) and _is_wet(event.rain_rate[stop - 1])
    if is_sudden:
        stop = _first_of_one_value(rain, stop, len(event.time))
    if is_sudden and stop < len(event.time):
        note = f"{list_frames(event.time[stop:])} at the end, exactly 0 everywhere right after rain"
        if written and written.is_one_chunk(stop - 1, len(event.time) - 1):
            notes.append(f"no data in {note}: not written yet")
            event = event.select(slice(stop))
        else:
            notes.append(f"{note}: {_IF_UNWRITTEN}")
    elif stop < len(event.time) and _may_be_unwritten(rain, written, len(event.time) - 1):
        dry = list_frames(event.time[stop:])
        notes.append(
            f"exactly 0 everywhere at the end, in {dry}, of a store with several frames per chunk: "
            f"{_IF_UNWRITTEN}"
        )
    return replace(event, notes=tuple(notes))


def _note_of_unwritten(event: RainEvent, rain: "DataArray", written: Written | None) -> list[str]:
    """A line on frames amid the others that were not written and read as a number."""
    if written is None or written.frames.all():
        return []
    if np.isnan(fill := _fill(rain, rain.dims[0], written)):
        return []
    meaning = "dry" if fill == 0 else f"{fill:g} {rain.attrs.get('units', '')}".strip()
    frames = list_frames(event.time[~written.frames])
    return [f"{frames} without a chunk in the store, read as {meaning}, the store's fill value"]


def _last(event: RainEvent, holds: Callable[[np.ndarray], bool]) -> int:
    """The number of frames up to the last that holds something; 0 if none does."""
    stop = len(event.time)
    while stop and not holds(event.rain_rate[stop - 1]):
        stop -= 1
    return stop


def _first_of_one_value(rain: "DataArray", first: int, stop: int) -> int:
    """The first of the frames first..stop-1 after which all hold one value alone; `stop` if none.

    Others were written, and so was all before them. One frame is loaded at a time.
    """
    while stop > first:
        frame = rain[stop - 1].to_numpy()
        if (frame != frame.flat[0]).any():
            break
        stop -= 1
    return stop


def _may_be_unwritten(rain: "DataArray", written: Written | None, last: int) -> bool:
    """Whether a last frame of one value shares a chunk with the one before it, which is there."""
    if written is None or last == 0 or not written.is_one_chunk(last - 1, last):
        return False
    return _first_of_one_value(rain, last, last + 1) == last


def _is_wet(frame: np.ndarray) -> bool:
    """Whether rain is on so many pixels that it does not end at once; no data counts as rain."""
    return np.count_nonzero(frame != 0) > _SUDDEN * frame.size


def _fill(rain: "DataArray", time_axis: Any, written: Written) -> float:
    """What an unwritten chunk reads as, unpacked."""
    pixel = rain.isel({name: 0 for name in rain.dims if name != time_axis})
    return float(pixel.isel({time_axis: int(np.flatnonzero(~written.frames)[0])}))


def _frames(time: np.ndarray) -> str:
    """Of when they are; how many where a time was not written either."""
    if time.dtype.kind != "M" or np.isnat(time).any():
        return f"{len(time)} frames"
    return list_frames(rounded_to_seconds(time))
