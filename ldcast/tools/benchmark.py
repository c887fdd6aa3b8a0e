"""How near a forecast's networks come to what the machine can do.

  python -m ldcast.tools.benchmark                                   the bundled model, 8 members
  python -m ldcast.tools.benchmark --preset paper --members 1 --amp bf16

Counts the floating-point operations of each part of a forecast (products, convolutions, Fourier
transforms; pointwise work counts as none) and divides them by its seconds; beside them, measured in
the same run, the best rates of a matrix product and of a 3-D convolution on this machine. The
second table says where the time of a denoiser call goes, by kind of operation. Each part is run
once before it is timed; of `--repeats` times the shortest counts.
"""

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from ldcast.config import AUTOENCODER_PRESETS, DIFFUSION_PRESETS
from ldcast.diffusion import predict_at
from ldcast.errors import check_count, run_script
from ldcast.inputs.known import LatentGrid, Observed, known_at_issue_time
from ldcast.machine.device import AMP_HELP, AMP_MODES, autocast, choose_device
from ldcast.machine.heap import keep_freed_memory
from ldcast.nowcast.ldcast import LDCast, build
from ldcast.rain import from_model_units, to_model_units

GIGA = 1e9
PRODUCT_SIZES = (1024, 2048)
CONVOLUTION_WIDTHS = (32, 64, 128, 256)  # channels, of kernels of 3 x 3 x 3
CONVOLUTION_CELLS = (5, 64, 64)  # latent frames, rows and columns, as of 256 pixels
# Kinds of operations, by how their names begin; the first that fits.
KINDS = {
    "convolutions": ("conv", "mkldnn_conv", "cudnn_conv", "miopen_conv", "slow_conv", "_conv"),
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkl", "einsum", "matmul", "linear"),
    "Fourier transforms": ("_fft", "fft"),
    "copies": ("copy", "cat", "clone", "contiguous", "empty", "resize", "_to_copy"),
}
OTHERS = "pointwise and all else"


class Part(NamedTuple):
    """A part of a forecast. run: does it once. times: how often a forecast does it."""

    name: str
    run: Callable[[], Any]
    times: int


def seconds_of(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The shortest time of some runs, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def operations_of(run: Callable[[], Any]) -> float:
    """Floating-point operations of one run."""
    aten = torch.ops.aten
    mapping = {
        aten._fft_c2c: _complex_transform,
        aten._fft_r2c: _real_transform,
        aten._fft_c2r: _real_transform,
        aten.mkldnn_convolution: _convolution_operations,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def _complex_transform(shape: list, dims: list, *_: Any, **__: Any) -> int:
    """5 n log2 n for a transform of n values (Cooley and Tukey 1965)."""
    length = math.prod(shape[dim] for dim in dims)
    return int(5 * math.prod(shape) * math.log2(max(length, 2)))


def _real_transform(shape: list, dims: list, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Half of that, of as many real values; forwards or backwards."""
    whole = max(shape, out_shape, key=math.prod)  # the other one is half a spectrum
    return _complex_transform(whole, dims) // 2


def _convolution_operations(
    x: list, weight: list, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return conv_flop_count(x, weight, out_shape)


def machine_rates(device: torch.device, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """The best rates in operations per second, of a matrix product and a 3-D convolution."""
    products, convolutions = [], []
    for size in PRODUCT_SIZES:
        a = torch.randn(size, size, device=device, dtype=dtype)
        products.append(2 * size**3 / seconds_of(lambda a=a: a @ a, device, repeats))
    for width in CONVOLUTION_WIDTHS:
        layer = torch.nn.Conv3d(width, width, 3, padding=1, device=device, dtype=dtype)
        layer = layer.to(memory_format=torch.channels_last_3d)
        x = torch.randn(2, width, *CONVOLUTION_CELLS, device=device, dtype=dtype)
        x = x.to(memory_format=torch.channels_last_3d)
        operations = 2 * 27 * width**2 * 2 * math.prod(CONVOLUTION_CELLS)
        seconds = seconds_of(lambda layer=layer, x=x: layer(x), device, repeats)
        convolutions.append(operations / seconds)
    return {"matrix product": max(products), "3-D convolution": max(convolutions)}


def parts_of(model: LDCast, size: int, members: int) -> Iterator[Part]:
    """The parts of a forecast of size x size pixels of random rain."""
    nowcaster, frames = model.latent_nowcaster, model.frames
    generator = torch.Generator().manual_seed(0)
    past = 10 ** torch.randn(1, frames.past_frames, size, size, generator=generator)
    observed = Observed(past.to(model.device))

    def encode(rain_rate: Tensor) -> Tensor:
        return model.autoencoder.encode(to_model_units(rain_rate, model.rain_scale))[0]

    grid = LatentGrid(encode, model.autoencoder.compression, frames)
    known = nowcaster.complete(known_at_issue_time(observed, grid, nowcaster.inputs))
    yield Part(
        "past and inputs, encoded",
        lambda: nowcaster.complete(known_at_issue_time(observed, grid, nowcaster.inputs)),
        1,
    )
    yield Part("conditioner", lambda: nowcaster.conditioner(known.for_conditioner()), 1)
    denoiser = nowcaster.denoiser_given(known.in_order(nowcaster.inputs))
    shape = (members, *known.z_past.shape[1:2], nowcaster.conditioner.num_future_latent_frames)
    z = torch.randn(*shape, *known.z_past.shape[3:], generator=generator).to(model.device)
    calls = nowcaster.inference_sampler.num_denoiser_calls
    yield Part(f"denoiser, {members} members", lambda: predict_at(denoiser, z, 500), calls)

    def decode() -> Tensor:
        return from_model_units(model.autoencoder.decode(z[:1]), model.rain_scale)

    yield Part("decoder, a member", decode, members)


def kinds_of_time(run: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Share of the time of one run by kind of operation, largest first."""
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        run()
    totals: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((k for k, names in KINDS.items() if name.startswith(names)), OTHERS)
        is_gpu = device.type == "cuda"
        totals[kind] += event.self_device_time_total if is_gpu else event.self_cpu_time_total
    whole = sum(totals.values())
    ranked = sorted(totals.items(), key=lambda item: -item[1])
    return {kind: total / whole for kind, total in ranked}


def model_of(flags: argparse.Namespace) -> LDCast:
    """The model of a folder, or the networks of a preset with fresh weights."""
    if flags.preset is None:
        return LDCast.from_pretrained(flags.model, flags.device)
    first_stage, second_stage = AUTOENCODER_PRESETS[flags.preset], DIFFUSION_PRESETS[flags.preset]
    model = build(second_stage.model_config(first_stage))
    return model.to(choose_device(flags.device)).eval()


def parse_flags(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default="bundled", metavar="DIR", help="(%(default)s)")
    which.add_argument("--preset", choices=DIFFUSION_PRESETS, help="fresh weights of these sizes")
    add("--size", type=int, default=256, metavar="PX", help="of the domain (%(default)s)")
    add("--members", type=int, default=8, metavar="N", help="in a batch (%(default)s)")
    add("--repeats", type=int, default=3, metavar="N", help="of each timing (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--amp", choices=AMP_MODES, default="auto", help=AMP_HELP)
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(argv)
    for name in ("members", "repeats", "size"):
        check_count(name, getattr(flags, name))
    model = model_of(flags)
    device, multiple = model.device, model.rain_multiple
    size = -(-flags.size // multiple) * multiple
    dtype = model.precision(flags.amp)
    rates = machine_rates(device, dtype or torch.float32, flags.repeats)
    best = rates["3-D convolution"]
    said = ", ".join(f"{name} {rate / GIGA:.0f}" for name, rate in rates.items())
    print(
        f"{device}, {torch.get_num_threads()} threads, {dtype or torch.float32}, GFLOP/s: {said}\n"
    )
    print("| part | times | seconds each | GFLOP each | GFLOP/s | of the convolution's |")
    print("|---|---:|---:|---:|---:|---:|")
    kinds: dict[str, float] = {}
    with autocast(device, dtype):
        for part in parts_of(model, size, flags.members):
            seconds = seconds_of(part.run, device, flags.repeats)
            operations = operations_of(part.run)
            rate = operations / seconds
            print(
                f"| {part.name} | {part.times} | {seconds:.3g} | {operations / GIGA:.3g} | "
                f"{rate / GIGA:.0f} | {rate / best:.0%} |",
                flush=True,
            )
            if part.name.startswith("denoiser"):
                kinds = kinds_of_time(part.run, device)
    print("\n| of a denoiser call | share of its time |\n|---|---:|")
    for kind, share in kinds.items():
        print(f"| {kind} | {share:.0%} |")


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(run_script(main))
