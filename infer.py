"""Forecast rain: the last four radar images in, an ensemble of the next twenty out.

  python infer.py                                        bundled model, synthetic rain
  python infer.py --plot forecast.gif                    and a picture (needs matplotlib)
  python infer.py --model runs/ldcast --data event.npz   a trained model, real rain
  python infer.py --model runs/ldcast --calibrated       corrected by the model's calibration
  python infer.py --data event.nc --out forecast.nc --probabilities 0.1 1 5 10
  python infer.py --watch incoming --out forecasts       a forecast for each new radar image
  torchrun --nproc_per_node=4 infer.py --members 64      members shared among four GPUs

Writes forecast.npz (see --out) and prints where it will rain, and how much.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ldcast import LDCast
from ldcast.calibration import Calibration, read_calibration
from ldcast.config import MINUTES_PER_FRAME
from ldcast.data.archive import RainEvent, format_time, parse_time, past_frames, read_event
from ldcast.data.services import READERS, read_frames
from ldcast.device import choose_device
from ldcast.errors import InputError, run_script
from ldcast.folders import clear_unfinished, lock_folder
from ldcast.forecast_arguments import check_flags, parse_flags
from ldcast.motion import forecast_quality
from ldcast.processes import Processes, join_processes, process_device
from ldcast.products.borders import read_borders
from ldcast.products.files import write_forecast
from ldcast.products.forecast import Forecast, check_grid
from ldcast.products.plot import plot_forecast
from ldcast.products.statistics import Statistics, ensemble_statistics
from ldcast.products.summary import summarise
from ldcast.request import count_frames
from ldcast.stopping import Stopped, StopRequest
from ldcast.watch import FrameFeed, forecast_path, surplus_forecasts

POLL_SECONDS = 2
PATIENCE = timedelta(hours=6)  # of a process for the members of another


def read_past(flags: argparse.Namespace) -> RainEvent:
    """The four frames to start from, (4, H, W) float32 mm/h."""
    if flags.reader and flags.data:
        path = Path(flags.data)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        event = read_frames(files, READERS[flags.reader])
    else:
        event = read_event(flags.data or f"synthetic:{flags.seed}")
    check_grid(event.grid)
    past, issue_time = past_frames(
        event, parse_time(flags.issue_time) if flags.issue_time else None
    )
    return replace(event, rain_rate=past, time=np.array([issue_time]))


def make_forecast(
    flags: argparse.Namespace,
    model: LDCast,
    calibration: Calibration | None,
    past: RainEvent,
    processes: Processes,
    progress: Callable[[int, int], None] | None,
) -> Forecast | None:
    """The forecast that the flags ask for; None in all processes but the first."""
    members = processes.block(flags.members)
    with processes.failing_together():
        rain = model.predict(
            torch.from_numpy(past.rain_rate),
            len(members),
            flags.seed,
            flags.steps,
            amp=flags.amp,
            progress=progress,
            lead_minutes=flags.lead_minutes,
            window=flags.window,
            first_member=members.start,
        )
    rain = processes.collect(rain, flags.members)
    if rain is None:
        return None
    rain, statistics = rain.numpy(), Statistics()
    if calibration:
        rain = calibration.calibrate_members(rain)
        statistics = Statistics(
            exceedance_threshold=np.array(calibration.thresholds),
            exceedance_probability=calibration.exceedance_probability(rain),
        )
    own = ensemble_statistics(rain, flags.probabilities, flags.quantiles, flags.means)
    num_frames = count_frames(flags.lead_minutes)
    return Forecast(
        rain_rate=rain,
        issue_time=past.time[-1],
        lead_minutes=MINUTES_PER_FRAME * np.arange(1, num_frames + 1),
        grid=past.grid,
        seed=flags.seed,
        model=flags.model,
        sampler=model.config.diffusion.sampler,
        num_sampling_steps=flags.steps or model.config.diffusion.num_sampling_steps,
        quality=forecast_quality(torch.from_numpy(past.rain_rate), num_frames).numpy(),
        statistics=replace(statistics, **own.entries()),
        is_calibrated=calibration is not None,
    )


def draw(flags: argparse.Namespace, past: RainEvent, forecast: Forecast) -> None:
    """The picture of --plot."""
    plot_forecast(
        past.rain_rate,
        forecast.rain_rate,
        forecast.issue_time,
        forecast.lead_minutes,
        forecast.grid,
        flags.plot,
        calibrated_chances(flags, forecast),
        borders=find_borders(flags, past),
        quality=forecast.quality,
        **({"thresholds": flags.probabilities} if flags.probabilities else {}),
    )


def find_borders(flags: argparse.Namespace, past: RainEvent) -> list[np.ndarray]:
    """The lines of --borders that cross the domain."""
    if not flags.borders:
        return []
    return read_borders(flags.borders, past.grid, past.rain_rate.shape[1:])


def calibrated_chances(
    flags: argparse.Namespace, forecast: Forecast
) -> dict[float, np.ndarray] | None:
    """Threshold in mm/h -> (T, H, W); None where chances are shares of the members."""
    if not flags.calibrated:
        return None
    thresholds = forecast.statistics.exceedance_threshold.tolist()
    return dict(zip(thresholds, forecast.statistics.exceedance_probability, strict=True))


def forecast_once(
    flags: argparse.Namespace,
    model: LDCast,
    calibration: Calibration | None,
    processes: Processes,
) -> None:
    """From --data to --out, a summary, and --plot."""
    with processes.failing_together():
        past = read_past(flags)
        find_borders(flags, past)  # bad ones are found now
    with tqdm(desc="forecast", unit="call", disable=None if processes.is_main else True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        forecast = make_forecast(flags, model, calibration, past, processes, show)
    if forecast is None:
        return
    write_forecast(forecast, flags.out, flags.format)
    view = (past.rain_rate, forecast.rain_rate, forecast.issue_time, forecast.lead_minutes)
    print(summarise(*view, past.grid, calibrated_chances(flags, forecast)))
    if calibration and calibration.warning:
        print(f"Calibration: {calibration.warning}")
    print(f"wrote {flags.out}")
    if flags.plot:
        draw(flags, past, forecast)
        print(f"wrote {flags.plot}")


def watch(
    flags: argparse.Namespace,
    model: LDCast,
    calibration: Calibration | None,
    processes: Processes,
) -> None:
    """A forecast for each issue time whose frames come in to --watch, until SIGTERM or Ctrl-C."""
    read = READERS[flags.reader] if flags.reader else read_event
    feed = FrameFeed(flags.watch, read, flags.keep, lambda line: print(line, flush=True))
    with lock_folder(flags.out), StopRequest() as stop:
        clear_unfinished(flags.out)
        print(f"watching {flags.watch}, forecasts go to {flags.out}", flush=True)
        while not stop.is_set:
            feed.look()
            paths = {t: forecast_path(flags.out, t, flags.suffix) for t in feed.due()}
            issue_time = next((t for t, path in paths.items() if not path.exists()), None)
            if issue_time is None:
                time.sleep(POLL_SECONDS)
                continue
            start = time.perf_counter()
            try:
                past = feed.event(issue_time)
                progress = stop.interrupting
                forecast = make_forecast(flags, model, calibration, past, processes, progress)
                write_forecast(forecast, paths[issue_time], flags.format)
                if flags.plot and issue_time == max(paths):  # the newest that there is
                    draw(flags, past, forecast)
            except InputError as error:
                feed.drop(issue_time)
                print(f"no forecast from {format_time(issue_time)}: {error}", flush=True)
                continue
            except Stopped:
                break
            for surplus in surplus_forecasts(flags.out, flags.suffix, flags.keep):
                shutil.rmtree(surplus) if surplus.is_dir() else surplus.unlink()
            print(
                f"{format_time(issue_time)}: {flags.members} members in "
                f"{time.perf_counter() - start:.0f} s, {paths[issue_time]}",
                flush=True,
            )
    print(f"stopped by {stop.name}", flush=True)


def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(__doc__, argv)
    check_flags(flags)
    device = process_device(choose_device(flags.device))
    with join_processes(device, PATIENCE) as processes:
        if flags.watch and processes.num > 1:
            raise InputError("--watch is for one process: start it without torchrun")
        if 0 < flags.members < processes.num:
            raise InputError(
                f"got {processes.num} processes for {flags.members} members, expected no more "
                "processes than --members"
            )
        model = LDCast.from_pretrained(flags.model, device)
        if flags.sampler:
            model.use_sampler(flags.sampler)
        calibration = None
        if flags.calibrated:
            settings = model.config.diffusion
            calibration = read_calibration(flags.model)
            calibration.check_sampling(settings.sampler, flags.steps or settings.num_sampling_steps)
            calibration = calibration.until(flags.lead_minutes)
        work = watch if flags.watch else forecast_once
        work(flags, model, calibration, processes)


if __name__ == "__main__":
    sys.exit(run_script(main))
