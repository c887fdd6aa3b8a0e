"""Panels of scores against lead time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldcast.motion import MIN_INTERIOR_SHARE
from ldcast.products.diagrams import NO_LIMITS, Guide, Limits, Line, Panel, Style
from ldcast.verification.forecasters import REFERENCE
from ldcast.verification.page.lines import (
    ensemble_styles,
    known,
    line_styles,
    look_up,
    members_of,
    nearest_size,
    score_names,
)

LOWER, HIGHER = "lower is better", "higher is better"
PERFECT = f"{HIGHER}, 1 is perfect"
SIZES = (1, 8, 64)  # pixels
LOG_CRPS = "fair_crps_log_rain_{}px"
WORST_SKILL = -1.0  # where the axis of skill ends: far below, the good ones would be squeezed


def lead_panels(table: dict[str, Any]) -> list[Panel]:
    """Scores against lead time, those that the table holds."""
    panels = [
        *(
            _score_panel(table, f"fair_crps_{size}px", f"fair CRPS, {size} px", LOWER, "mm/h")
            for size in SIZES
        ),
        _nearest_panel(table, LOG_CRPS, 1, "fair CRPS of log rain", LOWER, "log10(mm/h)"),
        _interior_panel(table),
        *_skill_panels(table),
        _spread_panel(table),
        _score_panel(table, "wet_area_ratio", "wet area", "1 is as observed", "members / observed"),
        _nearest_panel(table, "fss_1mm_{}px", 16, "FSS, ≥ 1 mm/h", PERFECT, "FSS"),
        _nearest_panel(table, "fss_10mm_{}px", 16, "FSS, ≥ 10 mm/h", PERFECT, "FSS"),
        _score_panel(table, "csi_pmm_1mm", "CSI of matched mean, ≥ 1 mm/h", PERFECT, "CSI"),
        _score_panel(table, "csi_pmm_10mm", "CSI of matched mean, ≥ 10 mm/h", PERFECT, "CSI"),
        _score_panel(table, "brier_1mm", "Brier score, ≥ 1 mm/h", LOWER, "Brier score"),
        *(_divergence_panel(table, size) for size in SIZES),
    ]
    return [panel for panel in panels if panel is not None]


def _score_panel(
    table: dict[str, Any], score: str, title: str, hint: str, unit: str
) -> Panel | None:
    lines = _score_lines(table, "models", score, line_styles(table))
    return _lead_panel(table, title, hint, unit, lines) if lines else None


def _nearest_panel(
    table: dict[str, Any], family: str, wanted: int, title: str, hint: str, unit: str
) -> Panel | None:
    """Of the family the score with the size nearest to `wanted`, in pixels."""
    size = nearest_size(score_names(table), family, wanted)
    return _score_panel(table, family.format(size), f"{title}, {size} px", hint, unit)


def _interior_panel(table: dict[str, Any]) -> Panel | None:
    """Where the interior is a fair part of the pixels; beyond, a few cases make wild curves."""
    share = known(table.get("interior_share"))
    lines = _score_lines(table, "interior", "fair_crps_1px", line_styles(table))
    if not lines or share is None:
        return None
    is_small = ~(share >= MIN_INTERIOR_SHARE)
    lines = [line._replace(values=np.where(is_small, np.nan, line.values)) for line in lines]
    thin = {"linestyle": ":", "linewidth": 1.2, "marker": ""}
    whole = _score_lines(table, "models", "fair_crps_1px", ensemble_styles(table))
    lines += [
        line._replace(style=line.style | thin, band=None, note="whole crops") for line in whole
    ]
    hint = f"{LOWER}; thin dots: whole crops"
    return _lead_panel(table, "fair CRPS, 1 px, interior", hint, "mm/h", lines)


def _skill_panels(table: dict[str, Any]) -> list[Panel]:
    """Skill of the pooled means, and next to it the median of the cases' skill."""
    curves = {
        "skill, fair CRPS 1 px, pooled": _skill_lines(table, "pooled"),
        "skill, fair CRPS 1 px, median case": _skill_lines(table, "median"),
    }
    values = [line.values for lines in curves.values() for line in lines]
    lowest = np.nanmin(values) if values else 0
    limits = (max(WORST_SKILL, min(lowest, 0) - 0.05), None)  # of both, to compare them
    return [
        _lead_panel(table, title, f"{HIGHER}, 0 = {REFERENCE}", "skill", lines, limits)
        for title, lines in curves.items()
        if lines
    ]


def _skill_lines(table: dict[str, Any], kind: str) -> list[Line]:
    lines = []
    for name, style in line_styles(table).items():
        skill = look_up(table, "skill", name, REFERENCE, "fair_crps_1px") or {}
        values = known(skill.get(kind))
        if name != REFERENCE and values is not None:
            lines.append(Line(values, style, _band(skill) if kind == "pooled" else None, name))
    return lines


def _spread_panel(table: dict[str, Any]) -> Panel | None:
    styles = ensemble_styles(table)
    lines = _score_lines(table, "models", "rmse", styles)
    for line in _score_lines(table, "models", "spread", styles):
        num_members = members_of(table, line.name)
        widened = np.sqrt((num_members + 1) / num_members)  # see SpreadScore
        dashed = line.style | {"linestyle": (0, (5, 2))}
        lines.append(Line(widened * line.values, dashed, name=line.name, note="spread"))
    title, hint = "error (solid) and spread (dashed)", f"error {LOWER}; spread should equal it"
    return _lead_panel(table, title, hint, "mm/h", lines) if lines else None


def _divergence_panel(table: dict[str, Any], size: int) -> Panel | None:
    lines = _score_lines(table, "models", f"rank_divergence_{size}px", ensemble_styles(table))
    if not any((line.values > 0).any() for line in lines):
        return None
    title, hint = f"rank divergence, {size} px", f"{LOWER}, 0 is flat"
    unit = "divergence from flat"
    return _lead_panel(table, title, hint, unit, lines, NO_LIMITS, y_scale="log")


def _score_lines(
    table: dict[str, Any], part: str, score: str, styles: dict[str, Style]
) -> list[Line]:
    """A line for each style's forecaster of which something is known.

    part: "models" for whole crops, or "interior".
    """
    lines = []
    for name, style in styles.items():
        values = known(look_up(table, part, name, score))
        if values is not None:
            band = _band(look_up(table, "intervals", part, name, score) or {})
            lines.append(Line(values, style, band, name))
    return lines


def _band(interval: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    low, high = known(interval.get("low")), known(interval.get("high"))
    return None if low is None or high is None else (low, high)


def _lead_panel(
    table: dict[str, Any],
    title: str,
    hint: str,
    unit: str,
    lines: list[Line],
    limits: Limits = (0, None),
    y_scale: str = "linear",
) -> Panel:
    minutes = np.array(table["lead_minutes"], dtype=np.float64)
    return Panel(
        title,
        hint,
        minutes,
        tuple(lines),
        x_label="lead time, min",
        y_label=unit,
        x_limits=(0, 1.02 * minutes[-1]),
        y_limits=limits,
        y_scale=y_scale,
        guides=(Guide((0, 0)),) if (limits[0] or 0) < 0 else (),
    )
