"""Maps of a case: what the radar saw and what every forecaster made of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ldcast.products.maps import (
    CHANCE_SCALE,
    CHANCE_TITLE,
    RAIN_SCALE,
    ColourScale,
    add_colour_bar,
    add_map,
    add_no_data_key,
    coarsen,
)
from ldcast.products.summary import LIKELY_MM_H, chance_of
from ldcast.verification.page.layout import DPI, MARGIN, PAGE_WIDTH, Block, Sheet
from ldcast.verification.page.lines import Style, short_name

LABEL_WIDTH, LETTER, MAP_GAP, MAX_MAP_WIDTH = 0.5, 0.075, 0.05, 2.6  # inches


@dataclass(frozen=True)
class ShownCase:
    """A case to look at.

    title: what is special about it, event and issue time.
    lead_minutes: the T' lead times that are shown.
    observation: (T', H, W) mm/h, NaN = no data.
    forecasts: (E, T', H, W) mm/h under each forecaster's name, NaN = no forecast.
    """

    title: str
    lead_minutes: tuple[int, ...]
    observation: np.ndarray
    forecasts: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Strip:
    """Maps (T', H, W) of one quantity in a row, one for each lead time."""

    label: str
    colour: str
    maps: np.ndarray
    scale: ColourScale


def case_blocks(case: ShownCase, styles: dict[str, Style]) -> list[Block]:
    """The case's title and colour bars, and rows of two strips of maps each."""
    strips = _strips(case, styles)
    num_leads, num_rows, num_columns = case.observation.shape
    width = (PAGE_WIDTH / 2 - MARGIN - LABEL_WIDTH) / num_leads - MAP_GAP
    width = min(width, MAX_MAP_WIDTH)
    height = min(width * num_rows / num_columns, 1.5 * width)
    labels = [line for strip in strips if strip is not None for line in strip.label.split("\n")]
    row_height = max(height, LETTER * max(map(len, labels)))  # they stand upright beside the maps
    scales = [strip.scale for strip in strips[:2] if strip is not None]
    blocks = [_case_heading(case, scales, width)]
    for i in range(0, len(strips), 2):
        draw = partial(_draw_strips, strips[i : i + 2], (width, height), row_height)
        blocks.append(Block(row_height + MAP_GAP, draw))
    return blocks


def _case_heading(case: ShownCase, scales: list[ColourScale], map_width: float) -> Block:
    """The case's title, a colour bar for each half of the page, and lead times above the maps."""

    def draw(sheet: Sheet, top: float) -> None:
        sheet.text(MARGIN, top + 0.2, case.title, fontsize=12, fontweight="bold")
        add_no_data_key(
            sheet.fig,
            loc="upper right",
            bbox_to_anchor=sheet.point(PAGE_WIDTH - MARGIN, top + 0.5),
            borderaxespad=0,
        )
        for half, scale in enumerate(scales):
            if scale not in scales[:half]:  # one bar will do for both halves
                bar = sheet.axes(_map_left(half, 0, map_width), top + 0.55, 4.2, 0.13)
                add_colour_bar(sheet.fig, scale, cax=bar, orientation="horizontal")
            for i, minutes in enumerate(case.lead_minutes):
                centre = _map_left(half, i, map_width) + map_width / 2
                sheet.text(centre, top + 1.14, f"+{minutes} min", fontsize=9, ha="center")

    return Block(1.32, draw)


def _map_left(half: int, column: int, map_width: float) -> float:
    """Inches from the left of a map in the left (0) or right (1) half of the page."""
    left = MARGIN + half * (PAGE_WIDTH / 2 - MARGIN) + LABEL_WIDTH
    return left + column * (map_width + MAP_GAP)


def _strips(case: ShownCase, styles: dict[str, Style]) -> list[_Strip | None]:
    """Two to a row, None leaving a gap; an ensemble fills a row: a member, and chances."""
    forecasts = {name: rain for name, rain in case.forecasts.items() if name != "dry"}
    single = {name: rain[0] for name, rain in forecasts.items() if len(rain) == 1}
    several = {name: rain for name, rain in forecasts.items() if len(rain) > 1}
    strips: list[_Strip | None] = [_Strip("observed", "black", case.observation, RAIN_SCALE)]
    if several:
        label = f"observed\n≥ {LIKELY_MM_H:g} mm/h"
        happened = chance_of(case.observation[None], LIKELY_MM_H)
        strips.append(_Strip(label, "black", happened, CHANCE_SCALE))
    for name, rain in single.items():
        strips.append(_Strip(_row_name(name), styles[name]["color"], rain, RAIN_SCALE))
    if len(strips) % 2 == 1:
        strips.append(None)
    for name, rain in several.items():
        label, colour = _row_name(name), styles[name]["color"]
        chance = chance_of(rain, LIKELY_MM_H)
        member = f"{label}\nmember 1 of {len(rain)}"
        strips.append(_Strip(member, colour, rain[0], RAIN_SCALE))
        strips.append(_Strip(f"{label}\n{CHANCE_TITLE}", colour, chance, CHANCE_SCALE))
    return strips


def _row_name(name: str) -> str:
    return short_name(name, 24)


def _draw_strips(
    strips: list[_Strip | None],
    size: tuple[float, float],
    row_height: float,
    sheet: Sheet,
    top: float,
) -> None:
    """size: width and height of a map. The maps stand in the middle of the row's height."""
    top += (row_height - size[1]) / 2
    for half, strip in enumerate(strips):
        if strip is None:
            continue
        lefts = [_map_left(half, i, size[0]) for i in range(len(strip.maps))]
        panels = [sheet.axes(left, top, *size) for left in lefts]
        for axes, values in zip(panels, strip.maps, strict=True):
            add_map(axes, coarsen(values, round(max(size) * DPI)), strip.scale)
        panels[0].set_ylabel(strip.label, fontsize=8.5, color=strip.colour)
