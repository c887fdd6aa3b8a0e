"""What all panels share: how lines look, and how they are read from a table of scores.

A table is the content of `scores.json`. What it lacks, or has only nulls for, is not drawn.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.products.diagrams import DISTINCT_COLOURS, Style

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.axis import Axis

SINGLE_MEMBER = ("extrapolation", "persistence", "dry")
# Baselines keep to grey, and differ by their dashes; in this order in legends, after the models.
BASELINE_STYLES: dict[str, Style] = {
    "steps": {"color": "#303030", "linestyle": "-", "linewidth": 1.3},
    "extrapolation": {"color": "#505050", "linestyle": (0, (7, 2, 1.5, 2)), "linewidth": 1.3},
    "persistence": {"color": "#7a7a7a", "linestyle": (0, (5, 2)), "linewidth": 1.3},
    "dry": {"color": "#7a7a7a", "linestyle": (0, (1, 1.5)), "linewidth": 1.5},
}
MODEL_MARKERS = "osD^vP"  # for print in grey
OBSERVED = "observed"
OBSERVED_STYLE = {"color": "#000000", "linestyle": "-", "linewidth": 2.2, "label": OBSERVED}


def line_styles(table: dict[str, Any]) -> dict[str, Style]:
    """How each forecaster's lines look, label included: models first, then baselines."""
    models = [name for name in table["models"] if name not in BASELINE_STYLES]
    styles = {
        name: {
            "color": DISTINCT_COLOURS[i % len(DISTINCT_COLOURS)],
            "linewidth": 1.9,
            "marker": MODEL_MARKERS[i % len(MODEL_MARKERS)],
            "markersize": 4.5,
            "markevery": (1 + i % 4, 4),
            "zorder": 3,
        }
        for i, name in enumerate(models)
    }
    styles |= {name: style for name, style in BASELINE_STYLES.items() if name in table["models"]}
    return {name: style | {"label": short_name(name)} for name, style in styles.items()}


def short_name(name: str, length: int = 34) -> str:
    """The end of a long name: that is where paths differ."""
    return name if len(name) <= length else "…" + name[1 - length :]


def ensemble_styles(table: dict[str, Any]) -> dict[str, Style]:
    """`line_styles` of the forecasters with more than one member."""
    styles = line_styles(table)
    return {name: look for name, look in styles.items() if members_of(table, name) > 1}


def distribution_styles(table: dict[str, Any]) -> dict[str, Style]:
    """`ensemble_styles` of those with as many members as the models have.

    Only their ranks, and the chances that they can forecast, are the same.
    """
    styles, num_members = ensemble_styles(table), table["num_members"]
    return {name: look for name, look in styles.items() if members_of(table, name) == num_members}


def members_of(table: dict[str, Any], name: str) -> int:
    """How many members a forecaster has: another system as its files do, else as the models."""
    if (own := look_up(table, "forecasts", name, "num_members")) is not None:
        return own
    return 1 if name in SINGLE_MEMBER else table["num_members"]


def look_up(table: dict[str, Any], *keys: str) -> Any:
    """What nested tables hold under the keys, one after the other; None where one is missing."""
    entry: Any = table
    for key in keys:
        entry = entry.get(key) if isinstance(entry, dict) else None
    return entry


def known(entry: Any) -> np.ndarray | None:
    """Nested lists with None for what is unknown -> float64 with NaN; None if all is unknown."""
    values = np.array([] if entry is None else entry, dtype=np.float64)
    return values if np.isfinite(values).any() else None


def score_names(table: dict[str, Any]) -> set[str]:
    """The names of all scores that any forecaster has."""
    return {name for scores in table["models"].values() for name in scores}


def nearest_size(names: set[str], family: str, wanted: int) -> int | None:
    """Of the scores called like `family`, {} being a size in pixels, the size nearest to wanted."""
    pattern = re.escape(family).replace(r"\{\}", r"(\d+)")
    sizes = [int(match[1]) for name in names if (match := re.fullmatch(pattern, name))]
    return min(sizes, key=lambda size: abs(np.log(size / wanted)), default=None)


def label_plainly(axis: Axis) -> None:
    """0.02 instead of 2 x 10^-2 along a logarithmic axis, and 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")
