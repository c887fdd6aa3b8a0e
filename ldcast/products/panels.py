"""The parts of which sheets and films are made (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ldcast.products.maps import (
    ColourScale,
    add_colour_bar,
    add_doubt,
    add_map,
    block_side,
    coarsen,
)
from ldcast.products.story import Story

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

OBSERVED_COLOUR, FORECAST_COLOUR = "#505050", "#0b5394"
TEXT_WIDTH, TEXT_HEIGHT = 1.8, 1.3  # inches, what a map's title and label need at least
# Dark on a light rim, so that it shows on dry ground and on violent rain, in grey, too.
BORDER_COLOUR, RIM_COLOUR = "#404040", "#ffffff"


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """A figure of so many inches, belonging to no window and not to pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.07, h_pad=0.06)  # inches
    FigureCanvasAgg(fig)
    return fig


def add_panel(
    axes: Axes, values: np.ndarray, scale: ColourScale, story: Story, dots: int
) -> AxesImage:
    """A map of values (H, W), at most `dots` wide and high, with border lines.

    Its axes count the grid's pixels, however coarse the map is.
    """
    image = add_map(axes, coarsen(values, dots), scale, story.pixel_aspect)
    side = block_side(values.shape, dots)
    rows, columns = image.get_array().shape
    image.set_extent((0, columns * side, rows * side, 0))
    axes.set(xlim=(0, values.shape[1]), ylim=(values.shape[0], 0))
    _add_borders(axes, story.borders)
    return image


def add_doubt_dots(axes: Axes, is_doubtful: np.ndarray | None, dots: int) -> Artist | None:
    """As `add_doubt` from pixels (H, W), on a panel of so many `dots`; None adds nothing."""
    if is_doubtful is None:
        return None
    return add_doubt(axes, coarsen(is_doubtful, dots) >= 0.5)


def _add_borders(axes: Axes, lines: Sequence[np.ndarray]) -> None:
    from matplotlib.patheffects import Normal, Stroke

    if not lines:
        return
    # All in one, with gaps: matplotlib then leaves out points that are too near to distinguish.
    column, row = np.concatenate([[*line, (np.nan, np.nan)] for line in lines]).T
    rim = Stroke(linewidth=1.6, foreground=RIM_COLOUR, alpha=0.6)
    axes.plot(
        column,
        row,
        color=BORDER_COLOUR,
        linewidth=0.6,
        path_effects=[rim, Normal()],
        scalex=False,
        scaley=False,
    )


def add_bar(fig: Figure, panels: np.ndarray, scale: ColourScale, location: str) -> None:
    """The colour bar of some maps, at their `location`: right or bottom."""
    add_colour_bar(fig, scale, ax=panels, location=location, aspect=15 * len(panels), pad=0.02)


def add_scale_bar(axes: Axes, shape: tuple[int, int], grid: Mapping[str, Any]) -> None:
    """A bar of round length, up to a quarter of the width; none if pixels have no known size."""
    if "pixel_size_m" not in grid:
        return
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar  # part of matplotlib

    width = shape[1] * float(grid["pixel_size_m"]) / 1000
    power = 10.0 ** np.floor(np.log10(width / 4))
    length = max(digit * power for digit in (1, 2, 5) if digit * power <= width / 4)
    bar = AnchoredSizeBar(
        axes.transAxes,
        length / width,
        f"{length:g} km",
        "lower left",
        pad=0.3,
        borderpad=0.4,
        fontproperties=FontProperties(size=8),
    )
    bar.patch.set(alpha=0.8, linewidth=0)
    axes.add_artist(bar)
