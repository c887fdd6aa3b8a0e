"""The page of figures: scores by lead time, curves and histograms, and cases to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldcast.machine.files import open_atomically
from ldcast.products.diagrams import Panel, Style, draw_panel
from ldcast.verification.page.by_lead import lead_panels
from ldcast.verification.page.case_maps import ShownCase, case_blocks
from ldcast.verification.page.contents import (
    CASES_HINT,
    CASES_TITLE,
    LEADS_TITLE,
    counts_of,
    leads_hint,
    small_print,
    title_of,
)
from ldcast.verification.page.distributions import (
    curve_leads,
    rank_panels,
    reliability_panels,
    spectrum_panels,
)
from ldcast.verification.page.layout import GREY, MARGIN, PAGE_WIDTH, Block, Sheet, stack
from ldcast.verification.page.lines import OBSERVED_STYLE, label_plainly, line_styles

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.figure import Figure

PANELS_PER_ROW, CURVES_PER_ROW = 4, 5
# Inches; the latter are a panel's room for texts around its axes.
PANEL_HEIGHT, CURVE_HEIGHT = 2.85, 4.0
AXES_LEFT, AXES_RIGHT, AXES_TOP, AXES_BOTTOM = 0.66, 0.1, 0.5, 0.5
PAGE_STYLE = {
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True},
    **{"axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8},
}


def draw_page(table: dict[str, Any], shown: Sequence[ShownCase], path: Path) -> None:
    """Write the page as a PNG.

    table: the content of `scores.json`, None for what is unknown.
    Raises ImportError without matplotlib, OSError if `path` cannot be written; a file that was
    there before is then still there.
    """
    from matplotlib import style

    # The same page whatever the user's matplotlibrc says (LaTeX text, other fonts, dark style).
    with style.context(["default", PAGE_STYLE]), open_atomically(path) as file:
        make_page(table, shown).savefig(file, format="png")


def make_page(table: dict[str, Any], shown: Sequence[ShownCase]) -> Figure:
    """The figure, not written yet."""
    blocks = [_heading(table), *_score_blocks(table)]
    if shown:
        blocks.append(_section(CASES_TITLE, CASES_HINT))
    blocks += [block for case in shown for block in case_blocks(case, line_styles(table))]
    return stack([*blocks, _foot(table)])


def _heading(table: dict[str, Any]) -> Block:
    def draw(sheet: Sheet, top: float) -> None:
        sheet.text(MARGIN, top + 0.15, title_of(table), fontsize=16, fontweight="bold")
        sheet.text(MARGIN, top + 0.47, counts_of(table), fontsize=10, color=GREY)

    return Block(0.75, draw)


def _section(title: str, hint: str) -> Block:
    def draw(sheet: Sheet, top: float) -> None:
        sheet.text(MARGIN, top + 0.12, title, fontsize=13, fontweight="bold")
        sheet.text(MARGIN, top + 0.37, hint, fontsize=9, color=GREY)

    return Block(0.6, draw)


def _legend(styles: list[Style]) -> Block:
    """One entry for each style, in as many columns as fit."""
    longest = max(len(style["label"]) for style in styles)
    num_columns = min(len(styles), int((PAGE_WIDTH - 1) / (0.7 + 0.085 * longest)))
    num_rows = -(-len(styles) // num_columns)

    def draw(sheet: Sheet, top: float) -> None:
        from matplotlib.lines import Line2D

        sheet.fig.legend(
            handles=[Line2D([], [], **style | {"markevery": None}) for style in styles],
            loc="upper left",
            bbox_to_anchor=sheet.point(MARGIN - 0.05, top),
            borderaxespad=0,
            ncols=num_columns,
            handlelength=3.6,
            fontsize=9.5,
            frameon=False,
        )

    return Block(0.2 * num_rows + 0.12, draw)


def _foot(table: dict[str, Any]) -> Block:
    lines = [row for line in small_print(table) for row in textwrap.wrap(line, 200)]

    def draw(sheet: Sheet, top: float) -> None:
        sheet.text(MARGIN, top + 0.2, "\n".join(lines), fontsize=8.5, color=GREY, linespacing=1.4)

    return Block(0.4 + 0.17 * len(lines), draw)


# ---- Scores --------------------------------------------------------------------------------------


def _score_blocks(table: dict[str, Any]) -> list[Block]:
    styles = line_styles(table)
    blocks = []
    if panels := lead_panels(table):
        blocks += [_section(LEADS_TITLE, leads_hint(table)), _legend(list(styles.values()))]
        blocks += _panel_rows(panels, PANELS_PER_ROW, PANEL_HEIGHT)
    leads = curve_leads(table)
    ranks = [panel for row in rank_panels(table, leads) for panel in row if panel.lines]
    spectra = [panel for panel in spectrum_panels(table, leads) if panel.lines]
    reliability = reliability_panels(table)
    groups = {"ranks": ranks, "reliability": reliability, "spectra": spectra}
    if drawn := [name for name, panels in groups.items() if panels]:
        shown = [style for name, style in styles.items() if name not in ("persistence", "dry")]
        title = ", ".join(drawn).capitalize()
        blocks.append(_section(title, "of all cases; reliability of all lead times together"))
        blocks.append(_legend(shown + [OBSERVED_STYLE] * bool(spectra)))
        blocks += _panel_rows(ranks, PANELS_PER_ROW, PANEL_HEIGHT)
        blocks += _panel_rows([*reliability, *spectra], CURVES_PER_ROW, CURVE_HEIGHT)
    return blocks


def _panel_rows(panels: list[Panel], num_columns: int, height: float) -> list[Block]:
    width = (PAGE_WIDTH - 2 * MARGIN) / num_columns
    rows = [panels[i : i + num_columns] for i in range(0, len(panels), num_columns)]
    return [Block(height, partial(_draw_panels, row, width, height)) for row in rows]


def _draw_panels(
    panels: list[Panel], width: float, height: float, sheet: Sheet, top: float
) -> None:
    for i, panel in enumerate(panels):
        left = MARGIN + i * width + AXES_LEFT
        axes_width, axes_height = width - AXES_LEFT - AXES_RIGHT, height - AXES_TOP - AXES_BOTTOM
        axes = sheet.axes(left, top + AXES_TOP, axes_width, axes_height)
        draw_panel(panel, axes)
        if panel.x_scale == "log":
            label_plainly(axes.xaxis)
        if panel.y_scale == "log":
            label_plainly(axes.yaxis)
        axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", pad=17)
        above = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(panel.hint, (0, 1), (0, 5), **above, fontsize=8, color=GREY)
