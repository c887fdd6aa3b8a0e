"""A picture of what is in an archive (needs matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldcast.data.building.overview import RATE_EDGES, Overview
from ldcast.data.checks import format_time
from ldcast.machine.files import open_atomically
from ldcast.products.maps import RAIN_SCALE, add_colour_bar, add_map, add_no_data_key
from ldcast.products.panels import new_figure

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOUR, _FAINT = "#0b5394", "#9fc5e8"
_DPI = 100


def draw_overview(overview: Overview, path: Path) -> None:
    """Coverage by month, intensities, and maps of data, of wetness and of the wettest frame, as a
    PNG."""
    from matplotlib import style

    with style.context("default"), open_atomically(path) as file:
        figure = new_figure(13, 8, _DPI)
        figure.suptitle(f"{overview.path.name}: {len(overview.time)} frames", fontweight="bold")
        cells = figure.subplots(2, 3)
        _draw_months(cells[0, 0], overview)
        _draw_wetness(cells[0, 1], overview)
        _draw_rates(cells[0, 2], overview)
        _draw_share(figure, cells[1, 0], overview.valid, "share of frames with data", "Greens")
        _draw_share(figure, cells[1, 1], overview.wet, "share of them that is wet", "YlGnBu")
        time = format_time(overview.wettest_time)
        cells[1, 2].set_title(f"the wettest frame looked at\n{time}")
        add_map(cells[1, 2], overview.wettest, RAIN_SCALE)
        add_colour_bar(figure, RAIN_SCALE, ax=cells[1, 2], location="right")
        add_no_data_key(figure, loc="lower right")
        figure.savefig(file, format="png")


def _draw_months(axes: Axes, overview: Overview) -> None:
    months = overview.months
    shares = [100 * of.num_frames / max(of.num_expected, 1) for of in months]
    axes.bar(range(len(months)), shares, color=_COLOUR, width=0.9)
    _name_months(axes, overview)
    axes.set(title="coverage by month, %", ylim=(0, 100))


def _draw_wetness(axes: Axes, overview: Overview) -> None:
    months = overview.months
    axes.bar(range(len(months)), [100 * of.wet for of in months], color=_FAINT, width=0.9)
    _name_months(axes, overview)
    axes.set(title="wet pixels by month, % of those with data")


def _name_months(axes: Axes, overview: Overview) -> None:
    """Not more names than there is room for."""
    every = -(-len(overview.months) // 8)
    at = range(0, len(overview.months), every)
    axes.set_xticks(at, [str(overview.months[i].month) for i in at], rotation=45, fontsize=8)
    axes.set_xlim(-0.6, len(overview.months) - 0.4)


def _draw_rates(axes: Axes, overview: Overview) -> None:
    """Shares of the wet pixels by class, so that the area of each is its share."""
    total = max(overview.rates.sum(), 1)
    axes.stairs(100 * overview.rates / total, RATE_EDGES, fill=True, color=_COLOUR)
    axes.set(title="wet pixels by rain rate, %", xscale="log", xlabel="mm/h")


def _draw_share(figure: Figure, axes: Axes, values: np.ndarray, title: str, colours: str) -> None:
    image = axes.imshow(100 * values, cmap=colours, vmin=0, interpolation="nearest")
    axes.set(title=f"{title}, %", xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, location="right")
