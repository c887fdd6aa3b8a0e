"""What an event file carries besides rain: orography, a weather model's rain or wind, lightning.

A field is an array on the grid of the rain, under a name that an input of `ldcast/inputs` takes:
(y, x) does not change in time; (time, y, x) changes; a vector, down and right, is (2, y, x) or
(time, 2, y, x).
Its times are the array NAME_time, or those of the rain frames where there is none; they may go on
after the last frame, as a weather model's do.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ldcast.data.checks import checked_time
from ldcast.data.event import Field, RainEvent
from ldcast.errors import InputError

_TIME_SUFFIX = "_time"
_LAYOUT = "(y, x), (2, y, x), (time, y, x) or (time, 2, y, x), numbers on the grid of the rain"


def fields_of_arrays(
    arrays: dict[str, np.ndarray], time: np.ndarray, size: tuple[int, int], where: object
) -> dict[str, Field]:
    """Takes those out of `arrays` that are fields, by name.

    time: (T,) of the rain frames. size: (H, W) of the rain. where: named in messages.
    Raises InputError for an array with a time that is no field, or whose times do not fit.
    """
    found = {}
    for name in [name for name in arrays if not _is_time_of_another(name, arrays)]:
        array, own_time = arrays[name], arrays.get(name + _TIME_SUFFIX)
        if _is_field(array, size) and _fits(array, own_time, len(time)):
            found[name] = _field(array, own_time, time, f"{where}: {name}")
        elif own_time is not None:
            raise InputError(
                f"{where}: {name}, which has times, has shape {array.shape} and type "
                f"{array.dtype}, expected (time, y, x) or (time, 2, y, x), numbers of "
                f"{size[0]} x {size[1]} pixels"
            )
    for name in found:
        arrays.pop(name)
        arrays.pop(name + _TIME_SUFFIX, None)
    return found


def arrays_of_fields(fields: Mapping[str, Field]) -> dict[str, np.ndarray]:
    """What an event file holds for them."""
    arrays = {}
    for name, field in fields.items():
        is_vector = field.values.shape[1] == 2
        values = field.values if is_vector else field.values[:, 0]
        arrays[name] = values if field.time is not None else values[0]
        if field.time is not None:
            arrays[name + _TIME_SUFFIX] = field.time
    return arrays


def joined_fields(events: Sequence[RainEvent]) -> dict[str, Field]:
    """Those of the newest event, with what the others add to them in time; the newer one wins.

    events: of one grid. Fields that the newest has not are left out.
    """
    newest = max(events, key=lambda event: event.time[-1])
    others = sorted(events, key=lambda event: event.time[-1], reverse=True)
    joined = {}
    for name, field in newest.fields.items():
        parts = [event.fields[name] for event in others if name in event.fields]
        parts = [part for part in parts if part.values.shape[1] == field.values.shape[1]]
        if field.time is None or len(parts) == 1:
            joined[name] = field
            continue
        time = np.concatenate([part.time for part in parts if part.time is not None])
        values = np.concatenate([part.values for part in parts if part.time is not None])
        time, first = np.unique(time, return_index=True)
        joined[name] = Field(values[first], time)
    return joined


class FieldNeed(NamedTuple):
    """What is needed of a field for one window of frames.

    num_channels: 1, or 2 for a vector. num_frames: from the oldest past frame on; 0 of what does
    not change. vector: what a vector is, where that is known: "velocity", in pixels per frame, or
    "other".
    """

    num_channels: int
    num_frames: int
    vector: str = ""


def check_fields(events: Sequence[RainEvent], needs: Mapping[str, FieldNeed]) -> None:
    """Raises InputError where an event lacks a field, or a frame's time of one that changes."""
    for event in events:
        whole = {
            name: need._replace(num_frames=len(event.time) if need.num_frames else 0)
            for name, need in needs.items()
        }
        fields_at(event, whole, event.time)


def fields_at(
    event: RainEvent, needs: Mapping[str, FieldNeed], times: np.ndarray
) -> dict[str, np.ndarray]:
    """The event's fields (F, c, H, W) by name, at the first of the times, as each is needed.

    Raises InputError, one line, where there is none of that name, or it is of another layout, or
    lacks a time.
    """
    found = {}
    for name, need in needs.items():
        where = f"{event.name}: {name}"
        if name not in event.fields:
            unread = "".join(f"; {note}" for note in event.notes if name in note)
            raise InputError(
                f"{event.name} has no {name}, which the model takes as an input: it has "
                f"{', '.join(event.fields) or 'no such arrays'}; add it to the event file as "
                f"{_LAYOUT}{unread}"
            )
        field = event.fields[name]
        check_layout(where, field.values.shape[1], field.time is not None, need)
        try:
            found[name] = field.at(times[: need.num_frames])
        except InputError as error:
            raise InputError(f"{where} ends too soon or has gaps: {error}") from None
    return found


def check_layout(where: str, num_channels: int, is_timed: bool, need: FieldNeed) -> None:
    """Raises InputError for a field that is no vector, or does not change, where it should."""

    def describe(channels: int, changes: bool) -> str:
        kind = "a vector (down, right)" if channels == 2 else "one number for each pixel"
        return f"{kind}, {'one for each frame' if changes else 'without a time'}"

    got, expected = (num_channels, is_timed), (need.num_channels, need.num_frames > 0)
    if got != expected:
        raise InputError(f"{where} is {describe(*got)}, expected {describe(*expected)}")


def notes_of_unused(events: Sequence[RainEvent], names: Collection[str] = ()) -> list[str]:
    """A line for each event with fields that a model, which takes `names`, does not use."""
    lines = []
    for event in events:
        unused = [name for name in event.fields if name not in names]
        if unused:
            lines.append(f"{event.name}: its arrays {', '.join(unused)} are not used")
    return lines


def _is_time_of_another(name: str, arrays: Mapping[str, np.ndarray]) -> bool:
    return name.endswith(_TIME_SUFFIX) and name.removesuffix(_TIME_SUFFIX) in arrays


def _is_field(array: np.ndarray, size: tuple[int, int]) -> bool:
    is_layout = array.ndim in (2, 3) or (array.ndim == 4 and array.shape[1] == 2)
    return is_layout and array.shape[-2:] == size and array.dtype.kind in "fiu"


def _fits(array: np.ndarray, own_time: np.ndarray | None, num_frames: int) -> bool:
    """Whether it is known of what time its entries are, or that they have none."""
    if own_time is not None:
        return array.ndim > 2
    return array.ndim == 2 or len(array) == num_frames or _is_static_vector(array, num_frames)


def _is_static_vector(array: np.ndarray, num_frames: int) -> bool:
    return array.ndim == 3 and len(array) == 2 != num_frames


def _field(array: np.ndarray, own_time: np.ndarray | None, time: np.ndarray, where: str) -> Field:
    if array.ndim == 2:
        return Field(array[None, None])
    if own_time is None and _is_static_vector(array, len(time)):
        return Field(array[None])
    values = array[:, None] if array.ndim == 3 else array
    return Field(values, time if own_time is None else checked_time(own_time, len(array), where))
