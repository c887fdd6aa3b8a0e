"""Training examples of stage 2 as latents."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from ldcast.data.crops import Example, TrainingCrops, valid_share
from ldcast.inputs.known import Input, Known, LatentGrid, Observed, known_at_issue_time
from ldcast.machine.stopping import Stopped, StopRequest
from ldcast.motion import fill_gaps
from ldcast.nowcast.ldcast import LDCast
from ldcast.nowcast.linear_forecast import worth_of_rain
from ldcast.rain import WET_THRESHOLD, drop_impossible_rain, is_wet, valid_mask
from ldcast.training.ema import EMA

NUM_MEASURED = 400  # crops that a linear forecast and its error's noise are fitted to


class LatentExample(NamedTuple):
    """What an update needs of B examples.

    z_past: (B, C, L_past, h, w). past, future: inputs by name, see `Known`.
    z_future: (B, C, L_future, h, w), clean latents to denoise towards.
    weight: (B, 1, L_future, h, w), share of each cell's pixels that have data.
    num_wet, num_valid, num_impossible: (B,) pixels with 0.1 mm/h or more, with data, and with rain
        that cannot be, of all frames of the crop itself.
    draw_weight: (B,) by which the loss of each is multiplied, see `Window`.
    rain_rate: (B, 1, T, H, W) mm/h, NaN = no data, of the future frames; T = 0 for a loss that has
        no use for it.
    """

    z_past: Tensor
    past: dict[str, Tensor]
    future: dict[str, Tensor]
    z_future: Tensor
    weight: Tensor
    num_wet: Tensor
    num_valid: Tensor
    num_impossible: Tensor
    draw_weight: Tensor
    rain_rate: Tensor

    @property
    def known(self) -> Known:
        return Known(self.z_past, self.past, self.future)

    @property
    def wet_share(self) -> Tensor:
        """Share of the pixels with data that are wet, of the whole batch; a scalar."""
        return self.num_wet.sum() / self.num_valid.sum().clamp(min=1)

    def without_rain(self) -> "LatentExample":
        return self._replace(rain_rate=_no_frames(self.rain_rate))

    def to(self, device: torch.device) -> "LatentExample":
        """On a device, float32."""
        return from_names({name: t.to(device).float() for name, t in self.by_name().items()})

    def by_name(self) -> dict[str, Tensor]:
        """All tensors in one table; an input's name is "past.NAME" or "future.NAME"."""
        table = self._asdict()
        for beside in ("past", "future"):
            table |= {f"{beside}.{name}": value for name, value in table.pop(beside).items()}
        return table


@torch.no_grad()
def encode_example(
    example: Example,
    grid: LatentGrid,
    inputs: Mapping[str, Input],
    margin: int = 0,
    max_rain_rate: float = float("inf"),
    device: torch.device | str = "cpu",
    keep_rain: bool = False,
) -> LatentExample:
    """Latents and inputs of a batch of rain (B, 1, T, H, W) mm/h, past and future frames.

    grid: encodes with the frozen autoencoder. margin: pixels on all sides of the example that only
    the inputs look at. max_rain_rate: mm/h; pixels above it count as no data.
    device: of what comes out, and of the work. Gaps of the past are filled as for a forecast.
    keep_rain: of the future, as `rain_rate`.
    """
    example = example.to(device)
    rain_rate, _ = drop_impossible_rain(example.rain_rate, max_rain_rate)
    frames = grid.frames
    past, future = rain_rate.split([frames.past_frames, frames.future_frames], dim=2)
    filled = [fill_gaps(of_one, frames.minutes_per_frame).rain_rate for of_one in past[:, 0]]
    past = torch.stack(filled)  # (B, T, H, W)
    observed = Observed(past, example.fields, margin)
    known = known_at_issue_time(observed, grid, inputs)
    rain_rate, future = observed.domain(rain_rate), observed.domain(future)
    is_valid = valid_mask(rain_rate)
    num_given = valid_mask(observed.domain(example.rain_rate)).flatten(1).sum(1)
    return LatentExample(
        known.z_past,
        dict(known.past),
        dict(known.future),
        grid.encode(future),
        valid_share(future, grid.compression),
        is_wet(rain_rate, WET_THRESHOLD).flatten(1).sum(1).float(),
        is_valid.flatten(1).sum(1).float(),
        (num_given - is_valid.flatten(1).sum(1)).float(),
        example.draw_weight.expand(len(rain_rate)),
        future if keep_rain else _no_frames(future),
    )


@torch.no_grad()
def measure_from_crops(
    model: LDCast,
    crops: TrainingCrops,
    encode: Callable[[Example], LatentExample],
    ema: EMA,
    stop: StopRequest,
    say: Callable[[str], None],
) -> None:
    """Fits the linear forecast and the noise of its error, where there are any that were not yet,
    and starts the averages again.

    They are fitted to `NUM_MEASURED` crops, the same ones each time; not if it is stopped.
    say: takes a line for the user.
    """
    nowcaster = model.latent_nowcaster
    parts = nowcaster.linear_forecast, nowcaster.error_noise
    left = [part for part in parts if part is not None and not part.is_measured]
    if not left:
        return
    say(f"fitting the linear forecast to {NUM_MEASURED} crops, which takes minutes")
    examples = (default_collate([crops[0, 0, index]]) for index in stop.until(range(NUM_MEASURED)))
    tables = [encode(example).without_rain().by_name() for example in examples]
    if len(tables) < NUM_MEASURED:
        return
    names = list(tables[0])
    latents = from_names({name: torch.cat([t.pop(name) for t in tables]) for name in names})
    known, z_future, weight = latents.known, latents.z_future, latents.weight
    if nowcaster.linear_forecast in left:
        first = default_collate([crops[0, 0, 0]])
        dry = encode(first._replace(rain_rate=torch.zeros_like(first.rain_rate))).z_future
        carried = latents.future["carried_frames"][:, : model.autoencoder.latent_channels]
        worth = torch.cat([_worth_of_cells(model, z) for z in carried.split(1)])
        try:
            nowcaster.measure_linear_forecast(
                known, z_future, weight, worth, dry.mean((0, 2, 3, 4)), stop.interrupting
            )
        except Stopped:
            return
    if nowcaster.error_noise in left:
        nowcaster.measure_error_noise(known, z_future, weight)
    ema.start_again()


def _no_frames(rain_rate: Tensor) -> Tensor:
    """(B, 1, 0, H, W), of its own: a slice would keep all of the rain in memory."""
    return rain_rate[:, :, :0].clone()


def _worth_of_cells(model: LDCast, z: Tensor) -> Tensor:
    """`worth_of_rain` of the latents z (B, C, L, h, w), the mean of each cell (B, 1, L, h, w)."""
    worth = worth_of_rain(model.autoencoder.decode(z), model.rain_scale)
    return nn.functional.avg_pool3d(worth, model.autoencoder.compression)


def from_names(table: Mapping[str, Tensor]) -> LatentExample:
    """The example of `LatentExample.by_name`."""
    parts = {name: value for name, value in table.items() if "." not in name}
    for beside in ("past", "future"):
        start = f"{beside}."
        parts[beside] = {
            name.removeprefix(start): value
            for name, value in table.items()
            if name.startswith(start)
        }
    return LatentExample(**parts)
