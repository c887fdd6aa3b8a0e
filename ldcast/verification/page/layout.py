"""Where things go on the page: inches from the left and the top, in blocks below each other.

Automatic layouts would take a minute for two hundred axes, and would move maps out of line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_WIDTH, MARGIN = 16.0, 0.25  # inches
DPI = 150  # four maps of 256 pixels in half of the width keep all their pixels
GREY = "#505050"


@dataclass(frozen=True)
class Block:
    """A strip of the page over its whole width.

    height: inches. draw: takes the sheet and where the block begins, inches from the top.
    """

    height: float
    draw: Callable[[Sheet, float], None]


@dataclass(frozen=True)
class Sheet:
    """A figure on which things are placed in inches."""

    fig: Figure

    def point(self, left: float, top: float) -> tuple[float, float]:
        """The same place as matplotlib has it, in shares of the figure from its lower left."""
        width, height = self.fig.get_size_inches()
        return left / width, 1 - top / height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """New axes, `left` and `top` being their upper left corner."""
        x, y = self.point(left, top + height)
        right, upper = self.point(left + width, top)
        return self.fig.add_axes((x, y, right - x, upper - y))

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        """A text that hangs below `top`."""
        self.fig.text(*self.point(left, top), text, va="top", **style)


def stack(blocks: list[Block]) -> Figure:
    """A figure just high enough, with all blocks; belongs to no window and not to pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(PAGE_WIDTH, sum(block.height for block in blocks)), dpi=DPI)
    FigureCanvasAgg(fig)
    sheet, top = Sheet(fig), 0.0
    for block in blocks:
        block.draw(sheet, top)
        top += block.height
    return fig
