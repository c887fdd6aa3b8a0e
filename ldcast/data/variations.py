"""How training crops are varied beyond turns and flips: a velocity of the crop, a factor on rain.

A crop that moves over the domain sees everything move the other way on top of its own motion: rain,
past and future, in the crop and around it, and fields that change in time. Each frame is cut where
the crop is at its time, by whole pixels, so no value is made by interpolation. A field of
velocities, in pixels per frame, is seen less the crop's own; other vectors stay. What does not
change in time, as orography, would have to move through the crop, and is refused.

The factor stands for the error of a radar's calibration, which lasts longer than an example: it is
the same for all frames of the radar. Fields are not of that radar, and stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ldcast.data.event import RainEvent
from ldcast.data.fields import FieldNeed
from ldcast.data.pickers import Window
from ldcast.errors import InputError

MAX_RAIN_FACTOR_DB = 3.0  # a factor of 2, or 4.8 dB of reflectivity with Z = 200 R^1.6


def check_motion(
    events: Sequence[RainEvent],
    fields: Mapping[str, FieldNeed],
    crop_motion: int,
    num_frames: int,
    crop_size: int,
) -> None:
    """Raises InputError where crops that move have no room, or see fields that cannot move.

    crop_motion: pixels per frame, the most along an axis.
    """
    for name, need in fields.items():
        if not need.num_frames:
            raise InputError(
                f"got --data.crop-motion {crop_motion} and an input of {name}, which does not "
                "change in time: expected 0, since a crop that moves would have to see it move"
            )
        if need.num_channels == 2 and not need.vector:
            raise InputError(
                f"got --data.crop-motion {crop_motion} and an input of the vector {name}, expected "
                "one that says what it is: give its FieldKind vector='velocity' (in pixels per "
                "frame, seen less the crop's own) or vector='other'"
            )
    smallest = min(min(event.rain_rate.shape[1:]) for event in events)
    needed = crop_size + crop_motion * (num_frames - 1)
    if smallest < needed:
        event = min(events, key=lambda event: min(event.rain_rate.shape[1:]))
        height, width = event.rain_rate.shape[1:]
        raise InputError(
            f"{event.name} has {height} x {width} pixels, expected at least {needed} x {needed} "
            f"for crops of {crop_size} pixels that move by {crop_motion} pixels a frame over "
            f"{num_frames} frames; use --data.crop-motion "
            f"{(smallest - crop_size) // (num_frames - 1)} or a smaller --crop-size"
        )


def moving(
    window: Window,
    crop_motion: int,
    num_frames: int,
    crop_size: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Window:
    """The window with a velocity: whole pixels per frame, -crop_motion to crop_motion alike along
    each axis.

    It is in the middle of its frames where it was drawn, or as near to that as keeps all of them
    inside the domain of `size` (H, W), which must have room for it (see `check_motion`).
    """
    velocity = rng.integers(-crop_motion, crop_motion + 1, 2).tolist()
    starts = []
    for start, step, pixels in zip((window.y, window.x), velocity, size, strict=True):
        way = step * (num_frames - 1)
        lowest, highest = max(0, -way), pixels - crop_size - max(0, way)
        starts.append(min(max(start - way // 2, lowest), highest))
    return replace(window, y=starts[0], x=starts[1], down=velocity[0], right=velocity[1])


def cut_along(passed: Tensor, window: Window, y: int, x: int, size: int) -> Tensor:
    """(F, ..., size, size) of frames (F, ..., H, W): each where the window is at its time.

    y, x: where it is in the first frame. The frames themselves where the window stands still.
    """
    if not window.down and not window.right:
        return passed
    return torch.stack(
        [
            frame[..., y + k * window.down :, x + k * window.right :][..., :size, :size]
            for k, frame in enumerate(passed)
        ]
    )


def seen_from(window: Window, values: Tensor, need: FieldNeed) -> Tensor:
    """A field's values (F, c, H, W) as the moving crop sees them; NaN stays NaN."""
    if need.vector != "velocity":
        return values
    return values - values.new_tensor([window.down, window.right])[:, None, None]


def with_factor(
    rain_rate: Tensor, deviation_db: float, max_rain_rate: float, rng: np.random.Generator
) -> Tensor:
    """Rain of any shape, mm/h, times one factor whose decibels are normal around 0.

    Its size: 0.6 dB of rain is 1 dB of reflectivity with Z = 200 R^1.6, within which radars are
    meant to be calibrated (Frech, Hagen and Mammen 2017, J. Atmos. Oceanic Technol. 34).
    The factor lifts nothing above `max_rain_rate`, and what is above it already, or negative, stays
    as it is, so that faulty rain is found all the same. NaN stays NaN.
    """
    factor = 10 ** (rng.normal(0.0, deviation_db) / 10)
    is_possible = (rain_rate >= 0) & (rain_rate <= max_rain_rate)
    return torch.where(is_possible, (rain_rate * factor).clamp(max=max_rain_rate), rain_rate)
