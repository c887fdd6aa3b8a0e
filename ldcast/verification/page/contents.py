"""What the picture and the page of scores both say: headings, and the small print."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ldcast.verification.page.lines import BASELINE_STYLES, members_of, short_name

LEADS_TITLE, CASES_TITLE = "Scores by lead time", "Cases to look at"
CASES_HINT = "the radar, and what was forecast; a member is one way in which it could go"


def title_of(table: dict[str, Any]) -> str:
    """Which models were verified, or how many."""
    models = [short_name(name) for name in table["models"] if name not in BASELINE_STYLES]
    what = ", ".join(models) if len(models) <= 3 else f"{len(models)} models"
    return f"Verification of {what or 'baselines'}"


def counts_of(table: dict[str, Any]) -> str:
    """How many cases, events and members."""
    numbers = {
        "case": len(table["cases"]),
        "event": table["num_events"],
        "member": table["num_members"],
    }
    return ", ".join(f"{n} {noun}{'s' * (n != 1)}" for noun, n in numbers.items())


def leads_hint(table: dict[str, Any]) -> str:
    """How to read scores by lead time."""
    others = [name for name in table.get("forecasts", {}) if members_of(table, name) == 1]
    *single, last = ("persistence", "dry", "extrapolation", *map(short_name, others))
    hint = (
        f"means over the pixels of all cases; {', '.join(single)} and {last} have one "
        "member, and only the fair CRPS compares ensembles of any size"
    )
    if level := (table.get("intervals") or {}).get("level"):
        hint += f"; bands: {level:.0%} bootstrap intervals"
    return hint


def small_print(table: dict[str, Any]) -> list[str]:
    """How many cases of which event, the time that forecasts took, and the table's notes."""
    cases = Counter(case["event"] for case in table["cases"])
    lines = ["Cases: " + ", ".join(f"{number} of {event}" for event, number in cases.items())]
    if seconds := table.get("seconds_per_forecast"):
        times = ", ".join(f"{name} {value:.3g}" for name, value in seconds.items() if value)
        lines.append(f"Median seconds per forecast: {times}")
    return [*lines, *table["notes"]]
