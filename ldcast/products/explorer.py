"""A forecast as one page to explore in a browser: the data and the script that draws them, packed.

Nothing is fetched from anywhere, so that it opens from a mail or a file share, and for years. Lines
over time are drawn by uPlot (web/uPlot.LICENSE), which is part of the page.
"""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ldcast.products.maps import CHANCE_SCALE, DRY_COLOUR, RAIN_SCALE, ColourScale, coarsen
from ldcast.products.story import Story
from ldcast.rain import WET_THRESHOLD

MAX_BYTES = 5_000_000
HEAD_BYTES = 120_000  # of the page without its data
NO_DATA, HIGHEST_CODE = 255, 254
STEPS_DB = (0.25, 0.5, 1.0, 1.5)  # of the rain rate, from one code to the next
MAX_BLOCK = 64  # pixels along a side that are taken together
IN_FLIGHT = 1.34  # bytes of text (base64) for a packed one
UNITS_DB = 10  # per factor of ten


class _Detail(NamedTuple):
    """step_db: between codes. block: pixels along a side whose mean is shown."""

    step_db: float
    block: int


def save_explorer(story: Story, file: BinaryIO) -> None:
    """Writes the page, of at most `MAX_BYTES`; rain as exactly and finely as fits."""
    for detail in _details():
        packed = _pack(story, detail)
        if packed is not None:
            break
    web = files("ldcast.products") / "web"
    parts = {
        "title": html.escape(story.title),
        "style": _read(web, "uPlot.min.css") + _read(web, "explorer.css"),
        "about": json.dumps(_about(story, detail), allow_nan=False).replace("<", "\\u003c"),
        "data": base64.b64encode(packed).decode(),
        "chart": _read(web, "uPlot.iife.min.js"),
        "script": _read(web, "explorer.js"),
    }
    page = _read(web, "explorer.html")
    for name, text in parts.items():
        before, after = page.split("{{" + name + "}}")
        page = before + text + after
    file.write(page.encode())


def _read(web: Any, name: str) -> str:
    return (web / name).read_text(encoding="utf-8")


def rate_codes(rain_rate: np.ndarray, step_db: float) -> np.ndarray:
    """uint8 codes of rain (...) mm/h: 0 below `WET_THRESHOLD`, then steps, `NO_DATA` for NaN.

    A rate from there on is wrong by half a step at most, up to the highest code.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = np.round(UNITS_DB * np.log10(rain_rate / WET_THRESHOLD) / step_db)
        codes = np.where(rain_rate < WET_THRESHOLD, 0, np.clip(1 + steps, 1, HIGHEST_CODE))
    return np.where(np.isnan(rain_rate), NO_DATA, codes).astype(np.uint8)


def _details() -> Iterator[_Detail]:
    """From the finest on: coarser steps first, then fewer pixels."""
    for block in range(1, MAX_BLOCK + 1):
        for step_db in STEPS_DB:
            yield _Detail(step_db, block)


def _pack(story: Story, detail: _Detail) -> bytes | None:
    """All arrays of `_arrays`, compressed; None as soon as it is plain that they do not fit."""
    room = (MAX_BYTES - HEAD_BYTES - _size_of_borders(story)) / IN_FLIGHT
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    packed = bytearray()
    for index, (_, images) in enumerate(_arrays(story, detail)):
        packed += packer.compress(_residuals(images).tobytes())
        # Members are alike: the first one shows what all will take.
        expected = len(packed) * len(story.rain) / 1.1 if index == 0 else len(packed)
        if expected > room:
            return None
    packed += packer.flush()
    return bytes(packed) if len(packed) <= room else None


def _size_of_borders(story: Story) -> int:
    return len(json.dumps(_borders(story, 1)))


def _arrays(story: Story, detail: _Detail) -> Iterator[tuple[str, np.ndarray]]:
    """Name and images (N, h, w) uint8, in the order of `_contents`; rain member by member."""

    def thinned(images: np.ndarray) -> np.ndarray:
        dots = -(-max(story.shape) // detail.block)
        return np.stack([coarsen(image, dots) for image in images]) if detail.block > 1 else images

    yield from (("rain", rate_codes(thinned(m), detail.step_db)) for m in story.rain)
    yield "past", rate_codes(thinned(story.past), detail.step_db)
    if story.later is not None:
        yield "later", rate_codes(thinned(story.later), detail.step_db)
    if story.quality is not None:
        doubt = np.stack([story.doubt(frame) for frame in range(len(story.lead_minutes))])
        yield "doubt", (thinned(doubt) >= 0.5).astype(np.uint8)
    if story.chances is not None:
        for threshold in sorted(story.thresholds):
            chance = thinned(story.chances[threshold])
            percent = np.where(np.isnan(chance), NO_DATA, np.round(100 * np.nan_to_num(chance)))
            yield "chances", percent.astype(np.uint8)


def _residuals(images: np.ndarray) -> np.ndarray:
    """What differs from the median of left, above, and left + above - corner, modulo 256.

    Source: the predictor of LOCO-I, Weinberger et al. 2000 (IEEE Transactions on Image Processing
    9), as in JPEG-LS.
    """
    padded = np.pad(images.astype(np.int16), ((0, 0), (1, 0), (1, 0)))
    here, left = padded[:, 1:, 1:], padded[:, 1:, :-1]
    above, corner = padded[:, :-1, 1:], padded[:, :-1, :-1]
    plane = left + above - corner
    expected = np.clip(plane, np.minimum(left, above), np.maximum(left, above))
    return (here - expected).astype(np.uint8)


def _contents(story: Story) -> list[tuple[str, int]]:
    """Names of the arrays and their numbers of images."""
    num_leads = len(story.lead_minutes)
    contents = [("rain", len(story.rain) * num_leads), ("past", len(story.past))]
    if story.later is not None:
        contents.append(("later", num_leads))
    if story.quality is not None:
        contents.append(("doubt", num_leads))
    if story.chances is not None:
        contents.append(("chances", len(story.thresholds) * num_leads))
    return contents


def _about(story: Story, detail: _Detail) -> dict[str, Any]:
    """What the script needs to know of the arrays."""
    shape = [-(-side // detail.block) for side in story.shape]
    second_hand = [story.is_continued(minutes) for minutes in story.lead_minutes]
    about = {
        "title": story.title,
        "issue_seconds": int(story.issue_time.astype("datetime64[s]").astype(np.int64)),
        "past_minutes": story.past_minutes.tolist(),
        "lead_minutes": np.asarray(story.lead_minutes).tolist(),
        "is_second_hand": second_hand,
        "num_members": len(story.rain),
        "shape": shape,
        "block": detail.block,
        "pixel_aspect": story.pixel_aspect,
        "lowest_rate": WET_THRESHOLD,
        "step_db": detail.step_db,
        "thresholds": [float(value) for value in sorted(story.thresholds)],
        "dry_colour": DRY_COLOUR,
        "scales": {"rain": _scale(RAIN_SCALE), "chance": _scale(CHANCE_SCALE)},
        "borders": _borders(story, detail.block),
        "arrays": _contents(story),
        "notes": _notes(detail),
    }
    if "pixel_size_m" in story.grid:
        about["width_km"] = story.shape[1] * float(story.grid["pixel_size_m"]) / 1000
    return about


def _scale(scale: ColourScale) -> dict[str, Any]:
    """The last bound of a closed scale begins no class."""
    num = len(scale.colours)
    return {
        "label": scale.label,
        "bounds": scale.bounds[:num],
        "bound_labels": scale.bound_labels[:num],
        "colours": scale.colours,
    }


def _borders(story: Story, block: int) -> list[list[list[float]]]:
    """To a tenth of a pixel, without points that are then the same."""
    lines = []
    for line in story.borders:
        points = np.round(np.asarray(line) / block, 1)
        is_new = np.concatenate([[True], (np.diff(points, axis=0) != 0).any(axis=1)])
        lines.append(points[is_new].tolist())
    return lines


def _notes(detail: _Detail) -> list[str]:
    wrong = 100 * (10 ** (detail.step_db / 2 / UNITS_DB) - 1)
    notes = [
        f"Rain rates are as in the forecast to {wrong:.0f} %; below {WET_THRESHOLD:g} mm/h they "
        "count as dry."
    ]
    if detail.block > 1:
        notes.append(
            f"Pixels shown are means of {detail.block} x {detail.block} of the forecast's, so that "
            "this page stays small: peaks are lower, and chances are of such means."
        )
    notes.append("Chances are shares of the members, or the calibration's where there is one.")
    return notes
