"""Maps of rain and of chances: their colours, and how one is drawn (needs matplotlib)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import einops
import numpy as np

from ldcast.products.summary import LIKELY_MM_H, ensemble_mean

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


@dataclass(frozen=True)
class ColourScale:
    """Classes of a quantity: colour i is for values from bound i to the next.

    Where there are as many colours as bounds, the last class is open. The colours get darker from
    class to class (CIE lightness): they keep their order in grey and for the colour-blind.
    """

    label: str
    bounds: tuple[float, ...]
    bound_labels: tuple[str, ...]
    colours: tuple[str, ...]


RAIN_SCALE = ColourScale(
    label="rain rate, mm/h",
    bounds=(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100),
    bound_labels=("0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50", "100"),
    colours=(  # L* from 88 to 14 in equal steps, hue from ice blue through purple to maroon
        *("#abe7f2", "#6fd3f2", "#2ebcf4", "#0da1ef", "#2a84eb"),
        *("#6860d0", "#86399f", "#870e68", "#6e0231", "#480d17"),
    ),
)
CHANCE_SCALE = ColourScale(
    label="chance, %",
    bounds=(0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1),
    bound_labels=("5", "20", "40", "60", "80", "95", "100"),
    colours=("#fbe7b5", "#f6c667", "#e79a2f", "#bd6a14", "#854109", "#4b2205"),
)


def chance_title(threshold: float) -> str:
    """Of a map of chances of at least `threshold` mm/h."""
    return f"chance of ≥ {threshold:g} mm/h"


CHANCE_TITLE = chance_title(LIKELY_MM_H)
DRY_COLOUR, FRAME_COLOUR = "#fcfcfc", "#808080"
NO_DATA_STYLE = {"facecolor": "#e2e2e2", "edgecolor": "#b0b0b0", "hatch": "/////", "linewidth": 0}
DOUBT_STYLE = {"facecolor": DRY_COLOUR, "edgecolor": "#606060", "hatch": "...", "linewidth": 0}


def add_map(
    axes: Axes, values: np.ndarray, scale: ColourScale, pixel_aspect: float = 1.0
) -> AxesImage:
    """Show values (h, w), north up; pixels without a value let the hatched ground through.

    pixel_aspect: height of a pixel over its width.
    """
    colour_map, norm = _colours_of(scale)
    image = axes.imshow(
        values,
        cmap=colour_map,
        norm=norm,
        aspect=pixel_aspect,
        interpolation="nearest",  # a mixture of two classes' colours would mean nothing
    )
    axes.patch.set(**NO_DATA_STYLE)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=FRAME_COLOUR, linewidth=0.6)
    return image


def block_side(shape: tuple[int, ...], dots: int) -> int:
    """How many pixels along each side `coarsen` takes together."""
    return -(-max(shape) // dots)


def coarsen(values: np.ndarray, dots: int) -> np.ndarray:
    """Means of blocks of (H, W), so many that the longer side has at most `dots` of them.

    Drawn as it is, a grid finer than the picture would lose pixels, and in a film flicker.
    """
    return block_means(values, block_side(values.shape, dots))


def block_means(values: np.ndarray, block: int) -> np.ndarray:
    """Means of blocks of so many pixels along each side of (H, W), smaller ones at the ends."""
    padding = [(0, -side % block) for side in values.shape]
    padded = np.pad(values.astype(np.float32), padding, mode="edge")
    blocks = einops.rearrange(padded, "(h i) (w j) -> (i j) h w", i=block, j=block)
    return ensemble_mean(blocks)


def add_colour_bar(fig: Figure, scale: ColourScale, **place: Any) -> None:
    """place: where and how large, as `Figure.colorbar` takes it: `cax`, or `ax` and `location`."""
    from matplotlib.cm import ScalarMappable

    colour_map, norm = _colours_of(scale)
    is_open = len(scale.colours) == len(scale.bounds)
    bar = fig.colorbar(
        ScalarMappable(norm, colour_map),
        spacing="uniform",  # the bounds are near to logarithmic, so this is near to a log scale
        extend="both" if is_open else "min",
        **place,
    )
    bar.set_ticks(scale.bounds, labels=scale.bound_labels, fontsize=8)
    bar.set_label(scale.label, fontsize=9)
    bar.outline.set(color=FRAME_COLOUR, linewidth=0.6)


def add_no_data_key(fig: Figure, **place: Any) -> None:
    """place: where, as `Figure.legend` takes it: `loc` and `bbox_to_anchor`."""
    _add_key(fig, "no data", NO_DATA_STYLE, place)


def add_doubt(axes: Axes, is_doubtful: np.ndarray) -> Artist | None:
    """Dots over the pixels (h, w) that are True, on a map that `add_map` has drawn.

    Returns what was added, None where no pixel is.
    """
    if not is_doubtful.any():
        return None
    left, right, bottom, top = axes.images[0].get_extent()
    # Contours run between the centres of pixels: repeated, those at the edge reach up to it, and a
    # map of one row has two.
    values = np.pad(is_doubtful.astype(np.float32), 1, mode="edge")
    dots = axes.contourf(
        _centres_and_ends(left, right, is_doubtful.shape[1]),
        _centres_and_ends(top, bottom, is_doubtful.shape[0]),
        values,
        levels=(0.5, 1.5),
        colors="none",
        hatches=(DOUBT_STYLE["hatch"],),
    )
    dots.set(edgecolor=DOUBT_STYLE["edgecolor"], linewidth=0)
    return dots


def _centres_and_ends(start: float, stop: float, num: int) -> np.ndarray:
    centres = start + (np.arange(num) + 0.5) * (stop - start) / num
    return np.concatenate([[start], centres, [stop]])


def add_doubt_key(fig: Figure, **place: Any) -> None:
    """place: as for `add_no_data_key`."""
    _add_key(fig, "upstream unknown", DOUBT_STYLE, place)


def _add_key(fig: Figure, label: str, style: dict[str, Any], place: dict[str, Any]) -> None:
    from matplotlib.patches import Patch

    key = Patch(**style, label=label)
    fig.legend(handles=[key], fontsize=8, handleheight=1.2, frameon=False, **place)


def _colours_of(scale: ColourScale) -> tuple[Any, Any]:
    """matplotlib's colour map and norm for a scale."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    num_closed = len(scale.bounds) - 1
    colour_map = ListedColormap(scale.colours[:num_closed]).with_extremes(
        bad=(0, 0, 0, 0), under=DRY_COLOUR, over=scale.colours[-1]
    )
    return colour_map, BoundaryNorm(scale.bounds, num_closed)
