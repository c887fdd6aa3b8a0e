"""Settings as frozen dataclasses: declared once, checked when built, read from JSON and flags."""

import argparse
import contextlib
import dataclasses
import difflib
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from ldcast.errors import InputError

SettingsT = TypeVar("SettingsT", bound="Settings")


def setting(default: Any, text: str, low: float | None = None, choices: tuple = ()) -> Any:
    """A dataclass field with its help text, lowest value and choices."""
    return dataclasses.field(
        default=default, metadata={"help": text, "low": low, "choices": tuple(choices)}
    )


class Settings:
    """Base of the settings dataclasses: checks every field against its own limits when built.

    Raises InputError that names the field, what was got and what was expected.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low, choices = field.metadata.get("low"), field.metadata.get("choices")
            if choices and value not in choices:
                expected = ", ".join(str(choice) for choice in choices)
                raise InputError(f"{field.name}: got {value!r}, expected one of {expected}")
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise InputError(f"{field.name}: got {value}, expected a finite number")
            if low is not None and any(not number >= low for number in numbers):
                raise InputError(f"{field.name}: got {value}, expected {low} or more")


def to_dict(settings: Settings) -> dict[str, Any]:
    """Nested plain dict, ready for JSON."""
    return dataclasses.asdict(settings)


def from_dict(cls: type[SettingsT], values: Mapping[str, Any], path: str = "") -> SettingsT:
    """Settings from a nested dict such as JSON gives; missing keys take their defaults.

    A field whose metadata has `choose` holds settings of the class that it gives for their table.
    Raises InputError for an unknown key, naming the nearest known one, and for a wrong type.
    """
    if not isinstance(values, Mapping):
        name = path.rstrip(".") or "settings"
        raise InputError(f"{name}: got {values!r}, expected a table of settings")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise InputError(unknown_name(path + key, [path + name for name in hints]))
    for field in dataclasses.fields(cls):
        if "choose" in field.metadata and isinstance(values.get(field.name), Mapping):
            hints[field.name] = field.metadata["choose"](values[field.name])
    return cls(**{key: _convert(hints[key], value, path + key) for key, value in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, Settings):
        return from_dict(hint, value, path + ".")
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{path}: got {value!r}, expected a list")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, entry, path) for entry in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{path}: got {value!r}, expected {hint.__name__}")
    return value


def unknown_name(name: str, known: list[str], what: str = "setting") -> str:
    """A line that names what may have been meant."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
    return f"unknown {what} {name}: {hint}"


class Leaf(NamedTuple):
    """A setting that holds a value rather than more settings."""

    name: str  # dotted
    hint: Any  # its type
    text: str  # for --help
    value: Any


def leaves(settings: Settings, path: str = "") -> Iterator[Leaf]:
    """Every leaf, in order of declaration."""
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Settings):
            yield from leaves(value, f"{path}{field.name}.")
        else:
            text = field.metadata.get("help", "")
            yield Leaf(path + field.name, hints[field.name], text, value)


def add_flags(parser: argparse._ActionsContainer, defaults: Settings) -> None:
    """A flag `--dotted.name VALUE` for every leaf; absent flags leave no trace in the namespace."""
    for leaf in leaves(defaults):
        parser.add_argument(
            "--" + leaf.name.replace("_", "-"),
            dest=leaf.name,
            default=argparse.SUPPRESS,
            metavar="X",
            help=f"{leaf.text} ({_as_text(leaf.value)})".replace("%", "%%"),
        )


def override(settings: SettingsT, changes: Mapping[str, Any]) -> SettingsT:
    """Settings with some leaves changed: {"optimizer.lr": "1e-4"}, text or values.

    Raises InputError for an unknown name, a text that is not of the leaf's type, or a bad range.
    """
    hints = {leaf.name: leaf.hint for leaf in leaves(settings)}
    values = to_dict(settings)
    for name, change in changes.items():
        if name not in hints:
            raise InputError(unknown_name(name, list(hints)))
        if isinstance(change, str):
            change = _parse(change, hints[name], name)
        *parents, leaf = name.split(".")
        table = values
        for parent in parents:
            table = table[parent]
        table[leaf] = change
    return from_dict(type(settings), values)


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={entry}" for key, entry in value.items()) or "none"
    return ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _parse_pair(text: str, name: str) -> tuple[str, Any]:
    """NAME=VALUE, the value an int, a float, true or false where it can be one; else a text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{name}: got {text!r}, expected NAME=VALUE, more of them after commas")
    for kind in (int, float, bool):
        with contextlib.suppress(InputError):
            return key, _parse(value, kind, name)
    return key, value


def _parse(text: str, hint: Any, name: str) -> Any:
    """`text` as a value of a type; tuples are written with commas, flags as true or false,
    tables as NAME=VALUE with commas."""
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_parse(part, item, name) for part in text.split(",") if part)
    if hint is dict:
        return dict(_parse_pair(part, name) for part in text.split(",") if part)
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name}: got {text!r}, expected true or false")
        return text.lower() == "true"
    try:
        return hint(text)
    except ValueError:
        raise InputError(f"{name}: got {text!r}, expected {hint.__name__}") from None
