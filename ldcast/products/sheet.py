"""A forecast on a sheet: rows of maps, one column for each lead time (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ldcast.products.maps import (
    CHANCE_SCALE,
    RAIN_SCALE,
    ColourScale,
    add_doubt_key,
    add_no_data_key,
    chance_title,
)
from ldcast.products.panels import (
    FORECAST_COLOUR,
    OBSERVED_COLOUR,
    TEXT_HEIGHT,
    TEXT_WIDTH,
    add_bar,
    add_doubt_dots,
    add_panel,
    add_scale_bar,
    new_figure,
)
from ldcast.products.story import Story
from ldcast.products.summary import choose_leads

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.figure import Figure

MAP_INCHES, DPI = 2.7, 120  # of a map's longer side
CONTINUED_WIDTH, CHANCE_HEIGHT = 2.4, 1.9  # inches, of the longest title and label in one line
LINE_HEIGHT = 0.15  # inches, of a second line
DOTS = round(MAP_INCHES * DPI)
NUM_MEMBERS, NUM_CHANCES = 2, 3  # rows at most


class _Row(NamedTuple):
    """Maps (H, W), made when they are drawn: those of a national grid fill memory together."""

    label: str
    minutes: np.ndarray
    maps: Iterable[np.ndarray]
    scale: ColourScale
    doubts: Iterable[np.ndarray | None] = repeat(None)


def draw_sheet(story: Story) -> Figure:
    """A row of maps each for the past, up to two members, the mean and up to three chances."""
    rows = _rows(story)
    num_columns = max(len(row.minutes) for row in rows)
    width, height = (MAP_INCHES * side for side in story.map_shape)
    text_width, title_height, gap = max(width, TEXT_WIDTH), 0.27, " "
    if story.is_continued(story.lead_minutes[-1]) and text_width < CONTINUED_WIDTH:
        title_height, gap = title_height + LINE_HEIGHT, "\n"
    is_low = height < CHANCE_HEIGHT
    fig = new_figure(
        num_columns * text_width + 1.4 + LINE_HEIGHT * is_low,
        len(rows) * (max(height, TEXT_HEIGHT) + title_height) + 0.6,
        DPI,
    )
    fig.suptitle(story.title, fontsize=13, fontweight="bold")
    cells = fig.subplots(len(rows), num_columns, squeeze=False)
    for panels, row in zip(cells, rows, strict=True):
        colour = FORECAST_COLOUR if row.minutes[0] > 0 else OBSERVED_COLOUR
        columns = zip(panels, row.minutes, row.maps, row.doubts, strict=False)
        for axes, minutes, values, doubt in columns:
            add_panel(axes, values, row.scale, story, DOTS)
            add_doubt_dots(axes, doubt, DOTS)
            continued = f"{gap}(continued)" if story.is_continued(minutes) else ""
            axes.set_title(story.name_time(minutes) + continued, fontsize=9, color=colour, pad=4)
        for axes in panels[len(row.minutes) :]:
            axes.set_visible(False)
        label = row.label.replace(" ≥", "\n≥") if is_low else row.label
        panels[0].set_ylabel(label, fontsize=10.5, color=colour)
    add_scale_bar(cells[0, 0], story.shape, story.grid)
    _add_keys(fig, cells, sum(row.scale is CHANCE_SCALE for row in rows), story)
    return fig


def _add_keys(fig: Figure, cells: np.ndarray, num_chances: int, story: Story) -> None:
    add_bar(fig, cells[:2], RAIN_SCALE, "right")
    if num_chances:
        add_bar(fig, cells[-num_chances:][:2], CHANCE_SCALE, "right")
    for axes in cells.flat:
        axes.set_anchor("C")  # a bar pulls its maps to itself, and narrow ones with their titles
    add_no_data_key(fig, loc="upper right")
    if story.quality is not None:
        add_doubt_key(fig, loc="upper left")


def _rows(story: Story) -> list[_Row]:
    leads = choose_leads(story.lead_minutes)
    doubts = [story.doubt(lead) for lead in leads]
    minutes, num_members = story.lead_minutes[leads], len(story.rain)
    rows = [_Row("observed", story.past_minutes, story.past, RAIN_SCALE)]
    if story.later is not None:
        maps = map(story.later.__getitem__, leads)
        rows.append(_Row("observed later", minutes, maps, RAIN_SCALE))
    for i, member in enumerate(story.rain[:NUM_MEMBERS]):
        maps = map(member.__getitem__, leads)  # of this member: a generator would look later
        label = f"member {i + 1} of {num_members}"
        # Dots in each row would be too many; where there are others, members go without.
        own_doubts = doubts if num_members == 1 else repeat(None)
        rows.append(_Row(label, minutes, maps, RAIN_SCALE, own_doubts))
    if num_members > 1:
        rows.append(_Row("ensemble mean", minutes, map(story.mean, leads), RAIN_SCALE, doubts))
        for threshold in _choose(story.thresholds, story.main_threshold):
            maps = map(partial(story.chance, threshold), leads)
            rows.append(_Row(chance_title(threshold), minutes, maps, CHANCE_SCALE, doubts))
    return rows


def _choose(thresholds: Sequence[float], main: float) -> list[float]:
    """Those that there is room for, smallest first: the smallest, the largest and the main one."""
    ordered = sorted(thresholds)
    if len(ordered) <= NUM_CHANCES:
        return ordered
    middle = main if main in ordered[1:-1] else ordered[len(ordered) // 2]
    return [ordered[0], middle, ordered[-1]]
