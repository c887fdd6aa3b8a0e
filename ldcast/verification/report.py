"""What verification found: the content of `scores.json`, and a table for the terminal."""

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from types import MappingProxyType
from typing import Any

import numpy as np

from ldcast.data.event import RainEvent
from ldcast.frames import nearest_leads
from ldcast.motion import MIN_INTERIOR_SHARE
from ldcast.products.ensemble import THRESHOLDS
from ldcast.verification.cases import Case
from ldcast.verification.forecasters import BASELINES
from ldcast.verification.scores.spectrum import wavelengths_px
from ldcast.verification.scoring import Record
from ldcast.verification.skill import skill_table
from ldcast.verification.tally import INTERVAL, Tally, draw_events, interval

TABLE_LEADS = (5, 15, 30, 60, 100)  # minutes; those nearest of the model's own are shown
FEW_EVENTS = 5
DERIVED_SIZES = (1, 8, 64)  # pixels
NOTHING: Mapping[str, dict[str, Any]] = MappingProxyType({})


def scores_table(
    records: dict[str, Record],
    cases: list[Case],
    motions: list[tuple[float, float] | None],
    settings: dict[str, Any],
    notes: list[str],
    derived: Mapping[str, dict[str, Any]] = NOTHING,
) -> dict[str, Any]:
    """The content of `scores.json`: plain values, None for NaN.

    records: by forecaster, baselines first. motions: of each case, pixels per frame, or None.
    settings: `num_members`, `crop_size`, `seed`; under `forecasts`, by name, where those of other
        systems are from, which are references for skill as the baselines are.
    derived: of what else was scored, by name, as `Derived.describe` says.
    """
    num_events = len({case.source for case in cases})
    draws = draw_events(num_events, settings["seed"]) if num_events > 1 else None
    share = interior_share(next(iter(records.values())))
    references = [name for name in records if name in (*BASELINES, *settings.get("forecasts", {}))]
    lead_minutes = cases[0].frames.lead_minutes
    leads = np.ones(len(lead_minutes), dtype=bool)
    return to_plain(
        {
            "lead_minutes": lead_minutes,
            **settings,
            "num_events": num_events,
            "cases": [
                _describe_case(index, case, motion, records)
                for index, (case, motion) in enumerate(zip(cases, motions, strict=True))
            ],
            "models": {name: record.whole.values() for name, record in records.items()},
            "interior": {name: record.interior.values() for name, record in records.items()},
            "intervals": _intervals(records, draws),
            "interior_share": share,
            "skill": _skill(
                {name: record.whole for name, record in records.items()}, references, draws, leads
            ),
            "interior_skill": _skill(
                {name: record.interior for name, record in records.items()},
                references,
                draws,
                share >= MIN_INTERIOR_SHARE,
            ),
            "derived": {
                name: {
                    **about,
                    "models": {of: record.derived[name].values() for of, record in records.items()},
                    "skill": _skill(
                        {of: record.derived[name] for of, record in records.items()},
                        references,
                        draws,
                        np.ones(len(about["lead_minutes"]), dtype=bool),
                    ),
                }
                for name, about in derived.items()
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
    index: int, case: Case, motion: tuple[float, float] | None, records: dict[str, Record]
) -> dict[str, Any]:
    return {
        "event": case.event,
        "issue_time": str(case.issue_time),
        "y": case.window.y,
        "x": case.window.x,
        "wet_share": case.wet_share,
        "seed": case.seed,
        "pixel_km": case.pixel_km,
        "motion_px": motion,
        "fair_crps_1px": {
            name: _nanmean(record.whole.cases[index]["fair_crps_1px"])
            for name, record in records.items()
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


def interior_share(record: Record) -> np.ndarray:
    """(T,) of the scored pixels of all cases, the share in the interior, of any forecaster."""
    num_pixels = (
        tally.values()[f"num_forecasts_{THRESHOLDS[0]:g}mm"].sum(axis=-1)
        for tally in (record.interior, record.whole)
    )
    inside, scored = num_pixels
    return inside / np.where(scored > 0, scored, np.nan)


def _skill(
    tallies: dict[str, Tally],
    references: Sequence[str],
    draws: np.ndarray | None,
    leads: np.ndarray,
) -> dict[str, dict]:
    """name -> reference -> `skill_table`."""
    return {
        name: {
            reference: skill_table(tally, tallies[reference], draws, leads)
            for reference in references
            if reference != name
        }
        for name, tally in tallies.items()
    }


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


def describe_cases(events: list[RainEvent], cases: list[Case], crop_size: int) -> str:
    """A line for each event, an archive being one: its cases and how wet they are."""
    lines = []
    names = [events[case.window.event].name for case in cases]
    for name in dict.fromkeys(event.name for event in events):
        of_event = [case for case, its in zip(cases, names, strict=True) if its == name]
        wet = [f"{100 * case.wet_share:.0f}" for case in of_event]
        wetness = f", {' to '.join(dict.fromkeys([wet[0], wet[-1]]))} % wet" if wet else ""
        count = f"{len(wet)} case" if len(wet) == 1 else f"{len(wet)} cases"
        lines.append(f"{name}: {count} of {crop_size} x {crop_size} pixels{wetness}")
    return "\n".join(lines)


def warn_of_blocks(crop_size: int, block_size: int) -> list[str]:
    """A line where means over blocks miss a part of a crop, for want of half a block's pixels."""
    rest = crop_size % block_size
    if rest >= block_size / 2**0.5 or rest == 0:  # enough even in the corner
        return []
    if crop_size < block_size / 2**0.5:
        return [f"crops of {crop_size} pixels hold no block of {block_size}: no such scores"]
    return [
        f"scores of {block_size} px leave out the last {rest} rows and columns of a crop, or their "
        f"corner; a --crop-size that is a multiple of {block_size} is scored whole"
    ]


def describe_scores(table: dict[str, Any]) -> str:
    """The most important numbers of `scores_table` in three tables, and one of what was derived."""
    lines = [*_crps_lines(table), "", *_ensemble_lines(table), "", *_skill_lines(table)]
    for name, scored in table.get("derived", {}).items():
        lines += ["", *_derived_lines(name, scored)]
    return "\n".join(lines)


def _derived_lines(name: str, scored: dict[str, Any]) -> list[str]:
    """Means over all windows or lead times of what was made of forecasts."""
    width = max(map(len, scored["models"]))
    known = next(iter(scored["models"].values()))
    sizes = [size for size in DERIVED_SIZES if f"fair_crps_{size}px" in known]
    thresholds = [f"{threshold:g}mm" for threshold in scored["thresholds"]]
    reached = [f">= {threshold:g}" for threshold in scored["thresholds"]]
    averaged = ["areas"] if scored["of"] == "areas" else [f"{size} px" for size in sizes]
    titles = [*averaged, *reached, "spread"]
    row = (f"{{:<{width}}}" + "{:>10}" * len(titles)).format
    lines = [
        f"{name}: fair CRPS, {scored['unit']} | Brier scores | spread over error; means of "
        f"{len(scored['lead_minutes'])} times",
        row("", *titles),
    ]
    for model, scores in scored["models"].items():
        names = [f"fair_crps_{size}px" for size in sizes] + [f"brier_{of}" for of in thresholds]
        values = [_mean(scores[of]) for of in names]
        cells = ["-" if value is None else f"{value:.4f}" for value in values]
        ratio = _mean(scores["spread_error_ratio"])
        lines.append(row(model, *cells, "-" if ratio is None else f"{ratio:.2f}"))
    if _mean(known[f"fair_crps_{sizes[0]}px"]) is None:
        lines.append("nothing was scored: nowhere had all of it data")
    return lines


def _ensemble_lines(table: dict[str, Any]) -> list[str]:
    """Whether the members are as different, and as wet, as they should be."""
    width = max(map(len, table["models"]))
    shown = nearest_leads(table["lead_minutes"], TABLE_LEADS)
    row = (f"{{:<{width}}}" + "{:>8}" * len(shown) + " |" + "{:>8}" * len(shown)).format
    leads = [f"+{table['lead_minutes'][index]}" for index in shown]
    lines = [
        "Spread over error of the ensemble mean | wet area over that observed; 1 is right",
        row("", *leads, *leads),
    ]
    for name, scores in table["models"].items():
        values = [
            scores[score][index]
            for score in ("spread_error_ratio", "wet_area_ratio")
            for index in shown
        ]
        lines.append(row(name, *("-" if value is None else f"{value:.2f}" for value in values)))
    return lines


def _crps_lines(table: dict[str, Any]) -> list[str]:
    """Fair CRPS at some lead times, and means over all of them."""
    width = max(map(len, table["models"]))
    shown = nearest_leads(table["lead_minutes"], TABLE_LEADS)
    row = (f"{{:<{width}}}" + "{:>8}" * len(shown) + " |" + "{:>8}" * 4 + " |{:>11}").format
    leads = [f"+{table['lead_minutes'][index]}" for index in shown]
    inside = [
        share is not None and share >= MIN_INTERIOR_SHARE for share in table["interior_share"]
    ]
    lines = [
        "Fair CRPS, mm/h, lower is better: per pixel at lead times in minutes | mean of all leads",
        row("", *leads, "1 px", "inside", "8 px", "64 px", "s/forecast"),
    ]
    for name, scores in table["models"].items():
        by_lead = [scores["fair_crps_1px"][index] for index in shown]
        means = [
            _mean(scores["fair_crps_1px"]),
            _mean(list(compress(table["interior"][name]["fair_crps_1px"], inside))),
            _mean(scores["fair_crps_8px"]),
            _mean(scores["fair_crps_64px"]),
        ]
        cells = ["-" if value is None else f"{value:.3f}" for value in by_lead + means]
        seconds = table["seconds_per_forecast"][name]
        lines.append(row(name, *cells, "-" if seconds is None else f"{seconds:.2f}"))
    return [*lines, _describe_interior(table, inside)]


def _describe_interior(table: dict[str, Any], is_used: list[bool]) -> str:
    """For example "inside: 93 % of the pixels at +5 min, 45 % at +100 min; ..."."""
    shares, minutes = table["interior_share"], table["lead_minutes"]
    ends = [f"{shares[k] or 0:.0%} at +{minutes[k]} min" for k in (0, -1)]
    text = f"inside: pixels whose air came from inside the crop, {' and '.join(ends)}"
    if all(is_used):
        return text
    return f"{text}; the mean is of the {sum(is_used)} leads with {MIN_INTERIOR_SHARE:.0%} and more"


def _skill_lines(table: dict[str, Any]) -> list[str]:
    """Skill of the models, and of other systems, against each reference, mean of all lead times, on
    all pixels and inside."""
    width = max(map(len, table["models"]))
    lines = ["Skill by the same, per pixel, mean of all leads; 1 is perfect, 0 as the reference"]
    for name, references in table["skill"].items():
        if name in BASELINES:
            continue
        for reference, scores in references.items():
            mean = scores["fair_crps_1px"]["mean"]
            text = f"{name:<{width}} against {reference:<14}{_describe_skill(mean)}"
            inside = table["interior_skill"][name][reference]["fair_crps_1px"]["mean"]["pooled"]
            lines.append(text if inside is None else f"{text}; inside pooled {inside:+.2f}")
    return lines


def _describe_skill(mean: dict[str, Any]) -> str:
    """For example "pooled +0.41 (+0.33 to +0.47), median case +0.35 of 23"."""
    if mean["pooled"] is None:
        return "unknown: the reference is perfect"
    text = f"pooled {mean['pooled']:+.2f}"
    if mean.get("low") is not None:
        text += f" ({mean['low']:+.2f} to {mean['high']:+.2f})"
    if mean["median"] is not None:
        text += f", median case {mean['median']:+.2f} of {mean['num_cases']}"
    return text


def _mean(values: list[float | None]) -> float | None:
    return None if None in values or not values else float(np.mean(values))


def _nanmean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return known.mean() if len(known) else math.nan
