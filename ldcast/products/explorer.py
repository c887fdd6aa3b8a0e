"""A forecast as one page to explore in a browser: the data and the script that draws them, packed.

Nothing is fetched from anywhere, so that it opens from a mail or a file share, and for years. Lines
over time are drawn by uPlot (web/uPlot.LICENSE), which is part of the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ldcast.errors import InputError
from ldcast.products.packing import (
    HEAD_BYTES,
    MAX_BYTES,
    PERCENT,
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
from ldcast.products.story import Story
from ldcast.products.web_page import fill_page

MAX_BORDER_POINTS = 50_000  # 0.8 MB
CHANCES_NOTE = "Chances are shares of the members, or the calibration's where there is one."


def save_explorer(story: Story, file: BinaryIO) -> None:
    """Writes the page, of at most `MAX_BYTES`; rain as exactly and finely as fits."""
    room = MAX_BYTES - HEAD_BYTES - len(json.dumps(_borders(story, 1)))
    packed = None
    for detail in details():
        images = (images for _, images in _arrays(story, detail))
        packed = pack(images, room, num_alike=len(story.rain))  # members are alike
        if packed is not None:
            break
    if packed is None:
        raise InputError(
            f"{len(story.rain)} members of {story.shape[0]} x {story.shape[1]} pixels do not fit "
            f"into a page of {MAX_BYTES / 1e6:g} MB, expected fewer: give a .png or a .gif"
        )
    about = _about(story, detail)
    file.write(fill_page("explorer", story.title, about, packed, ("explorer.js",)))


def _arrays(story: Story, detail: Detail) -> Iterator[tuple[str, np.ndarray]]:
    """Name and images (N, h, w) uint8, in the order of `_contents`; rain member by member."""

    def rates(images: np.ndarray) -> np.ndarray:
        return rate_codes(thinned(images, detail), detail.step_db)

    yield from (("rain", rates(m)) for m in story.rain)
    yield "past", rates(story.past)
    if story.later is not None:
        yield "later", rates(story.later)
    if story.quality is not None:
        doubt = np.stack([story.doubt(frame) for frame in range(len(story.lead_minutes))])
        yield "doubt", (thinned(doubt, detail) >= 0.5).astype(np.uint8)
    if len(story.rain) > 1:
        for threshold in sorted(story.thresholds):
            frames = range(len(story.lead_minutes))
            chance = np.stack([story.chance(threshold, frame) for frame in frames])
            yield "chances", chance_codes(thinned(chance, detail), _num_parts(story))


def _contents(story: Story) -> list[tuple[str, int]]:
    """Names of the arrays and their numbers of images."""
    num_leads = len(story.lead_minutes)
    contents = [("rain", len(story.rain) * num_leads), ("past", len(story.past))]
    if story.later is not None:
        contents.append(("later", num_leads))
    if story.quality is not None:
        contents.append(("doubt", num_leads))
    if len(story.rain) > 1:
        contents.append(("chances", len(story.thresholds) * num_leads))
    return contents


def _num_parts(story: Story) -> int:
    """Of a chance: as many as members, which takes less room; percent where it is calibrated."""
    return PERCENT if story.chances is not None else min(len(story.rain), PERCENT)


def _about(story: Story, detail: Detail) -> dict[str, Any]:
    """What the script needs to know of the arrays."""
    about = {
        "title": story.title,
        "issue_seconds": int(story.issue_time.astype("datetime64[s]").astype(np.int64)),
        "past_minutes": story.past_minutes.tolist(),
        "lead_minutes": np.asarray(story.lead_minutes).tolist(),
        "is_continued": [story.is_continued(minutes) for minutes in story.lead_minutes],
        "num_members": len(story.rain),
        "shape": shape_in(detail, story.shape),
        "pixel_aspect": story.pixel_aspect,
        "thresholds": [float(value) for value in sorted(story.thresholds)],
        "borders": _borders(story, detail.block),
        "arrays": _contents(story),
        "chance_parts": _num_parts(story),
        "notes": [*notes_of(detail), CHANCES_NOTE],
        **about_codes(detail),
    }
    if "pixel_size_m" in story.grid:
        about["width_km"] = story.shape[1] * float(story.grid["pixel_size_m"]) / 1000
    return about


def _borders(story: Story, block: int) -> list[list[list[float]]]:
    """To a tenth of a pixel, without points that are then the same; of very many, every nth."""
    lines = []
    for line in story.borders:
        points = np.round(np.asarray(line) / block, 1)
        if len(points) > 1:
            is_new = np.concatenate([[True], (np.diff(points, axis=0) != 0).any(axis=1)])
            lines.append(points[is_new])
    every = -(-sum(map(len, lines)) // MAX_BORDER_POINTS) or 1
    return [np.concatenate([line[:-1:every], line[-1:]]).tolist() for line in lines]
