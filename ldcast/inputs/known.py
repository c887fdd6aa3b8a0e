"""What is known at the issue time: past latents, and further inputs on their grid.

`known_at_issue_time` alone makes it, for training, forecasts, validation and memory counts. A new
input is a class in a file beside this one (see `Input`) and a line in registry.py; what it reads
besides rain comes with the event files (`ldcast.data.fields`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ldcast.data.fields import FieldNeed
from ldcast.diffusion.windows import LatentWindow
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.motion import far_motion, follow_upstream, motion_of_known


@dataclass(frozen=True)
class Observed:
    """What radar and other sources say at the issue time, on the radar grid, of B domains.

    past: (B, T_past, H + 2 margin, W + 2 margin) mm/h, oldest first, NaN = no data; gaps filled.
    fields: name -> (B, F, c, H + 2 margin, W + 2 margin), NaN = not known, as everywhere beyond the
        domain; F is past frames, or past and future frames, or 1 of what does not change (see
        `FieldKind`); c is 2 for a vector (down, right).
    margin: pixels on all sides of the domain of H x W that belong to its surroundings.
    """

    past: Tensor
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    margin: int = 0
    _motions: dict[int, list[Tensor]] = field(default_factory=dict, init=False, repr=False)
    _upstream: dict[FrameConfig, list[Tensor]] = field(default_factory=dict, init=False, repr=False)

    def motions(self, minutes: int) -> list[Tensor]:
        """Of each domain and its surroundings (2, H + 2 margin, W + 2 margin), down and right in
        pixels per frame of that many minutes; estimated once for all inputs."""
        if minutes not in self._motions:
            with torch.autocast(self.past.device.type, enabled=False):
                self._motions[minutes] = [motion_of_known(past, minutes) for past in self.past]
        return self._motions[minutes]

    def upstream(self, frames: FrameConfig) -> list[Tensor]:
        """Where the air of each domain was, see `follow_upstream`, (future_frames + 1, 2, H, W)
        within its surroundings; followed once for all inputs.

        One frame more than there are to come: the image before the newest is carried so far.
        """
        if frames not in self._upstream:
            minutes, num_frames = frames.minutes_per_frame, frames.future_frames + 1
            with torch.autocast(self.past.device.type, enabled=False):
                self._upstream[frames] = [
                    follow_upstream(
                        motion, far_motion(past, motion), num_frames, minutes, self.margin
                    )
                    for past, motion in zip(self.past, self.motions(minutes), strict=True)
                ]
        return self._upstream[frames]

    def domain(self, values: Tensor) -> Tensor:
        """(..., H, W) of (..., H + 2 margin, W + 2 margin)."""
        inner = slice(self.margin, -self.margin or None)
        return values[..., inner, inner]


@dataclass(frozen=True)
class LatentGrid:
    """How rain and other fields come to the latent grid.

    encode: rain (B, 1, T, H, W) mm/h, NaN = no data -> latent mean (B, C, L, h, w), no gradients.
    compression: frames, rows and columns of a latent cell.
    frames: of the radar, past and future, and how far they are apart.
    """

    encode: Callable[[Tensor], Tensor]
    compression: int
    frames: FrameConfig

    @property
    def num_past(self) -> int:
        """L_past."""
        return self.frames.past_frames // self.compression

    @property
    def num_future(self) -> int:
        """L_future."""
        return self.frames.future_frames // self.compression

    def average(self, values: Tensor) -> Tensor:
        """Mean over the known pixels and frames of each cell, 0 where none is (NaN) known.

        values: (B, c, T, H, W) -> (B, c, L, h, w). Of T = 1, what does not change, the mean is over
        pixels alone.
        """
        total = self._mean(values.nan_to_num(nan=0.0))
        return total / self.known_share(values).clamp(min=1e-6)

    def known_share(self, values: Tensor) -> Tensor:
        """Share of each cell that is known, (B, c, L, h, w) in 0..1; values: as for `average`."""
        return self._mean((~values.isnan()).float())

    def _mean(self, values: Tensor) -> Tensor:
        frames = 1 if values.shape[2] == 1 else self.compression
        return nn.functional.avg_pool3d(values, (frames, self.compression, self.compression))


class FieldKind(NamedTuple):
    """What an input needs of a field that events carry.

    num_channels: 1, or 2 for a vector. times: "past": what is observed, of the past frames;
    "all": what is foreseen, of past and future frames; "none": it does not change.
    vector: of two channels, "velocity": in pixels per frame, of which a training crop that moves
    sees its own taken off; "other": it sees them as they are; "": not said, and such crops are
    refused.
    """

    num_channels: int = 1
    times: Literal["past", "all", "none"] = "all"
    vector: Literal["", "velocity", "other"] = ""


class Input(Protocol):
    """Something that networks are given besides the past latents; without state.

    beside: "past": the past latents, in the conditioner, (B, c, L_past, h, w); or "future": the
        noisy future latents, in the denoiser, (B, c, L_future, h, w). One latent frame instead of
        all does for what does not change.
    fields: what events must carry for it, by name; none where it is made of the past rain.
    margin: pixels around a training crop that it looks at; forecasts have the whole domain.
    """

    beside: Literal["past", "future"]
    fields: Mapping[str, FieldKind]
    margin: int

    def num_channels(self, latent_channels: int) -> int:
        """c, for latents of that many channels."""

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        """(B, c, L, h, w) float32, finite, of about unit size."""


@dataclass(frozen=True)
class Known:
    """What is known at the issue time, on the latent grid, of B domains or one that members share.

    z_past: (B, C, L_past, h, w). past, future: inputs by name, (B, c, L, h, w), by what they stand
    beside.
    """

    z_past: Tensor
    past: Mapping[str, Tensor] = field(default_factory=dict)
    future: Mapping[str, Tensor] = field(default_factory=dict)

    def in_order(self, names: Iterable[str]) -> "Known":
        """The same with its inputs in the order of `names`, as the networks were built for."""
        rank = {name: place for place, name in enumerate(names)}

        def ordered(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return dict(sorted(inputs.items(), key=lambda item: rank.get(item[0], len(rank))))

        return Known(self.z_past, ordered(self.past), ordered(self.future))

    def for_conditioner(self) -> Tensor:
        """(B, C + c, L_past, h, w): past latents, then the inputs beside them in their order."""
        num_frames = self.z_past.shape[2]
        inputs = [value.expand(-1, -1, num_frames, -1, -1) for value in self.past.values()]
        return torch.cat([self.z_past, *inputs], dim=1)

    def for_denoiser(self, num_frames: int) -> Tensor | None:
        """(B, c, L_future, h, w), the inputs beside the noisy latents in their order; or None."""
        inputs = [value.expand(-1, -1, num_frames, -1, -1) for value in self.future.values()]
        return torch.cat(inputs, dim=1) if inputs else None

    def cut(self, windows: Iterable[LatentWindow]) -> "Known":
        """Of one domain, its parts in the windows, one after the other along B."""
        windows = list(windows)

        def parts(value: Tensor) -> Tensor:
            return torch.cat([window.cut(value) for window in windows])

        return Known(
            parts(self.z_past),
            {name: parts(value) for name, value in self.past.items()},
            {name: parts(value) for name, value in self.future.items()},
        )


@torch.no_grad()
def known_at_issue_time(observed: Observed, grid: LatentGrid, inputs: Mapping[str, Input]) -> Known:
    """Past latents and inputs of the domains that were observed.

    Raises AssertionError for an input of another shape than it promises, and InputError for one
    that is not finite.
    """
    z_past = grid.encode(observed.domain(observed.past)[:, None])
    made: dict[str, dict[str, Tensor]] = {"past": {}, "future": {}}
    for name, make in inputs.items():
        value = make(observed, grid).float()
        num_frames = grid.num_past if make.beside == "past" else grid.num_future
        batch, channels, _, height, width = z_past.shape
        expected = (batch, make.num_channels(channels), height, width)
        got = (*value.shape[:2], *value.shape[3:])
        assert got == expected and value.shape[2] in (1, num_frames), (name, value.shape, expected)
        has_content = type(value) is Tensor  # not where memory is counted
        if has_content and not torch.isfinite(value).all():
            made_of = f", made of {', '.join(make.fields)}," if make.fields else ""
            raise InputError(
                f"the input {name}{made_of} has values that are not finite, expected numbers: "
                "replace NaN in it, which means not known, as everywhere beyond the domain"
            )
        made[make.beside][name] = value
    return Known(z_past, **made)


def fields_of(inputs: Mapping[str, Input], frames: FrameConfig) -> dict[str, FieldNeed]:
    """What the inputs need besides rain, by the names of fields.

    Raises InputError where two of them need the same field as something else.
    """
    num_frames = {"none": 0, "past": frames.past_frames, "all": frames.num_frames}
    needs: dict[str, FieldNeed] = {}
    for given in inputs.values():
        for name, kind in given.fields.items():
            need = FieldNeed(kind.num_channels, num_frames[kind.times], kind.vector)
            if needs.setdefault(name, need) != need:
                raise InputError(
                    f"two inputs need the field {name}, one as {needs[name]}, one as {need}: "
                    "expected the same of both"
                )
    return needs


def margin_of(inputs: Mapping[str, Input]) -> int:
    """Pixels around a training crop that the inputs look at."""
    return max((given.margin for given in inputs.values()), default=0)


def num_channels_beside(beside: str, inputs: Mapping[str, Input], latent_channels: int) -> int:
    """Channels of all inputs beside the "past" or the "future" latents."""
    return sum(
        given.num_channels(latent_channels) for given in inputs.values() if given.beside == beside
    )
