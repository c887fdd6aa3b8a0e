"""What an event file carries besides rain: orography, a weather model's rain or wind, lightning.

A field is an array on the grid of the rain, under a name that an input of `ldcast/nowcast` takes:
(y, x) does not change in time; (time, y, x) changes; (time, 2, y, x) is a vector, down and right.
Its times are the array NAME_time, or those of the rain frames where there is none; they may go on
after the last frame, as a weather model's do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ldcast.data.checks import checked_time, format_time
from ldcast.errors import InputError

if TYPE_CHECKING:  # which imports this
    from ldcast.data.archive import RainEvent

_TIME_SUFFIX = "_time"
_LAYOUT = "(y, x), (time, y, x) or (time, 2, y, x) of numbers on the grid of the rain"


@dataclass(frozen=True)
class Field:
    """An array beside the rain, on its grid.

    values: (F, c, H, W), NaN = not known; c is 1, or 2 for a vector (down, right).
    time: (F,) datetime64[s], increasing; None, with F = 1, for what does not change.
    """

    values: np.ndarray
    time: np.ndarray | None = None

    def cut(self, rows: slice, columns: slice) -> "Field":
        """A part of its pixels, a copy."""
        return Field(self.values[..., rows, columns].copy(), self.time)

    def retimed(self, before: np.ndarray, now: np.ndarray) -> "Field":
        """With the times that its event's frames have now, where it had theirs before."""
        is_of_frames = self.time is not None and np.array_equal(self.time, before)
        return Field(self.values, now) if is_of_frames else self

    def at(self, times: np.ndarray) -> np.ndarray:
        """(len(times), c, H, W), or (1, c, H, W) of what does not change; a view where it can be.

        Raises InputError where a time is missing.
        """
        if self.time is None:
            return self.values
        missing = times[~np.isin(times, self.time)]
        if len(missing):
            raise InputError(
                f"it has no frame of {format_time(missing[0])}, expected one for each of "
                f"{len(times)} from {format_time(times[0])} to {format_time(times[-1])}, while it "
                f"goes from {format_time(self.time[0])} to {format_time(self.time[-1])}"
            )
        index = np.searchsorted(self.time, times)
        first, last = int(index[0]), int(index[-1])
        is_run = last - first + 1 == len(times)
        return self.values[first : last + 1] if is_run else self.values[index]


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
        is_timed = own_time is not None or array.ndim == 2 or len(array) == len(time)
        if _is_field(array, size) and is_timed:
            found[name] = _field(array, own_time, time, f"{where}: {name}")
        elif own_time is not None:
            raise InputError(
                f"{where}: {name} has shape {array.shape} and type {array.dtype}, expected "
                f"{_LAYOUT} of {size[0]} x {size[1]} pixels"
            )
    for name in found:
        arrays.pop(name)
        arrays.pop(name + _TIME_SUFFIX, None)
    return found


def arrays_of_fields(fields: Mapping[str, Field]) -> dict[str, np.ndarray]:
    """What an event file holds for them."""
    arrays = {}
    for name, field in fields.items():
        is_scalar = field.values.shape[1] == 1
        values = field.values[:, 0] if is_scalar else field.values
        arrays[name] = values if field.time is not None else values[0]
        if field.time is not None:
            arrays[name + _TIME_SUFFIX] = field.time
    return arrays


def joined_fields(events: Sequence["RainEvent"]) -> dict[str, Field]:
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


def check_fields(events: Sequence["RainEvent"], names: Sequence[str]) -> None:
    """Raises InputError where an event lacks a field, or a time of it."""
    for event in events:
        for name in names:
            fields_at(event, [name], event.time)


def fields_at(event: "RainEvent", names: Sequence[str], times: np.ndarray) -> dict[str, np.ndarray]:
    """The event's fields of these names at these times, each as `Field.at` gives it.

    Raises InputError, one line, where there is none of that name or it lacks a time.
    """
    found = {}
    for name in names:
        if name not in event.fields:
            raise InputError(
                f"{event.name} has no {name}, which the model takes as an input: it has "
                f"{', '.join(event.fields) or 'no such arrays'}; add it to the event file as "
                f"{_LAYOUT}"
            )
        try:
            found[name] = event.fields[name].at(times)
        except InputError as error:
            raise InputError(f"{event.name}: {name} ends too soon or has gaps: {error}") from None
    return found


def notes_of_unused(events: Sequence["RainEvent"], names: Sequence[str] = ()) -> list[str]:
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


def _field(array: np.ndarray, own_time: np.ndarray | None, time: np.ndarray, where: str) -> Field:
    if array.ndim == 2:
        return Field(array[None, None])
    values = array[:, None] if array.ndim == 3 else array
    return Field(values, time if own_time is None else checked_time(own_time, len(array), where))
