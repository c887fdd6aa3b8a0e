"""Panels of what a single number cannot say: ranks, reliability and power spectra."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from ldcast.products.diagrams import Guide, Line, Panel, Style
from ldcast.verification.forecasters import REFERENCE
from ldcast.verification.page.lines import (
    OBSERVED,
    OBSERVED_STYLE,
    distribution_styles,
    known,
    line_styles,
    look_up,
    nearest_size,
    score_names,
)

DISTRIBUTION_LEADS = (30, 90)  # minutes
SHOWN_DB = 20  # below the best; spectra of all but dry fields would squeeze the others
MARGIN_SHARE = 0.05  # of the range of the spectra, above and below them
MIN_FORECASTS = 20  # a frequency observed in fewer cases of a probability says nothing


def rank_panels(table: dict[str, Any], leads: list[int]) -> list[list[Panel]]:
    """Rank histograms of pixels and of the largest blocks: for each, a panel per lead time.

    leads: indices of lead times. One of which nothing is known has a panel without lines; a size
    of which nothing is known at any of them is left out.
    """
    names = score_names(table)
    sizes = {nearest_size(names, "rank_histogram_{}px", wanted) for wanted in (1, 64)}
    known_sizes = sorted(size for size in sizes if size is not None)
    rows = [[_rank_panel(table, size, lead) for lead in leads] for size in known_sizes]
    return [row for row in rows if any(panel.lines for panel in row)]


def _rank_panel(table: dict[str, Any], size: int, lead: int) -> Panel:
    lines = _lines_at(table, distribution_styles(table), f"rank_histogram_{size}px", lead)
    num_ranks = table["num_members"] + 1
    return Panel(
        f"rank histogram, {size} px, +{table['lead_minutes'][lead]} min",
        "flat is best; ∪ too narrow, ∩ too wide",
        (np.arange(num_ranks) + 0.5) / num_ranks,
        tuple(line._replace(values=num_ranks * line.values) for line in lines),
        x_label="rank of the observation, 0 = below all members",
        y_label="share / flat share",
        x_limits=(0, 1),
        y_limits=(0, None),
        guides=(Guide((0, 1)),),
        is_stairs=True,
    )


def reliability_panels(table: dict[str, Any]) -> list[Panel]:
    """Reliability diagrams, all lead times together, for each threshold."""
    names = score_names(table)
    found = [re.fullmatch(r"observed_frequency_(.+)mm", name) for name in names]
    thresholds = sorted((match[1] for match in found if match), key=float)
    curves = {threshold: _reliability_curves(table, threshold) for threshold in thresholds}
    return [_reliability_panel(threshold, of_it) for threshold, of_it in curves.items() if of_it]


def spectrum_panels(table: dict[str, Any], leads: list[int]) -> list[Panel]:
    """Power spectra of members and of the radar images: a panel for each lead time.

    leads: as for `rank_panels`; an empty list where no spectrum is known.
    """
    wavelength = known(table.get("wavelength_px"))
    if wavelength is None:
        return []
    panels = [_spectrum_panel(table, wavelength, lead) for lead in leads]
    return panels if any(panel.lines for panel in panels) else []


def _spectrum_panel(table: dict[str, Any], wavelength: np.ndarray, lead: int) -> Panel:
    styles = line_styles(table)
    shown = {name: styles[name] for name in styles if name not in (REFERENCE, "dry")}
    lines = _lines_at(table, shown, "power_spectrum_db", lead)
    observed = _lines_at(table, styles, "observed_power_spectrum_db", lead)[:1]
    lines += [line._replace(style=OBSERVED_STYLE, name=OBSERVED) for line in observed]
    every = {"markevery": 0.15}  # of the axes' diagonal
    return Panel(
        f"power spectrum, +{table['lead_minutes'][lead]} min",
        "on the observed line is best",
        wavelength,
        tuple(line._replace(style=line.style | every) for line in lines),
        x_label="wavelength, px",
        y_label="power, dB",
        x_limits=(np.nanmax(wavelength), np.nanmin(wavelength)),  # fine scales to the right
        y_limits=_spectrum_limits(lines),
        x_scale="log",
    )


def _spectrum_limits(lines: list[Line]) -> tuple[float | None, float | None]:
    if not lines:
        return None, None
    lows, highs = zip(*((np.nanmin(at.values), np.nanmax(at.values)) for at in lines), strict=True)
    margin = MARGIN_SHARE * (max(highs) - min(lows)) or 1.0  # a flat line needs room, too
    return max(max(lows) - SHOWN_DB, min(lows) - margin), max(highs) + margin


class _Reliability(NamedTuple):
    """For each probability k/E, over all lead times: how often forecast, how often then true."""

    name: str
    style: Style
    num_forecasts: np.ndarray  # (E + 1,)
    num_observed: np.ndarray  # (E + 1,)


def _reliability_curves(table: dict[str, Any], threshold: str) -> list[_Reliability]:
    curves = []
    for name, style in distribution_styles(table).items():
        scores = table["models"][name]
        frequency = known(scores.get(f"observed_frequency_{threshold}mm"))
        count = known(scores.get(f"num_forecasts_{threshold}mm"))
        if frequency is not None and count is not None:
            count = np.nan_to_num(count)  # (T, E + 1)
            num_observed = (np.nan_to_num(frequency) * count).sum(axis=0)
            curves.append(_Reliability(name, style, count.sum(axis=0), num_observed))
    return [curve for curve in curves if curve.num_forecasts.any()]


def _reliability_panel(threshold: str, curves: list[_Reliability]) -> Panel:
    """The diagram, and below it how often each probability was forecast."""
    probability = np.linspace(0, 1, len(curves[0].num_forecasts))
    climatology = curves[0].num_observed.sum() / curves[0].num_forecasts.sum()
    lines, shares = [], []
    for name, style, num_forecasts, num_observed in curves:
        with np.errstate(invalid="ignore", divide="ignore"):
            frequency = num_observed / num_forecasts
        frequency = np.where(num_forecasts >= MIN_FORECASTS, frequency, np.nan)
        lines.append(Line(frequency, style | {"markevery": None}, name=name))
        share = num_forecasts / num_forecasts.sum()
        look = {key: style[key] for key in ("color", "linewidth")}
        shares.append(Line(np.where(share > 0, share, np.nan), look, name=name))
    limits, x_label = (-0.02, 1.02), "forecast probability"
    below = Panel("", "", probability, tuple(shares), x_label, "how often", limits, y_scale="log")
    return Panel(
        f"reliability, ≥ {threshold} mm/h",
        "on the diagonal is best",
        probability,
        tuple(lines),
        x_label,
        "observed frequency",
        x_limits=limits,
        y_limits=limits,
        guides=(Guide((0, 0), (1, 1)), Guide((0, climatology), None, True, "climatology")),
        joins_gaps=True,
        below=below,
    )


def _lines_at(table: dict[str, Any], styles: dict[str, Style], score: str, lead: int) -> list[Line]:
    """Curves or histograms at one lead time, of each style's forecaster that has one."""
    lines = []
    for name, style in styles.items():
        values = known(look_up(table, "models", name, score))
        if values is not None and np.isfinite(values[lead]).any():
            lines.append(Line(values[lead], style, name=name))
    return lines


def curve_leads(table: dict[str, Any]) -> list[int]:
    """Indices of the lead times nearest to `DISTRIBUTION_LEADS`."""
    minutes = np.array(table["lead_minutes"])
    return sorted({int(np.abs(minutes - wanted).argmin()) for wanted in DISTRIBUTION_LEADS})
