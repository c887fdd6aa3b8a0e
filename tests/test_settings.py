"""Settings: checked when built, read from JSON and flags, and refused in one clear line."""

import argparse
import json
from dataclasses import dataclass, field

import pytest

from ldcast.errors import InputError
from ldcast.settings import Settings, add_flags, from_dict, override, setting, to_dict

pytestmark = pytest.mark.core


@dataclass(frozen=True)
class Inner(Settings):
    rate: float = setting(0.5, "a rate", low=0)
    sizes: tuple[int, ...] = setting((1, 2), "some sizes", low=1)


@dataclass(frozen=True)
class Outer(Settings):
    inner: Inner = field(default_factory=Inner)
    count: int = setting(3, "how many, 100 % of them", low=1)
    is_on: bool = setting(True, "a switch")
    kind: str = setting("one", "a kind", choices=("one", "two"))


def test_settings_survive_json():
    settings = Outer(Inner(0.25, (4, 5, 6)), 7, False, "two")
    assert from_dict(Outer, json.loads(json.dumps(to_dict(settings)))) == settings


def test_missing_keys_take_their_defaults():
    assert from_dict(Outer, {"inner": {"rate": 2}}) == Outer(Inner(rate=2.0))
    assert isinstance(from_dict(Outer, {"inner": {"rate": 2}}).inner.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 3}, "unknown setting cuont: did you mean count?"),
        ({"inner": {"size": [1]}}, "unknown setting inner.size: did you mean inner.sizes?"),
        ({"zzzzzz": 1}, "unknown setting zzzzzz: known are inner, count, is_on, kind"),
        ({"count": "3"}, "count: got '3', expected int"),
        ({"count": 3.0}, "count: got 3.0, expected int"),
        ({"count": True}, "count: got True, expected int"),
        ({"count": None}, "count: got None, expected int"),
        ({"is_on": 1}, "is_on: got 1, expected bool"),
        ({"kind": 1}, "kind: got 1, expected str"),
        ({"inner": 3}, "inner: got 3, expected a table of settings"),
        ({"inner": {"rate": True}}, "inner.rate: got True, expected float"),
        ({"inner": {"rate": "1"}}, "inner.rate: got '1', expected float"),
        ({"inner": {"sizes": 1}}, "inner.sizes: got 1, expected a list"),
        ({"inner": {"sizes": [1, 2.5]}}, "inner.sizes: got 2.5, expected int"),
    ],
)
def test_wrong_keys_and_types_are_named(values, message):
    with pytest.raises(InputError) as caught:
        from_dict(Outer, values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (Outer, {"count": 0}, "count: got 0, expected 1 or more"),
        (Outer, {"kind": "three"}, "kind: got 'three', expected one of one, two"),
        (Inner, {"rate": -0.1}, "rate: got -0.1, expected 0 or more"),
        (Inner, {"rate": float("nan")}, "rate: got nan, expected a finite number"),
        (Inner, {"sizes": (3, 0)}, r"sizes: got \(3, 0\), expected 1 or more"),
    ],
)
def test_ranges_are_checked_when_built(cls, values, message):
    with pytest.raises(InputError, match=message):
        cls(**values)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "12", Outer(count=12)),
        ("is_on", "False", Outer(is_on=False)),
        ("is_on", "true", Outer()),
        ("kind", "two", Outer(kind="two")),
        ("inner.rate", "1e-4", Outer(Inner(rate=1e-4))),
        ("inner.rate", "2", Outer(Inner(rate=2.0))),
        ("inner.sizes", "4,5,6", Outer(Inner(sizes=(4, 5, 6)))),
        ("inner.sizes", "4", Outer(Inner(sizes=(4,)))),
        ("inner.sizes", "", Outer(Inner(sizes=()))),
    ],
)
def test_text_overrides_a_leaf_of_any_type(name, text, expected):
    assert override(Outer(), {name: text}) == expected


def test_values_override_as_well_and_the_rest_stays():
    before = Outer(Inner(rate=0.75), count=9)
    after = override(before, {"inner.sizes": (8,), "is_on": False})
    assert after == Outer(Inner(0.75, (8,)), 9, False)
    assert before == Outer(Inner(rate=0.75), count=9)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("inner.rat", "1", "unknown setting inner.rat: did you mean inner.rate?"),
        ("inner", "1", "unknown setting inner"),
        ("count", "1e3", "count: got '1e3', expected int"),
        ("count", "-1", "count: got -1, expected 1 or more"),
        ("is_on", "yes", "is_on: got 'yes', expected true or false"),
        ("inner.rate", "fast", "inner.rate: got 'fast', expected float"),
        ("inner.sizes", "1,x", "inner.sizes: got 'x', expected int"),
        ("kind", "three", "kind: got 'three', expected one of one, two"),
    ],
)
def test_wrong_overrides_are_named(name, text, message):
    with pytest.raises(InputError) as caught:
        override(Outer(), {name: text})
    assert str(caught.value).startswith(message)


def test_every_leaf_has_a_flag_that_leaves_no_trace_unless_given():
    parser = argparse.ArgumentParser()
    add_flags(parser, Outer())
    assert vars(parser.parse_args([])) == {}
    given = vars(parser.parse_args(["--inner.rate", "2", "--is-on", "false"]))
    assert override(Outer(), given) == Outer(Inner(rate=2.0), is_on=False)
    assert "how many, 100 % of them (3)" in parser.format_help()
    assert "some sizes (1,2)" in parser.format_help()


def test_an_emptied_tuple_can_be_filled_again():
    emptied = override(Outer(), {"inner.sizes": ""})
    assert emptied.inner.sizes == ()
    assert override(emptied, {"inner.sizes": "3,4"}).inner.sizes == (3, 4)
