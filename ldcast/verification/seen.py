"""Whether a model has seen the rain that it is judged by: then its scores say too much."""

from typing import Any

from ldcast.data.archive.days import is_of_part, name_without_part
from ldcast.data.event import RainEvent
from ldcast.data.spans import parse_time
from ldcast.errors import InputError
from ldcast.nowcast.model_folder import read_description


def warn_of_training(folder: str, events: list[RainEvent]) -> list[str]:
    """A line where the model in a folder says that it was trained on some of the events."""
    trained_on = read_description(folder).trained_on
    seen = dict.fromkeys(event.name for event in events if is_trained_on(event, trained_on))
    if not seen:
        return []
    return [f"{folder} was trained on rain of {', '.join(seen)}: give rain that it has not seen"]


def is_trained_on(event: RainEvent, trained_on: Any) -> bool:
    """Whether a model's `trained_on` names rain of this event: the same file, and a frame of it."""
    return any(_shares_frame(event, name) for name in _data_names(trained_on))


def _data_names(trained_on: Any) -> set[str]:
    """Those of the training's events and, in a table of its own, of the autoencoder's.

    What is not as our training writes it, since `trained_on` is free, has no names.
    """
    if not isinstance(trained_on, dict):
        return set()
    data = trained_on.get("data")
    names = set(map(str, data)) if isinstance(data, list) else set()
    return names | _data_names(trained_on.get("autoencoder"))


def _shares_frame(event: RainEvent, name: str) -> bool:
    """name: of an event, `FILE` or `FILE@START/END`, perhaps of a part of its days."""
    file, _, span = name_without_part(name).partition("@")
    if file != name_without_part(event.name).partition("@")[0]:
        return False
    try:
        is_shared = is_of_part(name, event.time)
        if span:
            start, _, end = span.partition("/")
            is_shared &= (event.time >= parse_time(start)) & (event.time < parse_time(end))
    except InputError:  # `trained_on` is free text
        return False
    return bool(is_shared.any())
