"""Parts of an event in time: spans by ISO times, and the end that is held out of training."""

import re
from dataclasses import replace

import numpy as np

from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent
from ldcast.errors import InputError

_TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d(:\d\d(:\d\d)?)?)?Z?")


def parse_time(text: str) -> np.datetime64:
    """An ISO time (UTC, trailing Z allowed) as datetime64[s].

    Raises InputError for anything else, offsets from UTC included.
    """
    try:
        if _TIME.fullmatch(text):
            return np.datetime64(text.removesuffix("Z"), "s")
    except ValueError:  # right form, but no such date
        pass
    raise InputError(f"time '{text}': expected ISO and UTC, such as 2016-07-11T22:00")


def frames_in_span(time: np.ndarray, start: str, end: str, name: str) -> tuple[int, int]:
    """The first frame of START/END, and the first after it; InputError if there is none between.

    time: (T,) of the event `name`. start, end: ISO times, or empty for no bound.
    """
    first = np.searchsorted(time, parse_time(start)) if start else 0
    stop = np.searchsorted(time, parse_time(end)) if end else len(time)
    if first >= stop:
        raise InputError(
            f"span '{start}/{end}' selects no frame of {name}, which goes from "
            f"{format_time(time[0])} to {format_time(time[-1])}; "
            "choose START and END (not included) around those"
        )
    return int(first), int(stop)


def select_span(event: RainEvent, start: str, end: str, minutes: int) -> RainEvent:
    """The frames of START/END as views; `minutes` apart. Raises InputError as `frames_in_span`."""
    return slice_event(event, *frames_in_span(event.time, start, end, event.name), minutes)


def slice_event(event: RainEvent, first: int, stop: int, minutes: int) -> RainEvent:
    """Frames first..stop-1 as views, named after the span that selects them."""
    part = event.select(slice(first, stop))
    end = part.time[-1] + np.timedelta64(60 * minutes, "s")
    name = f"{event.name.partition('@')[0]}@{format_time(part.time[0])}/{format_time(end)}"
    return replace(part, name=name)


def hold_out(
    events: list[RainEvent], minutes: int, held_out_frames: int = 24, num_frames: int = 1
) -> tuple[list[RainEvent], list[RainEvent]]:
    """Split events, of frames so many minutes apart, into training and validation parts that share
    no frame.

    Each event of at least twice as many frames gives its last `held_out_frames`, or its last fifth
    where that is more. Shorter ones train whole, and so do those of which a part would have fewer
    than the `num_frames` of an example. The parts are views, named `NAME@START/END`.
    Returns (train, validation); validation is empty if no event is long enough.
    """
    train, validation = [], []
    for event in events:
        length = len(event.time)
        cut = length - max(held_out_frames, length // 5)
        if length < 2 * held_out_frames or min(cut, length - cut) < num_frames:
            train.append(event)
            continue
        train.append(slice_event(event, 0, cut, minutes))
        validation.append(slice_event(event, cut, length, minutes))
    return train, validation
