"""The picture that a validation leaves: radar above, what the networks made of it below."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldcast.machine.files import open_atomically
from ldcast.products.maps import RAIN_SCALE, add_colour_bar, add_map, add_no_data_key

DRAWN_RANKS = (1 / 3, 2 / 3, 1)  # of the cases in a picture among all, driest first
MAP_INCHES, DPI = 1.6, 100
LEFT_INCHES, RIGHT_INCHES, TOP_INCHES = 0.6, 1.2, 0.7  # for texts and the colour bar


class Comparison(NamedTuple):
    """Maps of radar and, below each, of what the networks made of it.

    title: of the case. radar, made: (N, H, W) mm/h, NaN = no data. made_name: what the lower maps
    are.
    """

    title: str
    radar: np.ndarray
    made: np.ndarray
    made_name: str


def drawn_indices(num: int) -> list[int]:
    """Which of `num` cases, driest first, are drawn: the wettest, and two drier ones."""
    return sorted({round(share * (num - 1)) for share in DRAWN_RANKS})


def draw_comparisons(
    comparisons: Sequence[Comparison],
    column_titles: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Writes the comparisons, the last one on top, as a PNG (needs matplotlib).

    column_titles: of the N maps.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows, num_columns = 2 * len(comparisons), len(column_titles)
    width = LEFT_INCHES + MAP_INCHES * num_columns + RIGHT_INCHES
    height = TOP_INCHES + MAP_INCHES * num_rows
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    left, right, top = LEFT_INCHES / width, 1 - RIGHT_INCHES / width, 1 - TOP_INCHES / height
    edges = {"left": left, "right": right, "top": top, "bottom": 0.01}
    gaps = {"wspace": 0.05, "hspace": 0.05}
    panels = figure.subplots(num_rows, num_columns, squeeze=False, gridspec_kw=edges | gaps)
    for pair, comparison in enumerate(reversed(comparisons)):
        upper, lower = panels[2 * pair], panels[2 * pair + 1]
        for axes, values in zip(upper, comparison.radar, strict=True):
            add_map(axes, values, RAIN_SCALE)
        for axes, values in zip(lower, comparison.made, strict=True):
            add_map(axes, values, RAIN_SCALE)
        upper[0].set_ylabel(f"radar\n{comparison.title}", fontsize=8)
        lower[0].set_ylabel(comparison.made_name, fontsize=8)
    for axes, column_title in zip(panels[0], column_titles, strict=True):
        axes.set_title(column_title, fontsize=9)
    bar = figure.add_axes((right + 0.2 / width, 0.15, 0.2 / width, top - 0.2))
    add_colour_bar(figure, RAIN_SCALE, cax=bar)
    add_no_data_key(figure, loc="lower right")
    with open_atomically(path) as file:
        figure.savefig(file, format="png")
