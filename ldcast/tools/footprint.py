"""How much memory a training needs, by counting instead of training.

  python -m ldcast.tools.footprint --preset paper
  python -m ldcast.tools.footprint --stage autoencoder --crop-sizes 128 --batch-sizes 16 64

One forward and backward pass runs on tensors that have sizes but no content, and what would be
allocated at any moment is added up; to that come the optimizer's moments and the averaged weights.
Not counted: the CUDA context, the libraries' workspaces, what the allocator leaves unused; of the
loss crps the term in the networks' units, and of stage 1 that in mm/h, each a few times the rain.
Batches are those of one process and micro-batch.
"""

import argparse
import itertools
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldcast.config import (
    AUTOENCODER_PRESETS,
    DIFFUSION_PRESETS,
    AutoencoderTraining,
    DiffusionTraining,
)
from ldcast.diffusion import DDPMLoss, Denoiser, NoiseSchedule, predict_at
from ldcast.diffusion.schedule import SCHEDULES
from ldcast.errors import InputError, run_script
from ldcast.inputs.known import Input, LatentGrid, Observed, known_at_issue_time
from ldcast.machine.device import AMP_MODES, amp_dtype, autocast
from ldcast.models import autoencoder_loss
from ldcast.models.registry import autoencoder_class, build_autoencoder
from ldcast.nowcast.latent_nowcaster import build_latent_nowcaster
from ldcast.nowcast.ldcast import LDCast
from ldcast.tools import GIB
from ldcast.training.activations import checkpoint_activations
from ldcast.training.ensemble_loss import EnsembleLoss

CPU = torch.device("cpu")
# Bytes per parameter of both AdamW moments. In 8 bits each block of 256 has a float32 scale
# (Dettmers et al. 2022, section 2); bitsandbytes and torchao have such optimizers.
MOMENT_BYTES = {32: 2 * 4.0, 8: 2 * (1 + 4 / 256)}
CARDS_GIB = (16, 24, 48, 80)
CARD_SHARE = 0.9  # of a card's memory that is taken as free for what is counted here


class AllocationCounter(TorchDispatchMode):
    """Counts the bytes of all storages that live within its context, and their largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes, self.peak = 0, 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.num_bytes += storage.nbytes()
            self.peak = max(self.peak, self.num_bytes)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.num_bytes -= self._sizes.pop(key)


@dataclass(frozen=True)
class Footprint:
    """Bytes that one process needs.

    passes: peak of weights, gradients and activations. parameters: trained numbers, float32.
    """

    passes: int
    parameters: int

    def total(self, moment_bits: int) -> float:
        """With averaged weights and moments of AdamW in 32 or 8 bits each."""
        return self.passes + self.parameters * (4 + MOMENT_BYTES[moment_bits])


class _Blank:
    """An input of the same shape without content: what makes it may look at values."""

    def __init__(self, given: Input) -> None:
        self.beside, self.fields, self.margin = given.beside, {}, 0
        self.num_channels = given.num_channels

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        batch, _, height, width = observed.past.shape
        num_frames = grid.num_past if self.beside == "past" else grid.num_future
        cells = height // grid.compression, width // grid.compression
        channels = self.num_channels(grid.encode(observed.past[:, None]).shape[1])
        return torch.zeros(batch, channels, num_frames, *cells)


@dataclass(frozen=True)
class _OneCall:
    """In the place of `OneCallSampler`, which looks at the values of its schedule."""

    schedule: NoiseSchedule

    def __call__(
        self, denoiser: Denoiser, z: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        return predict_at(denoiser, z, 0).z


def diffusion_pass(settings: DiffusionTraining, autoencoder: AutoencoderTraining) -> tuple:
    """Networks to train in stage 2, and a function (batch size, crop size) -> loss."""
    with unset_fake_temporarily():  # these look at values
        schedule = SCHEDULES[settings.diffusion.schedule]()
        config = settings.model_config(autoencoder)
    encoder = build_autoencoder(config.autoencoder).requires_grad_(False)
    loss_of_noise = DDPMLoss(schedule, settings.loss_norm, settings.diffusion.prediction)
    samplers = loss_of_noise, _OneCall(schedule)
    nowcaster = build_latent_nowcaster(config, encoder, samplers=samplers)
    loss_of_forecasts = None
    if settings.loss == "crps":
        model = LDCast(encoder, nowcaster, config.rain, frames=config.frames)
        settings_of_loss = replace(settings.crps, transformed_weight=0.0)
        loss_of_forecasts = EnsembleLoss(model, settings_of_loss)

    def encode(rain_rate: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return encoder.encode(rain_rate)[0]

    grid = LatentGrid(encode, encoder.compression, config.frames)
    blanks = {name: _Blank(given) for name, given in nowcaster.inputs.items()}

    def loss(batch_size: int, crop_size: int) -> Tensor:
        size = (crop_size, crop_size)
        observed = Observed(torch.zeros(batch_size, config.frames.past_frames, *size))
        known = known_at_issue_time(observed, grid, blanks)
        rain_rate = torch.zeros(batch_size, 1, config.frames.future_frames, *size)
        z_future = encode(rain_rate)
        weight = torch.ones_like(z_future[:, :1])
        if loss_of_forecasts is not None:
            return loss_of_forecasts(known, rain_rate, z_future, weight).mean()
        return nowcaster(known, z_future, None, weight).mean()

    return nn.ModuleList([nowcaster.conditioner, nowcaster.denoiser]), loss


def autoencoder_pass(settings: AutoencoderTraining) -> tuple:
    """The network to train in stage 1, and a function (batch size, crop size) -> loss."""
    autoencoder = build_autoencoder(settings.autoencoder)

    def loss(batch_size: int, crop_size: int) -> Tensor:
        num_frames = settings.frames.num_frames
        rain_norm = torch.zeros(batch_size, 1, num_frames, crop_size, crop_size)
        z_mean, z_log_var = autoencoder.encode(rain_norm)
        reconstruction = autoencoder.decode(z_mean + torch.exp(0.5 * z_log_var))
        return autoencoder_loss(rain_norm, reconstruction, z_mean, z_log_var).mean()

    return autoencoder, loss


def count(
    make_pass: Callable[[], tuple],
    batch_size: int,
    crop_size: int,
    amp: str,
    use_activation_checkpointing: bool,
) -> Footprint:
    """The footprint of one update. make_pass: gives the networks to train and their loss."""
    with FakeTensorMode(allow_non_fake_inputs=True), AllocationCounter() as counter:
        networks, loss = make_pass()
        if use_activation_checkpointing:
            checkpoint_activations(networks)
        with autocast(CPU, amp_dtype(amp, CPU)):
            value = loss(batch_size, crop_size)
        value.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        return Footprint(counter.peak, sum(p.numel() for p in networks.parameters()))


def fitting_card(num_bytes: float) -> str:
    """The smallest of the usual cards that has so much memory to spare."""
    fits = (card for card in CARDS_GIB if num_bytes <= CARD_SHARE * card * GIB)
    card = next(fits, None)
    return f"{card} GB" if card else "none"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--stage", choices=("autoencoder", "diffusion"), default="diffusion", help="(%(default)s)")
    add("--preset", choices=DIFFUSION_PRESETS, default="paper", help="(%(default)s)")
    add("--crop-sizes", type=int, nargs="+", default=[128, 256], metavar="PX")
    add("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8], metavar="B")
    add("--amp", choices=AMP_MODES[1:], nargs="+", default=["off", "bf16"], metavar="MODE")
    flags = parser.parse_args(argv)
    first_stage, second_stage = AUTOENCODER_PRESETS[flags.preset], DIFFUSION_PRESETS[flags.preset]
    multiple = autoencoder_class(first_stage.autoencoder.kind).compression
    if flags.stage == "diffusion":
        multiple = second_stage.denoiser.rain_multiple(multiple)
    if min(flags.crop_sizes) < multiple or any(size % multiple for size in flags.crop_sizes):
        raise InputError(
            f"got crops of {flags.crop_sizes} pixels, expected multiples of {multiple}"
        )
    if min(flags.batch_sizes) < 1:
        raise InputError(f"got batches of {flags.batch_sizes}, expected 1 or more examples")

    def make_pass() -> tuple:
        if flags.stage == "autoencoder":
            return autoencoder_pass(first_stage)
        return diffusion_pass(second_stage, first_stage)

    print("GiB with AdamW in 32 bits, in 8 bits, and the smallest usual card for each:\n")
    print("| crop, px | batch | amp | activations | 32 bits | card | 8 bits | card |")
    print("|---:|---:|---|---|---:|---|---:|---|")
    cases = itertools.product(flags.crop_sizes, flags.batch_sizes, flags.amp, (False, True))
    for crop_size, batch_size, amp, is_checkpointed in cases:
        footprint = count(make_pass, batch_size, crop_size, amp, is_checkpointed)
        cells = [str(crop_size), str(batch_size), amp, "again" if is_checkpointed else "kept"]
        for bits in MOMENT_BYTES:
            total = footprint.total(bits)
            cells += [f"{total / GIB:.1f}", fitting_card(total)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
