"""Diagrams as one page to explore in a browser, with maps of cases where there are some.

Nothing is fetched from anywhere. Lines are drawn by uPlot (web/uPlot.LICENSE), a part of the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ldcast.products.diagrams import Panel, Style, page_style, panel_data
from ldcast.products.packing import (
    HEAD_BYTES,
    MAX_BYTES,
    Detail,
    about_codes,
    chance_codes,
    details,
    notes_of,
    pack,
    rate_codes,
    shape_in,
    thinned,
)
from ldcast.products.web_page import fill_page


@dataclass(frozen=True)
class Group:
    """Diagrams under one heading.

    panels: for each diagram what it shows for each of `choices`, which a slider goes through;
        `chosen` is the one shown at first. A single choice needs no name.
    """

    title: str
    hint: str
    panels: tuple[tuple[Panel, ...], ...]
    choices: tuple[str, ...] = ("",)
    chosen: int = 0


class Images(NamedTuple):
    """What one source says of a case.

    views: label -> images (T, H, W), in 0..1 for chances and else in mm/h, NaN = no data.
    chances: the labels of the views that are chances.
    """

    views: dict[str, np.ndarray]
    chances: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseMaps:
    """Maps of a case at some lead times: of each source, the first being what was observed."""

    title: str
    lead_minutes: Sequence[int]
    sources: dict[str, Images]


@dataclass(frozen=True)
class ChartsPage:
    """All that a page shows.

    styles: of the names whose lines can be switched off. notes: small print at the end.
    cases: all of the same height and width; cases_texts: their heading, and how to read them.
    """

    title: str
    subtitle: str
    groups: tuple[Group, ...]
    styles: dict[str, Style] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cases: tuple[CaseMaps, ...] = ()
    cases_texts: tuple[str, str] = ("", "")


def save_charts(page: ChartsPage, file: BinaryIO) -> None:
    """Writes the page; its maps as exactly and finely as fits into `MAX_BYTES`."""
    about, packed = _about(page), ""
    if page.cases:
        shape = _shape(page.cases[0])
        room = MAX_BYTES - HEAD_BYTES - len(json.dumps(about))
        for detail in details():
            images = (images for _, images in _arrays(page.cases, detail))
            packed = pack(images, room)
            if packed is not None:
                break
        about |= about_codes(detail) | {"shape": shape_in(detail, shape)}
        about["map_notes"] = notes_of(detail)
    file.write(fill_page("charts", page.title, about, packed, ("cases.js", "charts.js")))


def _shape(case: CaseMaps) -> tuple[int, ...]:
    """Rows and columns of its maps."""
    first = next(iter(case.sources.values()))
    return next(iter(first.views.values())).shape[1:]


def _about(page: ChartsPage) -> dict[str, Any]:
    return {
        **{"title": page.title, "subtitle": page.subtitle, "notes": page.notes},
        "legend": [
            {"name": name, "label": style["label"], **page_style(style)}
            for name, style in page.styles.items()
        ],
        "groups": [_group(group) for group in page.groups],
        "cases": [_case(case) for case in page.cases],
        "cases_texts": page.cases_texts,
        "arrays": _contents(page.cases),
        "map_notes": [],
    }


def _group(group: Group) -> dict[str, Any]:
    panels = [[panel_data(panel) for panel in versions] for versions in group.panels]
    texts = {"title": group.title, "hint": group.hint}
    return texts | {"choices": group.choices, "chosen": group.chosen, "panels": panels}


def _case(case: CaseMaps) -> dict[str, Any]:
    minutes = [int(minutes) for minutes in case.lead_minutes]
    views = dict.fromkeys(view for source in case.sources.values() for view in source.views)
    chances = {view for source in case.sources.values() for view in source.chances}
    return {
        **{"title": case.title, "lead_minutes": minutes, "sources": list(case.sources)},
        "views": [{"label": view, "is_chance": view in chances} for view in views],
    }


def _arrays(cases: Sequence[CaseMaps], detail: Detail) -> Iterator[tuple[str, np.ndarray]]:
    """Name and images (T, h, w) uint8, case by case."""
    for index, case in enumerate(cases):
        for name, source in case.sources.items():
            for view, images in source.views.items():
                means = thinned(images, detail)
                is_chance = view in source.chances
                codes = chance_codes(means) if is_chance else rate_codes(means, detail.step_db)
                yield f"{index}/{name}/{view}", codes


def _contents(cases: Sequence[CaseMaps]) -> list[tuple[str, int]]:
    """Names of the arrays and their numbers of images."""
    return [
        (f"{index}/{name}/{view}", len(images))
        for index, case in enumerate(cases)
        for name, source in case.sources.items()
        for view, images in source.views.items()
    ]
