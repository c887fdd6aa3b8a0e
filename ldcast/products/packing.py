"""Maps as the text of a page: codes, what is left of them when predicted, deflate and base64.

web/packing.js undoes all of it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ldcast.products.maps import CHANCE_SCALE, DRY_COLOUR, RAIN_SCALE, ColourScale, block_means
from ldcast.rain import WET_THRESHOLD

MAX_BYTES = 5_000_000  # of a page
HEAD_BYTES = 120_000  # of a page without its data
NO_DATA, HIGHEST_CODE = 255, 254
STEPS_DB = (0.25, 0.5, 1.0, 1.5)  # of the rain rate, from one code to the next
MAX_BLOCK = 64  # pixels along a side that are taken together
IN_FLIGHT = 1.34  # bytes of text (base64) for a packed one
PERCENT = 100
UNITS_DB = 10  # per factor of ten


class Detail(NamedTuple):
    """step_db: between codes. block: pixels along a side whose mean is shown."""

    step_db: float
    block: int


def details() -> Iterator[Detail]:
    """From the finest on: coarser steps first, then fewer pixels."""
    for block in range(1, MAX_BLOCK + 1):
        for step_db in STEPS_DB:
            yield Detail(step_db, block)


def shape_in(detail: Detail, shape: Iterable[int]) -> list[int]:
    """Rows and columns that are left of a map."""
    return [-(-side // detail.block) for side in shape]


def thinned(images: np.ndarray, detail: Detail) -> np.ndarray:
    """Means (N, h, w) of blocks of images (N, H, W)."""
    if detail.block == 1:
        return images
    return np.stack([block_means(image, detail.block) for image in images])


def rate_codes(rain_rate: np.ndarray, step_db: float) -> np.ndarray:
    """uint8 codes of rain (...) mm/h: 0 below `WET_THRESHOLD`, then steps, `NO_DATA` for NaN.

    A rate from there on is wrong by half a step at most, up to the highest code.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = np.round(UNITS_DB * np.log10(rain_rate / WET_THRESHOLD) / step_db)
        codes = np.where(rain_rate < WET_THRESHOLD, 0, np.clip(1 + steps, 1, HIGHEST_CODE))
    return np.where(np.isnan(rain_rate), NO_DATA, codes).astype(np.uint8)


def chance_codes(chance: np.ndarray, num_parts: int = PERCENT) -> np.ndarray:
    """uint8 codes of chances (...) in 0..1: how many parts of `num_parts`, `NO_DATA` for NaN."""
    parts = np.round(num_parts * np.nan_to_num(chance))
    return np.where(np.isnan(chance), NO_DATA, parts).astype(np.uint8)


def pack(arrays: Iterable[np.ndarray], room: float, num_alike: int = 1) -> str | None:
    """Images (N, h, w) of codes as one text; None as soon as it is plain that they do not fit.

    room: bytes. num_alike: how many of the first arrays take about as much as the first.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    packed = bytearray()
    for index, images in enumerate(arrays):
        packed += packer.compress(_residuals(images).tobytes())
        expected = len(packed) * num_alike / 1.1 if index == 0 else len(packed)
        if IN_FLIGHT * expected > room:
            return None
    packed += packer.flush()
    return base64.b64encode(packed).decode() if IN_FLIGHT * len(packed) <= room else None


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


def about_codes(detail: Detail) -> dict[str, Any]:
    """What a page's script needs to know to turn codes into rates and colours."""
    return {
        "block": detail.block,
        "lowest_rate": WET_THRESHOLD,
        "step_db": detail.step_db,
        "dry_colour": DRY_COLOUR,
        "scales": {"rain": _scale(RAIN_SCALE), "chance": _scale(CHANCE_SCALE)},
    }


def _scale(scale: ColourScale) -> dict[str, Any]:
    """The last bound of a closed scale begins no class."""
    num = len(scale.colours)
    return {
        "label": scale.label,
        "bounds": scale.bounds[:num],
        "bound_labels": scale.bound_labels[:num],
        "colours": scale.colours,
    }


def notes_of(detail: Detail) -> list[str]:
    """How far what is shown differs from the forecast."""
    wrong = 100 * (10 ** (detail.step_db / 2 / UNITS_DB) - 1)
    notes = [
        f"Rain rates are as in the forecast to {wrong:.0f} %; below {WET_THRESHOLD:g} mm/h they "
        "count as dry."
    ]
    if detail.block > 1:
        notes.append(
            f"Pixels shown are means of {detail.block} x {detail.block} of the forecast's, so that "
            "this page stays small: peaks are lower."
        )
    return notes
