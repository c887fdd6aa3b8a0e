"""The flags that say how files are read, the same in every command that has them."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ldcast.data.archive import RainEvent, read_event
from ldcast.data.importers import relation_text
from ldcast.data.reading import Reading
from ldcast.data.reflectivity import check_relation
from ldcast.errors import InputError


def add_reading_flags(add: Callable[..., object]) -> None:
    """add: a parser's `add_argument`."""
    add(
        "--zr",
        type=float,
        nargs=2,
        metavar=("A", "B"),
        help="reflectivity in the files becomes rain by Z = A R^B, such as 200 1.6",
    )


def reading_of(flags: argparse.Namespace) -> Reading:
    """What the flags ask of a reader. Raises InputError for what no reader could do."""
    if flags.zr:
        check_relation(flags.zr)
    return Reading(zr=tuple(flags.zr) if flags.zr else None)


def reader_with(reader: Callable[..., RainEvent], how: Reading) -> Callable[..., RainEvent]:
    """A reader, of `READERS` or `read_event`, that reads so and finds what of it is not used."""

    def read(path: Path | str) -> RainEvent:
        event = reader(path, how)
        check_used(how, [event])
        return event

    return read


def read_events(specs: Sequence[str], how: Reading) -> list[RainEvent]:
    """What the `--data` arguments name. Raises InputError as `read_event` and `check_used` do."""
    events = [read_event(spec, how) for spec in specs]
    check_used(how, events)
    return events


def check_used(how: Reading, events: Sequence[RainEvent]) -> None:
    """Raises InputError where a relation was named, but nothing that was read is reflectivity."""
    if how.zr is None:
        return
    made_by = [str(event.grid.get("processing", "")) for event in events]
    if not any(relation_text(how.zr) in text for text in made_by):
        raise InputError(
            f"--zr {how.zr[0]:g} {how.zr[1]:g} is for reflectivity, but {events[0].name} holds "
            "rain; leave it out"
        )
