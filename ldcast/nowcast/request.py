"""The request for a forecast: its checks, the padded past, and the members' noise."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldcast.data.fields import FieldNeed, check_layout
from ldcast.errors import InputError, check_count
from ldcast.frames import FrameConfig
from ldcast.rain import check_rain_rate
from ldcast.seeds import STREAM_MEMBER, STREAM_SAMPLER, draw_noise, keyed_generator

# Members that are denoised at once, and pixels of all of them, if not said otherwise; and pixels of
# windows, of which there are several only where memory is short. A small example alone takes longer
# than its share of a batch: 1.5 s of processor time a call against 0.9 s (256 x 256, the
# first bundled model, two CPU cores).
MAX_BATCH, MAX_BATCH_PIXELS, MAX_WINDOW_PIXELS = 8, 2**20, 2**18


@dataclass(frozen=True)
class MemberNoise:
    """Where the initial noise of an ensemble comes from: keyed draws, or what the caller gave.

    shape: (C, L, h, w) of one member's latents. first_member: the key of the first one.
    given: (E, C, rounds * L, h, w), or None.
    """

    shape: tuple[int, int, int, int]
    seed: int
    first_member: int = 0
    given: Tensor | None = None

    def of(self, members: range, round_: int) -> Tensor:
        """(len(members), C, L, h, w) for the round_-th stretch of frames, from 0."""
        if self.given is not None:
            length = self.shape[1]
            frames = slice(round_ * length, (round_ + 1) * length)
            return self.given[members.start : members.stop, :, frames]
        later = (
            (round_,) if round_ else ()
        )  # keys of the first round are as they were before others
        keys = [
            (self.seed, STREAM_MEMBER, self.first_member + member, *later) for member in members
        ]
        return draw_noise((len(members), *self.shape), [keyed_generator(*key) for key in keys])

    def sampler_generators(self, members: range, round_: int) -> list[torch.Generator]:
        """One for each member, for what a stochastic sampler draws besides the initial noise."""
        numbers = (self.first_member + member for member in members)
        return [keyed_generator(self.seed, STREAM_SAMPLER, number, round_) for number in numbers]

    def check_given(self, num_members: int, num_rounds: int) -> None:
        """Raises InputError unless what was given is finite and fits."""
        channels, length, *size = self.shape
        shape = (num_members, channels, num_rounds * length, *size)
        if self.given is None:
            return
        if tuple(self.given.shape) != shape or not torch.isfinite(self.given).all():
            raise InputError(
                f"got noise of shape {tuple(self.given.shape)}, expected finite numbers of shape "
                f"{shape}"
            )


def batches(num_items: int, max_items: int) -> list[range]:
    """Which members, or windows, the networks see at once: as few batches as can be, of one size.

    Sizes may differ by one, so that no item is left alone if it need not be.
    """
    num = -(-num_items // max_items)
    return [range(num_items * k // num, num_items * (k + 1) // num) for k in range(num)]


def fitting(height: int, width: int, max_pixels: int = MAX_BATCH_PIXELS) -> int:
    """How many fields of that size make a batch, where nothing else is asked for."""
    return min(max(max_pixels // (height * width), 1), MAX_BATCH)


def count_frames(lead_minutes: int, frames: FrameConfig) -> int:
    """Frames up to a lead time. Raises InputError unless it is that of one of the model's frames.

    frames: the model's.
    """
    lead_minutes = check_count("minutes of lead time", lead_minutes)
    if lead_minutes % frames.minutes_per_frame:
        raise InputError(
            f"got {lead_minutes} minutes of lead time, expected a multiple of "
            f"{frames.minutes_per_frame}"
        )
    return lead_minutes // frames.minutes_per_frame


def check_window(window: int, multiple: int) -> int:
    """The size as an int; raises InputError unless it is a multiple with room for an overlap."""
    window = check_count("pixels of a window", window)
    if window % multiple or window < 4 * multiple:
        raise InputError(
            f"got windows of {window} pixels, expected a multiple of {multiple}, at least "
            f"{4 * multiple}"
        )
    return window


def as_tensor(past: np.ndarray | Tensor) -> Tensor:
    """A tensor of its own for an array of any layout, byte order and mask (masked = no data)."""
    if isinstance(past, Tensor):
        return past
    if not isinstance(past, np.ndarray):
        raise InputError(f"got {type(past).__name__}, expected a NumPy array or a tensor")
    if np.issubdtype(past.dtype, np.floating):
        past = past.astype({2: np.float16, 4: np.float32}.get(past.itemsize, np.float64))
        past = np.ma.filled(past, np.nan)
    return torch.tensor(np.ascontiguousarray(past))


def check_past(past: Tensor, frames: FrameConfig) -> None:
    """Raises InputError unless past is (past_frames, H, W) mm/h with data in its newest frame and
    before.

    frames: the model's.
    """
    num_past = frames.past_frames
    if past.ndim != 3 or past.shape[0] != num_past or not past.numel():
        raise InputError(
            f"got past rain of shape {tuple(past.shape)}, expected ({num_past}, H, W): {num_past} "
            f"frames {frames.minutes_per_frame} minutes apart, oldest first"
        )
    check_rain_rate(past)
    is_blank = past.isnan().flatten(1).all(1)
    if is_blank[-1] or is_blank[:-1].all():
        which = "newest past frame holds" if is_blank[-1] else "past frames before the newest hold"
        raise InputError(f"the {which} no data at all, only NaN: choose another time")


def checked_fields(
    given: Mapping[str, np.ndarray | Tensor],
    needs: Mapping[str, FieldNeed],
    num_rounds: int,
    frames: FrameConfig,
    size: tuple[int, int],
) -> dict[str, Tensor]:
    """The fields (F, c, H, W) that a model needs, float32, for as many stretches of future frames.

    needs: of one stretch. frames: the model's. size: (H, W) of the rain.
    Raises InputError for one that is missing, of another layout or size, or ends too soon.
    """
    fields = {}
    for name, need in needs.items():
        if name not in given:
            raise InputError(
                f"the model takes the input field {name}, got {', '.join(given) or 'no fields'}: "
                f"give it as fields={{'{name}': array}}, or in the event file"
            )
        field = _field_tensor(name, given[name])
        if field.ndim != 4 or tuple(field.shape[2:]) != size:
            raise InputError(
                f"got the field {name} of shape {tuple(field.shape)}, expected (F, c, "
                f"{size[0]}, {size[1]}) like the past rain"
            )
        check_layout(f"the field {name}", field.shape[1], len(field) > 1, need)
        _check_length(name, len(field), need, num_rounds, frames)
        fields[name] = field
    return fields


def _field_tensor(name: str, field: np.ndarray | Tensor) -> Tensor:
    """float32, of an array of any layout, byte order, number type and mask (masked = NaN)."""
    if isinstance(field, Tensor) and not field.is_complex():
        return field.float()
    is_array = isinstance(field, np.ndarray) and field.dtype.kind in "fiub"
    if not is_array:
        kind = field.dtype if hasattr(field, "dtype") else type(field).__name__
        raise InputError(f"the field {name}: got {kind}, expected an array or tensor of numbers")
    return torch.from_numpy(np.ma.filled(np.ma.asarray(field, np.float32), np.nan).copy())


def _check_length(
    name: str, length: int, need: FieldNeed, num_rounds: int, frames: FrameConfig
) -> None:
    if need.num_frames == frames.past_frames and num_rounds > 1:
        raise InputError(
            f"the field {name} is observed, so it is known up to the issue time only: expected no "
            f"more than {frames.lead_minutes[-1]} minutes of lead time from this model"
        )
    num_needed = need.num_frames + (num_rounds - 1) * frames.future_frames
    if need.num_frames and length < num_needed:
        got, expected = (
            frames.minutes_per_frame * (num - frames.past_frames) for num in (length, num_needed)
        )
        raise InputError(
            f"the field {name} ends {got} minutes after the issue time, expected {expected}, as "
            f"the networks make {frames.lead_minutes[-1]} minutes at a time: give a "
            "longer one"
        )


def fields_of_round(
    fields: Mapping[str, Tensor], needs: Mapping[str, FieldNeed], round_: int, frames: FrameConfig
) -> dict[str, Tensor]:
    """Those of the round_-th stretch, from 0: what is needed of each, (1, F, c, H, W).

    fields, needs: as `checked_fields` gives and takes them.
    """
    first = round_ * frames.future_frames
    return {
        name: (field[first : first + needs[name].num_frames] if len(field) > 1 else field)[None]
        for name, field in fields.items()
    }
