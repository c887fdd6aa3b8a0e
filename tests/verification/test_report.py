"""The content of scores.json, and the tables on the terminal."""

import json
import math

import numpy as np
import pytest

from ldcast.data.event import RainEvent
from ldcast.data.pickers import Window
from ldcast.verification.cases import Case
from ldcast.verification.report import (
    describe_cases,
    describe_scores,
    to_plain,
    warn_of_blocks,
    warn_of_few_events,
)

LEADS = 20


def test_plain_values_can_be_json():
    value = {"a": np.array([[1.0, np.nan], [np.inf, 2]]), "b": (np.float64(0.5), np.int64(3), "x")}
    plain = to_plain(value)
    assert plain == {"a": [[1.0, None], [None, 2.0]], "b": [0.5, 3, "x"]}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert to_plain(np.array(np.nan)) is None


def test_few_events_are_warned_of():
    assert warn_of_few_events(5) == []
    assert "too narrow" in warn_of_few_events(4)[0]
    assert "no intervals" in warn_of_few_events(1)[0]


def test_cases_of_each_event():
    names = ["storm", "gale", "calm"]
    cases = [
        Case(Window(event, 0, 0, 0), names[event], np.datetime64("2020-06-01"), wet, 0)
        for event, wet in [(0, 0.042), (1, 0.1), (0, 0.3)]
    ]
    nothing = np.zeros((1, 1, 1), np.float32), np.array(["2020-06-01"], "datetime64[s]")
    events = [RainEvent(*nothing, name=name) for name in names]
    assert describe_cases(events, cases, 64).splitlines() == [
        "storm: 2 cases of 64 x 64 pixels, 4 to 30 % wet",
        "gale: 1 case of 64 x 64 pixels, 10 % wet",
        "calm: 0 cases of 64 x 64 pixels",
    ]


def test_blocks_that_a_crop_does_not_fill():
    assert warn_of_blocks(256, 64) == warn_of_blocks(64 + 46, 64) == []
    assert "leave out the last 45 rows" in warn_of_blocks(64 + 45, 64)[0]
    assert "leave out the last 16 rows" in warn_of_blocks(80, 64)[0]
    assert "hold no block of 64" in warn_of_blocks(32, 64)[0]
    assert warn_of_blocks(48, 64) == []


def table(inside: float | None = None, **mean) -> dict:
    """What the tables on the terminal need of `scores_table`."""
    scores = {f"fair_crps_{size}px": [float(size)] * LEADS for size in (1, 8, 64)}
    scores["fair_crps_64px"] = [None] * LEADS
    scores |= {"spread_error_ratio": [0.9] * LEADS, "wet_area_ratio": [1.2] * 19 + [None]}
    return {
        "lead_minutes": [5 * frame for frame in range(1, LEADS + 1)],
        "models": {"dry": scores, "model": scores},
        "interior": {"dry": scores, "model": {**scores, "fair_crps_1px": [0.5] * 10 + [9] * 10}},
        "interior_share": [0.9] * 10 + [0.1] * 9 + [None],
        "seconds_per_forecast": {"dry": 0.0, "model": 12.345},
        "skill": {"dry": {}, "model": {"dry": {"fair_crps_1px": {"mean": mean}}}},
        "interior_skill": {"model": {"dry": {"fair_crps_1px": {"mean": {"pooled": inside}}}}},
    }


def test_numbers_come_where_the_head_says():
    lines = describe_scores(table(pooled=0.5, median=0.25, num_cases=3)).splitlines()
    assert lines[1].split() == [
        "+5",
        "+15",
        "+30",
        "+60",
        "+100",
        "|",
        "1",
        "px",
        "inside",
        "8",
        "px",
        "64",
        "px",
        "|",
        "s/forecast",
    ]
    row, ensemble = (line for line in lines if line.startswith("model  ") and "|" in line)
    assert ensemble.split() == ["model", *["0.90"] * 5, "|", *["1.20"] * 4, "-"]
    assert row.split() == [
        "model",
        *["1.000"] * 5,
        "|",
        "1.000",
        "0.500",
        "8.000",
        "-",
        "|",
        "12.35",
    ]


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (
            {"pooled": 0.414, "low": -0.1, "high": 0.5, "median": 0.35, "num_cases": 23},
            "pooled +0.41 (-0.10 to +0.50), median case +0.35 of 23",
        ),
        ({"pooled": 0.1, "median": None, "num_cases": 0}, "pooled +0.10"),
        ({"pooled": None, "median": None, "num_cases": 0}, "unknown: the reference is perfect"),
    ],
)
def test_skill_in_words(mean, text):
    last = describe_scores(table(**mean)).splitlines()[-1]
    assert last.startswith("model against dry") and last.endswith(text)
    last = describe_scores(table(inside=-0.2, **mean)).splitlines()[-1]
    assert last.endswith(f"{text}; inside pooled -0.20")


def test_how_much_is_inside():
    shown = describe_scores(table(pooled=0.5, median=None, num_cases=0))
    assert "90% at +5 min and 0% at +100 min; the mean is of the 10 leads with 20%" in shown


def test_unknown_values_are_dashes():
    content = table(pooled=math.pi, median=None, num_cases=0)
    content["models"]["dry"]["fair_crps_1px"] = [1.0] * 19 + [None]
    row = next(line for line in describe_scores(content).splitlines() if line.startswith("dry"))
    assert row.split()[5:8] == ["-", "|", "-"]  # at 100 minutes, and so the mean
