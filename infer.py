"""Forecast rain: the last four radar images in, an ensemble of the next twenty out.

  python infer.py                                        bundled model, synthetic rain
  python infer.py --plot forecast.gif                    and a picture (needs matplotlib)
  python infer.py --model runs/ldcast --data event.npz   a trained model, real rain
  python infer.py --model runs/ldcast --calibrated       corrected by the model's calibration

Writes forecast.npz (see --out) and prints where it will rain, and how much.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldcast import LDCast
from ldcast.calibration import read_calibration
from ldcast.config import LEAD_MINUTES
from ldcast.data.archive import RainEvent, parse_time, past_frames, read_event
from ldcast.device import AMP_MODES
from ldcast.errors import InputError, run_script
from ldcast.nowcaster import SAMPLERS
from ldcast.products.forecast import Forecast, check_grid, check_output_path, write_forecast
from ldcast.products.plot import PLOT_SUFFIXES, plot_forecast, require_matplotlib
from ldcast.products.summary import summarise


def parse_flags(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", default="bundled", metavar="DIR", help="model or run folder (%(default)s)")
    add("--data", metavar="PATH[@START/END]", help="event file; default: synthetic rain of --seed")
    add("--issue-time", metavar="TIME", help="UTC, as 2016-07-11T22:00; default: the newest")
    add("--members", type=int, default=8, help="ensemble members (%(default)s)")
    add("--sampler", choices=SAMPLERS, help="default: the model's")
    add("--steps", type=int, help="sampling steps, exactly as many; default: the model's")
    add("--seed", type=int, default=0, help="of the members' noise (%(default)s)")
    add(
        "--calibrated",
        action="store_true",
        help="correct rain rates and add exceedance probabilities to the file, as python -m "
        "ldcast.calibrate fitted them",
    )
    add("--out", type=Path, default=Path("forecast.npz"), help="forecast file (%(default)s)")
    add("--plot", type=Path, metavar="PATH", help="also draw a .png or an animated .gif")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--amp", choices=AMP_MODES, default="auto", help="auto: bf16 on CUDA, off on a CPU")
    return parser.parse_args(argv)


def check_flags(flags: argparse.Namespace) -> None:
    """Finds out before the work starts what would fail after it."""
    if flags.seed < 0:
        raise InputError(f"got --seed {flags.seed}, expected 0 or more")
    check_output_path(flags.out, (".npz",))
    if flags.data and flags.out.resolve() == Path(flags.data).resolve():
        raise InputError(f"--out {flags.out} is the file of --data: name another")
    if flags.plot:
        check_output_path(flags.plot, PLOT_SUFFIXES)
        require_matplotlib()


def read_past(flags: argparse.Namespace) -> tuple[RainEvent, np.ndarray, np.datetime64]:
    """The event, its past frames (4, H, W) mm/h, and the time of the newest of them."""
    event = read_event(flags.data or f"synthetic:{flags.seed}")
    check_grid(event.grid)
    issue_time = parse_time(flags.issue_time) if flags.issue_time else None
    return event, *past_frames(event, issue_time)


def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(argv)
    check_flags(flags)
    event, past, issue_time = read_past(flags)
    model = LDCast.from_pretrained(flags.model, flags.device)
    if flags.sampler:
        model.use_sampler(flags.sampler)
    sampler = model.config.diffusion.sampler
    num_sampling_steps = flags.steps or model.config.diffusion.num_sampling_steps
    calibration = read_calibration(flags.model) if flags.calibrated else None
    if calibration:
        calibration.check_sampling(sampler, num_sampling_steps)

    with tqdm(desc="forecast", unit="call", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        rain = model.predict(
            past, flags.members, flags.seed, flags.steps, amp=flags.amp, progress=show
        )

    forecast = Forecast(
        rain_rate=rain,
        issue_time=issue_time,
        lead_minutes=np.array(LEAD_MINUTES),
        grid=event.grid,
        seed=flags.seed,
        model=flags.model,
        sampler=sampler,
        num_sampling_steps=num_sampling_steps,
    )
    chances = None
    if calibration:
        rain = calibration.calibrate_members(rain)
        forecast = replace(
            forecast,
            rain_rate=rain,
            exceedance_probability=calibration.exceedance_probability(rain),
            exceedance_threshold=np.array(calibration.thresholds),
        )
        chances = dict(zip(calibration.thresholds, forecast.exceedance_probability, strict=True))
    write_forecast(forecast, flags.out)
    view = (past, rain, issue_time, forecast.lead_minutes, event.grid)
    print(summarise(*view, chances))
    if calibration and calibration.warning:
        print(f"Calibration: {calibration.warning}")
    print(f"wrote {flags.out}")
    if flags.plot:
        plot_forecast(*view, flags.plot, chances)
        print(f"wrote {flags.plot}")


if __name__ == "__main__":
    sys.exit(run_script(main))
