"""What verification found: the content of `scores.json`, and a table for the terminal."""

import math
from typing import Any

import numpy as np

from ldcast.config import FUTURE_FRAMES, MINUTES_PER_FRAME
from ldcast.verification.cases import Case
from ldcast.verification.scoring import Record
from ldcast.verification.skill import skill_table
from ldcast.verification.spectrum import wavelengths_px
from ldcast.verification.tally import INTERVAL, draw_events, interval

LEAD_MINUTES = [MINUTES_PER_FRAME * frame for frame in range(1, FUTURE_FRAMES + 1)]
SHOWN_LEADS = (5, 15, 30, 60, 100)
REFERENCE = "persistence"
BASELINES = ("persistence", "dry", "extrapolation", "steps")
FEW_EVENTS = 5


def scores_table(
    records: dict[str, Record],
    cases: list[Case],
    motions: list[tuple[float, float]],
    settings: dict[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """The content of `scores.json`: plain values, None for NaN.

    records: by forecaster, baselines first. motions: of each case, pixels per frame.
    settings: `num_members`, `crop_size`, `seed`.
    """
    num_events = len({case.window.event for case in cases})
    draws = draw_events(num_events, settings["seed"]) if num_events > 1 else None
    references = [name for name in records if name in BASELINES]
    return to_plain(
        {
            "lead_minutes": LEAD_MINUTES,
            **settings,
            "num_events": num_events,
            "cases": [
                _describe_case(index, case, motion, records)
                for index, (case, motion) in enumerate(zip(cases, motions, strict=True))
            ],
            "models": {name: record.whole.values() for name, record in records.items()},
            "interior": {name: record.interior.values() for name, record in records.items()},
            "intervals": _intervals(records, draws),
            "skill": {
                name: {
                    reference: skill_table(
                        record.whole,
                        records[reference].whole,
                        record.cases,
                        records[reference].cases,
                        draws,
                    )
                    for reference in references
                    if reference != name
                }
                for name, record in records.items()
            },
            "wavelength_px": wavelengths_px(settings["crop_size"], settings["crop_size"]),
            # The median, because the first forecast on a GPU waits for it to warm up.
            "seconds_per_forecast": {
                name: float(np.median(record.seconds)) for name, record in records.items()
            },
            "notes": notes,
        }
    )


def _describe_case(
    index: int, case: Case, motion: tuple[float, float], records: dict[str, Record]
) -> dict[str, Any]:
    return {
        "event": case.event,
        "issue_time": str(case.issue_time),
        "y": case.window.y,
        "x": case.window.x,
        "wet_share": case.wet_share,
        "seed": case.seed,
        "pixel_km": case.pixel_km,
        "motion_px": list(motion),
        "fair_crps_1px": {
            name: record.cases[index]["fair_crps_1px"].mean() for name, record in records.items()
        },
    }


def _intervals(records: dict[str, Record], draws: np.ndarray | None) -> dict[str, Any]:
    if draws is None:
        return {}
    table: dict[str, Any] = {"level": INTERVAL, "models": {}, "interior": {}}
    for name, record in records.items():
        for part, tally in (("models", record.whole), ("interior", record.interior)):
            resampled = tally.resampled(draws)
            table[part][name] = {score: interval(value) for score, value in resampled.items()}
    return table


def warn_of_few_events(num_events: int) -> list[str]:
    """A line where there are too few events to say how sure the scores are."""
    if num_events >= FEW_EVENTS:
        return []
    count = "1 event" if num_events == 1 else f"{num_events} events"
    intervals = "no intervals are given" if num_events == 1 else "the intervals are too narrow"
    return [f"{count}, expected at least {FEW_EVENTS}: {intervals}, and other days may differ"]


def to_plain(value: Any) -> Any:
    """Arrays become lists and NaN becomes None, for JSON knows neither; in nested tables, too."""
    if isinstance(value, dict):
        return {name: to_plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- on the terminal -----------------------------------------------------------------------------


def describe_cases(cases: list[Case], crop_size: int) -> str:
    """A line for each event: its cases and how wet they are."""
    lines = []
    for event in dict.fromkeys(case.event for case in cases):
        wet = [f"{100 * case.wet_share:.0f}" for case in cases if case.event == event]
        count = f"{len(wet)} case" if len(wet) == 1 else f"{len(wet)} cases"
        wetness = " to ".join(dict.fromkeys([wet[0], wet[-1]]))
        lines.append(f"{event}: {count} of {crop_size} x {crop_size} pixels, {wetness} % wet")
    return "\n".join(lines)


def describe_scores(table: dict[str, Any]) -> str:
    """The most telling numbers of `scores_table` in two tables."""
    return "\n".join([*_crps_lines(table), "", *_skill_lines(table)])


def _crps_lines(table: dict[str, Any]) -> list[str]:
    """Fair CRPS at some lead times, and means over all of them."""
    width = max(map(len, table["models"]))
    row = (f"{{:<{width}}}" + "{:>8}" * len(SHOWN_LEADS) + " |" + "{:>8}" * 4 + " |{:>11}").format
    leads = [f"+{minutes}" for minutes in SHOWN_LEADS]
    lines = [
        "Fair CRPS, mm/h, lower is better: per pixel at lead times in minutes | mean of all leads",
        row("", *leads, "1 px", "inside", "8 px", "64 px", "s/forecast"),
    ]
    for name, scores in table["models"].items():
        by_lead = [scores["fair_crps_1px"][LEAD_MINUTES.index(minutes)] for minutes in SHOWN_LEADS]
        means = [
            _mean(scores["fair_crps_1px"]),
            _mean(table["interior"][name]["fair_crps_1px"]),
            _mean(scores["fair_crps_8px"]),
            _mean(scores["fair_crps_64px"]),
        ]
        cells = ["-" if value is None else f"{value:.3f}" for value in by_lead + means]
        lines.append(row(name, *cells, f"{table['seconds_per_forecast'][name]:.2f}"))
    return lines


def _skill_lines(table: dict[str, Any]) -> list[str]:
    """Skill of the models (or, without any, of all) against each baseline, all lead times."""
    width = max(map(len, table["models"]))
    lines = ["Skill by the same, per pixel, mean of all leads; 1 is perfect, 0 as the reference"]
    for name, references in table["skill"].items():
        if name in BASELINES:
            continue
        for reference, scores in references.items():
            mean = scores["fair_crps_1px"]["mean"]
            lines.append(f"{name:<{width}} against {reference:<14}{_describe_skill(mean)}")
    return lines


def _describe_skill(mean: dict[str, Any]) -> str:
    """For example "pooled +0.41 (0.33 to 0.47), median case +0.35 of 23"."""
    if mean["pooled"] is None:
        return "unknown: the reference is perfect"
    text = f"pooled {mean['pooled']:+.2f}"
    if mean.get("low") is not None:
        text += f" ({mean['low']:+.2f} to {mean['high']:+.2f})"
    if mean["median"] is not None:
        text += f", median case {mean['median']:+.2f} of {mean['num_cases']}"
    return text


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))
