"""A diagram as data: drawn by matplotlib (`draw_panel`), or put into a page (`panel_data`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.axes import Axes

Style = dict[str, Any]  # of a line, as `Axes.plot` takes it; the colour in hexadecimal digits
Limits = tuple[float | None, float | None]  # None: where the data end

NO_LIMITS: Limits = (None, None)
# Okabe and Ito's colours for the colour-blind, the dark ones first.
DISTINCT_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GUIDE_STYLE = {"color": "#909090", "linewidth": 0.8, "zorder": 1}
DASHES = {"-": (), "--": (3.7, 1.6), ":": (1.0, 1.65)}  # in widths of the line, as matplotlib's


class Line(NamedTuple):
    """values: one for each x, NaN leaving a gap. band: the same, low and high.

    name: of whom it is, which lines of other panels share. note: what tells it from others of the
    same name.
    """

    values: np.ndarray
    style: Style
    band: tuple[np.ndarray, np.ndarray] | None = None
    name: str = ""
    note: str = ""


class Guide(NamedTuple):
    """A thin straight line to compare with: from `start` to `end`, or over the whole width.

    start, end: (x, y); without `end`, the line is level and only the y of its start counts.
    """

    start: tuple[float, float]
    end: tuple[float, float] | None = None
    is_dotted: bool = False
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """A diagram: `hint` is one line on how to read it.

    x: of all lines. x_limits: the left one is the higher one where x falls to the right.
    x_scale, y_scale: "linear" or "log". is_stairs: a level stretch around each x, as of histograms.
    joins_gaps: lines run on across values that are NaN.
    below: a flat diagram under this one, with the same horizontal axis.
    """

    title: str
    hint: str
    x: np.ndarray
    lines: tuple[Line, ...]
    x_label: str
    y_label: str
    x_limits: Limits = NO_LIMITS
    y_limits: Limits = NO_LIMITS
    x_scale: str = "linear"
    y_scale: str = "linear"
    guides: tuple[Guide, ...] = ()
    is_stairs: bool = False
    joins_gaps: bool = False
    below: Panel | None = None


# ---- by matplotlib -------------------------------------------------------------------------------


def draw_panel(panel: Panel, axes: Axes) -> None:
    """Draws all but title and hint into empty axes."""
    below = None if panel.below is None else _split_off(axes)
    for guide in panel.guides:
        _draw_guide(guide, axes)
    for line in panel.lines:
        _draw_line(panel, line, axes)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    axes.set(xscale=panel.x_scale, yscale=panel.y_scale)
    if panel.x_limits != NO_LIMITS:
        axes.set_xlim(panel.x_limits)
    if panel.y_limits != NO_LIMITS:
        axes.set_ylim(panel.y_limits)
    if below is not None:
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)
        draw_panel(panel.below, below)
        below.minorticks_off()


def _draw_line(panel: Panel, line: Line, axes: Axes) -> None:
    values, style, band = line[:3]
    if panel.is_stairs:
        look = {key: style[key] for key in ("color", "linewidth", "label")}
        axes.stairs(values, _edges(panel.x), baseline=None, **look)
        return
    is_drawn = np.isfinite(values) if panel.joins_gaps else np.full(len(values), True)
    axes.plot(panel.x[is_drawn], values[is_drawn], **style)
    if band is not None:
        shade = 0.2 if style.get("marker") else 0.1  # models' bands before baselines'
        axes.fill_between(panel.x, *band, color=style["color"], alpha=shade, linewidth=0)


def _edges(x: np.ndarray) -> np.ndarray:
    """Of equally wide stairs around x."""
    half = (x[1] - x[0]) / 2
    return np.append(x - half, x[-1] + half).round(12)  # 0 and not 1e-17


def _draw_guide(guide: Guide, axes: Axes) -> None:
    look = GUIDE_STYLE | {"linestyle": ":" if guide.is_dotted else "-"}
    if guide.end is not None:
        axes.plot(*zip(guide.start, guide.end, strict=True), **look)
        return
    level = guide.start[1]
    axes.axhline(level, **look)
    if guide.label:
        place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        grey = {"fontsize": 7, "color": "#606060"}
        axes.annotate(guide.label, (0.96, level), (0, 2.3), ha="right", **place, **grey)


def _split_off(axes: Axes) -> Axes:
    """Take the lowest quarter of the room that axes have for new ones with the same horizontal."""
    box = axes.get_position()
    axes.set_position((box.x0, box.y0 + 0.28 * box.height, box.width, 0.72 * box.height))
    return axes.figure.add_axes((box.x0, box.y0, box.width, 0.24 * box.height), sharex=axes)


# ---- as data of a page ---------------------------------------------------------------------------


def panel_data(panel: Panel) -> dict[str, Any]:
    """All of the panel in lists, numbers and texts, x rising and null for NaN."""
    order = np.argsort(panel.x, kind="stable")
    order = order[np.isfinite(panel.x[order])]

    def listed(values: np.ndarray) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values[order]]

    def line_data(line: Line) -> dict[str, Any]:
        data = {"name": line.name, "note": line.note, **page_style(line.style)}
        data["values"] = listed(line.values)
        if line.band is not None:
            data["low"], data["high"] = map(listed, line.band)
        return data

    return {
        **{"title": panel.title, "hint": panel.hint, "x": listed(panel.x)},
        "lines": [line_data(line) for line in panel.lines],
        "guides": [guide._asdict() for guide in panel.guides],
        **{"x_label": panel.x_label, "y_label": panel.y_label},
        **{"x_limits": _plain(panel.x_limits), "y_limits": _plain(panel.y_limits)},
        **{"x_scale": panel.x_scale, "y_scale": panel.y_scale},
        **{"is_stairs": panel.is_stairs, "joins_gaps": panel.joins_gaps},
        "below": None if panel.below is None else panel_data(panel.below),
    }


def page_style(style: Style) -> dict[str, Any]:
    """Colour, width, dashes (pixels on and off in turn) and marker, "" for none, of a line."""
    width = float(style["linewidth"])
    pattern = style.get("linestyle", "-")
    pattern = DASHES[pattern] if isinstance(pattern, str) else pattern[1]
    return {
        "colour": style["color"],
        "width": width,
        "dash": [round(length * width, 2) for length in pattern],
        "marker": style.get("marker", ""),
    }


def _plain(limits: Limits) -> list[float | None]:
    return [None if limit is None else float(limit) for limit in limits]
