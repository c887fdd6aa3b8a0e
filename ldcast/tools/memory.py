"""How much memory and time a forecast of one member takes, by the size of the domain.

  python -m ldcast.tools.memory                                      networks of the bundled sizes
  python -m ldcast.tools.memory --preset paper --sizes 256 512 768 --fit 1024 1440x1856

Each size is forecast once, in a process of its own, but with few denoiser calls, whatever the
sampler makes (PLMS 21 for 20 steps, one_call one), since each takes the same memory; fresh weights,
random rain. The peak is that of the whole process on a CPU (which includes about 0.3 GiB of
PyTorch), and that of what PyTorch allocated on a GPU. The time is that of the last call: a first
one is slower. Sizes of --fit are not forecast: a straight line through the measured peaks, in
pixels, says what they would take.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ldcast.config import AUTOENCODER_PRESETS, DIFFUSION_PRESETS
from ldcast.diffusion import Denoiser, NoiseSchedule, predict_at
from ldcast.errors import InputError, check_count, run_script
from ldcast.machine.device import AMP_HELP, AMP_MODES, choose_device
from ldcast.machine.heap import keep_freed_memory
from ldcast.nowcast.ldcast import LDCast, build
from ldcast.tools import GIB

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


def preset_model(preset: str) -> LDCast:
    """The networks of a preset with fresh weights."""
    first_stage, second_stage = AUTOENCODER_PRESETS[preset], DIFFUSION_PRESETS[preset]
    return build(second_stage.model_config(first_stage)).eval()


@dataclass(frozen=True)
class FewCalls:
    """In a sampler's place: calls the denoiser a few times, while it holds earlier predictions.

    num_held: of them; PLMS holds 3.
    """

    schedule: NoiseSchedule
    num_denoiser_calls: int
    num_held: int = 3

    def __call__(
        self, denoiser: Denoiser, z: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        history = [z.clone() for _ in range(self.num_held)]
        for _ in range(self.num_denoiser_calls):
            history = [predict_at(denoiser, z, 0).noise, *history][: self.num_held]
        return history[0]


class Stopwatch:
    """Seconds of each time that a network is run; it waits for a GPU."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.device, self.seconds = device, []
        network.register_forward_pre_hook(lambda *_: self._begin())
        network.register_forward_hook(lambda *_: self._end())

    def _begin(self) -> None:
        self.begun = self._now()

    def _end(self) -> None:
        self.seconds.append(self._now() - self.begun)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def measure(flags: argparse.Namespace, height: int, width: int) -> tuple[float, float, float]:
    """Peak in GiB, seconds of a denoiser call and seconds of all else, of one member."""
    device = choose_device(flags.device)
    model = preset_model(flags.preset).to(device)
    nowcaster = model.latent_nowcaster
    sampler = nowcaster.inference_sampler
    num_held = 1 if sampler.num_denoiser_calls == 1 else 3
    nowcaster.inference_sampler = FewCalls(sampler.schedule, flags.calls, num_held)
    stopwatch = Stopwatch(nowcaster.denoiser, device)
    past = 10 ** np.random.default_rng(0).normal(
        size=(model.frames.past_frames, height, width)
    ).astype(np.float32)

    start = time.perf_counter()
    model.predict(past, 1, amp=flags.amp, window=flags.window, lead_minutes=flags.lead_minutes)
    total = time.perf_counter() - start
    lead_minutes = flags.lead_minutes or model.frames.lead_minutes[-1]
    num_calls = flags.calls * -(-lead_minutes // model.frames.lead_minutes[-1])
    call = sum(stopwatch.seconds[-(len(stopwatch.seconds) // num_calls) :])  # of all windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    return peak / GIB, call, total - sum(stopwatch.seconds)


def measure_apart(argv: list[str], size: str) -> tuple[float, float, float]:
    """`measure` in a process of its own, since a process's peak never falls again."""
    command = [sys.executable, "-m", "ldcast.tools.memory", *argv, "--alone", size]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"the forecast of {size} pixels ended with status {done.returncode}, expected 0: see "
            "above, or, if it was killed (-9), leave that size to --fit"
        )
    peak, call, rest = map(float, done.stdout.split())
    return peak, call, rest


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of "1440x1856" or "256"."""
    height, _, width = text.partition("x")
    if not height.isdigit() or not (width or height).isdigit():
        raise InputError(f"got size '{text}', expected pixels such as 256 or 1440x1856")
    return int(height), int(width or height)


def parse_flags(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=DIFFUSION_PRESETS, default="small", help="(%(default)s)")
    add("--sizes", nargs="+", default=["256", "512", "768"], metavar="PX", help="or HEIGHTxWIDTH")
    add("--fit", nargs="+", default=[], metavar="PX", help="sizes to be reckoned, not forecast")
    add("--calls", type=int, default=2, help="of the denoiser (%(default)s); the last is timed")
    add("--window", type=int, help="as for infer.py")
    add("--lead-minutes", type=int, help="as for infer.py")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--amp", choices=AMP_MODES, default="auto", help=AMP_HELP)
    add("--alone", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    flags = parse_flags(argv)
    check_count("calls", flags.calls)
    if flags.alone:
        print(*measure(flags, *parse_size(flags.alone)))
        return
    sizes = {text: parse_size(text) for text in [*flags.sizes, *flags.fit]}
    if flags.fit and len({np.prod(sizes[text]) for text in flags.sizes}) < 2:
        raise InputError("got sizes of one number of pixels, expected two or more for --fit")
    print("| domain, px | peak, GiB | denoiser call, s | all else, s |")
    print("|---|---:|---:|---:|")
    pixels, peaks = [], []
    for text in flags.sizes:
        peak, call, rest = measure_apart(argv, text)
        print(f"| {text} | {peak:.2f} | {call:.2f} | {rest:.1f} |", flush=True)
        pixels.append(np.prod(sizes[text]))
        peaks.append(peak)
    if flags.fit:
        slope, offset = np.polyfit(pixels, peaks, 1)
        for text in flags.fit:
            print(f"| {text} | {offset + slope * np.prod(sizes[text]):.2f}, fitted | | |")
        print(f"\npeak = {offset:.2f} GiB + {1e6 * slope:.2f} GiB per million pixels")


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(run_script(main))
