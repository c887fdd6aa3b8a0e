"""Panels of what a single number cannot say: ranks, reliability and power spectra."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldcast.verification.forecasters import REFERENCE
from ldcast.verification.page.lines import (
    GUIDE_STYLE,
    OBSERVED_STYLE,
    Line,
    Panel,
    Style,
    ensemble_styles,
    known,
    label_plainly,
    line_styles,
    look_up,
    nearest_size,
    score_names,
)

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.axes import Axes

DISTRIBUTION_LEADS = (30, 90)  # minutes
SHOWN_DB = 20  # below the best; spectra of all but dry fields would squeeze the others
MIN_FORECASTS = 20  # a frequency observed in fewer cases of a probability says nothing


def rank_panels(table: dict[str, Any]) -> list[Panel]:
    """Rank histograms of pixels and of the largest blocks, at two lead times."""
    names = score_names(table)
    sizes = {nearest_size(names, "rank_histogram_{}px", wanted) for wanted in (1, 64)}
    panels = []
    for size in sorted(size for size in sizes if size is not None):
        for lead in _curve_leads(table):
            lines = _lines_at(table, ensemble_styles(table), f"rank_histogram_{size}px", lead)
            title = f"rank histogram, {size} px, +{table['lead_minutes'][lead]} min"
            hint = "flat is best; ∪ too narrow, ∩ too wide"
            if lines:
                panels.append(Panel(title, hint, _rank_drawing(lines)))
    return panels


def reliability_panels(table: dict[str, Any]) -> list[Panel]:
    """Reliability diagrams, all lead times together, for each threshold."""
    names = score_names(table)
    found = [re.fullmatch(r"observed_frequency_(.+)mm", name) for name in names]
    panels = []
    for threshold in sorted((match[1] for match in found if match), key=float):
        curves = _reliability_curves(table, threshold)
        if curves:
            title = f"reliability, ≥ {threshold} mm/h"
            panels.append(Panel(title, "on the diagonal is best", _reliability_drawing(curves)))
    return panels


def spectrum_panels(table: dict[str, Any]) -> list[Panel]:
    """Power spectra of members and of the radar images, at two lead times."""
    wavelength = known(table.get("wavelength_px"))
    if wavelength is None:
        return []
    styles = line_styles(table)
    shown = {name: styles[name] for name in styles if name not in (REFERENCE, "dry")}
    panels = []
    for lead in _curve_leads(table):
        lines = _lines_at(table, shown, "power_spectrum_db", lead)
        observed = _lines_at(table, styles, "observed_power_spectrum_db", lead)[:1]
        lines += [line._replace(style=OBSERVED_STYLE) for line in observed]
        if lines:
            title = f"power spectrum, +{table['lead_minutes'][lead]} min"
            drawing = _spectrum_drawing(wavelength, lines)
            panels.append(Panel(title, "on the observed line is best", drawing))
    return panels


def _rank_drawing(lines: list[Line]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for shares, style, _ in lines:
            edges = np.linspace(0, 1, len(shares) + 1)
            look = {key: style[key] for key in ("color", "linewidth", "label")}
            axes.stairs(shares * len(shares), edges, baseline=None, **look)
        axes.axhline(1, **GUIDE_STYLE)
        axes.set(xlabel="rank of the observation, 0 = below all members", xlim=(0, 1))
        axes.set(ylabel="share / flat share", ylim=(0, None))

    return draw


class _Reliability(NamedTuple):
    """For each probability k/E, over all lead times: how often forecast, how often then true."""

    style: Style
    num_forecasts: np.ndarray  # (E + 1,)
    num_observed: np.ndarray  # (E + 1,)


def _reliability_curves(table: dict[str, Any], threshold: str) -> list[_Reliability]:
    curves = []
    for name, style in ensemble_styles(table).items():
        scores = table["models"][name]
        frequency = known(scores.get(f"observed_frequency_{threshold}mm"))
        count = known(scores.get(f"num_forecasts_{threshold}mm"))
        if frequency is not None and count is not None:
            count = np.nan_to_num(count)  # (T, E + 1)
            num_observed = (np.nan_to_num(frequency) * count).sum(axis=0)
            curves.append(_Reliability(style, count.sum(axis=0), num_observed))
    return [curve for curve in curves if curve.num_forecasts.any()]


def _reliability_drawing(curves: list[_Reliability]) -> Callable[[Axes], None]:
    """The diagram, and below it how often each probability was forecast."""

    def draw(axes: Axes) -> None:
        strip = _split_off(axes)
        climatology = curves[0].num_observed.sum() / curves[0].num_forecasts.sum()
        axes.plot([0, 1], [0, 1], **GUIDE_STYLE)
        axes.axhline(climatology, linestyle=":", **GUIDE_STYLE)
        for style, num_forecasts, num_observed in curves:
            probability = np.linspace(0, 1, len(num_forecasts))
            enough = num_forecasts >= MIN_FORECASTS
            frequency = num_observed[enough] / num_forecasts[enough]
            axes.plot(probability[enough], frequency, **style | {"markevery": None})
            share = num_forecasts / num_forecasts.sum()
            look = {key: style[key] for key in ("color", "linewidth")}
            strip.plot(probability, np.where(share > 0, share, np.nan), **look)
        axes.set(ylabel="observed frequency", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.text(0.98, climatology + 0.015, "climatology", ha="right", fontsize=7, color="#606060")
        axes.tick_params(labelbottom=False)
        strip.set(xlabel="forecast probability", ylabel="how often", yscale="log")
        strip.minorticks_off()

    return draw


def _split_off(axes: Axes) -> Axes:
    """Take the lowest quarter of the room that axes have for new ones with the same horizontal."""
    box = axes.get_position()
    axes.set_position((box.x0, box.y0 + 0.28 * box.height, box.width, 0.72 * box.height))
    return axes.figure.add_axes((box.x0, box.y0, box.width, 0.24 * box.height), sharex=axes)


def _spectrum_drawing(wavelength: np.ndarray, lines: list[Line]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for power, style, _ in lines:
            axes.plot(wavelength, power, **style | {"markevery": 0.15})  # of the axes' diagonal
        axes.set(xlabel="wavelength, px", ylabel="power, dB", xscale="log")
        label_plainly(axes.xaxis)
        lowest = max(np.nanmin(line.values) for line in lines) - SHOWN_DB
        axes.set_ylim(bottom=max(lowest, axes.get_ylim()[0]))
        axes.set_xlim(np.nanmax(wavelength), np.nanmin(wavelength))  # fine scales to the right

    return draw


def _lines_at(table: dict[str, Any], styles: dict[str, Style], score: str, lead: int) -> list[Line]:
    """Curves or histograms at one lead time, of each style's forecaster that has one."""
    lines = []
    for name, style in styles.items():
        values = known(look_up(table, "models", name, score))
        if values is not None and np.isfinite(values[lead]).any():
            lines.append(Line(values[lead], style))
    return lines


def _curve_leads(table: dict[str, Any]) -> list[int]:
    """Indices of the lead times nearest to `DISTRIBUTION_LEADS`."""
    minutes = np.array(table["lead_minutes"])
    return sorted({int(np.abs(minutes - wanted).argmin()) for wanted in DISTRIBUTION_LEADS})
