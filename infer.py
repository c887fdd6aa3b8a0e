"""Forecast rain: the last radar images in, an ensemble of the next ones out.

  python infer.py                                        bundled model, synthetic rain
  python infer.py --plot forecast.gif                    and a picture (needs matplotlib)
  python infer.py --model runs/ldcast --data event.npz   a trained model, real rain
  python infer.py --model runs/ldcast --calibrated       corrected by the model's calibration
  python infer.py --data event.nc --out forecast.nc --probabilities 0.1 1 5 10
  python infer.py --watch incoming --out forecasts       a forecast for each new radar image
  torchrun --nproc_per_node=4 infer.py --members 64      members shared among four GPUs

Writes forecast.npz (see --out) and prints where it will rain, and how much. How many images, and
how far apart, is the model's: of the bundled one 4 in and 20 out, each 5 minutes.
"""

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch
from tqdm import tqdm

from ldcast import LDCast
from ldcast.calibration import Calibration, read_calibration
from ldcast.data.cadence import times_before_rounding
from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent, notes_of
from ldcast.data.fields import notes_of_unused
from ldcast.data.readers.reading_flags import reader_with, reading_of
from ldcast.data.readers.services import READERS
from ldcast.data.readers.specs import read_event
from ldcast.diffusion import warn_of_few_steps
from ldcast.errors import InputError, run_script
from ldcast.forecasting.arguments import check_flags, parse_flags
from ldcast.forecasting.feed import (
    FrameFeed,
    clear_leftovers,
    forecast_path,
    next_time,
    surplus_forecasts,
)
from ldcast.forecasting.reading import forecast_fields, past_of
from ldcast.machine.device import amp_dtype, choose_device
from ldcast.machine.folders import lock_folder
from ldcast.machine.half_precision import check_half_precision
from ldcast.machine.processes import Processes, join_processes, process_device
from ldcast.machine.stopping import Stopped, StopRequest
from ldcast.motion import forecast_quality
from ldcast.nowcast.request import check_window, count_frames
from ldcast.products.borders import read_borders
from ldcast.products.files import write_forecast
from ldcast.products.forecast import Forecast, check_grid
from ldcast.products.plot import plot_forecast
from ldcast.products.statistics import Statistics, ensemble_statistics
from ldcast.products.summary import describe_gaps, summarise

POLL_SECONDS = 2
PATIENCE = timedelta(hours=6)  # of a process for the members of another


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
    frames, settings = flags.frames, model.config.diffusion
    num_frames = count_frames(flags.lead_minutes, frames)
    fields = forecast_fields(model, past, num_frames)
    with processes.failing_together():
        rain = model.predict(
            torch.from_numpy(past.rain_rate),
            len(members),
            flags.seed,
            amp=flags.amp,
            progress=progress,
            lead_minutes=flags.lead_minutes,
            window=flags.window,
            first_member=members.start,
            fields=fields,
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
    return Forecast(
        rain_rate=rain,
        issue_time=past.time[-1],
        lead_minutes=frames.leads(num_frames),
        grid=past.grid,
        seed=flags.seed,
        model=flags.model,
        sampler=settings.sampler,
        num_sampling_steps=settings.num_sampling_steps,
        quality=forecast_quality(
            torch.from_numpy(past.rain_rate), num_frames, frames.minutes_per_frame
        ).numpy(),
        statistics=replace(statistics, **own.entries()),
        is_calibrated=calibration is not None,
        is_second_hand=frames.is_continued(num_frames),
        past_time_as_read=times_before_rounding(past),
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
        is_second_hand=forecast.is_second_hand,
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


def load(flags: argparse.Namespace, device: torch.device) -> tuple[LDCast, Calibration | None]:
    """The model as the flags want it, and its calibration where it is asked for."""
    model = LDCast.from_pretrained(flags.model, device)
    model.use_sampler(flags.sampler, flags.steps)
    if flags.window is not None:
        check_window(flags.window, model.rain_multiple)
    if not flags.calibrated:
        return model, None
    settings = model.config.diffusion
    calibration = read_calibration(flags.model)
    calibration.check_sampling(settings.sampler, settings.num_sampling_steps)
    return model, calibration.until(flags.lead_minutes)


def check_precision(flags: argparse.Namespace, model: LDCast, processes: Processes) -> None:
    """Raises InputError where what --amp asks for computes garbage; says where it is slow."""
    device, networks = processes.device, model.networks().values()
    dtype = amp_dtype(flags.amp, device)
    for note in check_half_precision(networks, device, dtype, with_gradients=False):
        if processes.is_main:
            log(f"note: {note}")


def forecast_once(flags: argparse.Namespace, processes: Processes) -> None:
    """From --data to --out, a summary, and --plot."""
    with processes.failing_together():
        past = past_of(flags)
        find_borders(flags, past)  # bad ones are found now
        model, calibration = load(flags, processes.device)
        num_frames = count_frames(flags.lead_minutes, flags.frames)
        forecast_fields(model, past, num_frames)  # missing ones are found now
        check_precision(flags, model, processes)
    with tqdm(desc="forecast", unit="call", disable=None if processes.is_main else True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        forecast = make_forecast(flags, model, calibration, past, processes, show)
    if forecast is None:
        return
    write_forecast(forecast, flags.out, flags.format)
    for note in [*notes_of([past]), *notes_of_unused([past], model.fields)]:
        print(f"note: {note}")
    for warning in warn_of_few_steps(forecast.num_sampling_steps):
        print(warning)
    view = (past.rain_rate, forecast.rain_rate, forecast.issue_time, forecast.lead_minutes)
    print(summarise(*view, past.grid, calibrated_chances(flags, forecast)))
    if calibration and calibration.warning:
        print(f"Calibration: {calibration.warning}")
    print(f"wrote {flags.out}")
    if flags.plot:
        draw(flags, past, forecast)
        print(f"wrote {flags.plot}")


def watch(flags: argparse.Namespace, processes: Processes) -> None:
    """A forecast for each issue time whose frames come in to --watch, until SIGTERM or Ctrl-C."""
    with lock_folder(flags.out), StopRequest() as stop, contextlib.suppress(Stopped):
        clear_leftovers(flags.out)
        model, calibration = load(flags, processes.device)
        check_precision(flags, model, processes)
        how = reading_of(flags, flags.frames.minutes_per_frame)
        read = reader_with(READERS.get(flags.reader, read_event), how)
        feed = FrameFeed(flags.watch, read, flags.frames, flags.keep, log, model.fields)
        log(f"watching {flags.watch}, forecasts go to {flags.out}")
        for line in warn_of_few_steps(model.config.diffusion.num_sampling_steps):
            log(line)
        newest = np.datetime64(0, "s")  # that a picture was drawn of
        said: set[str] = set()  # notes
        while True:
            stop.interrupting()
            more_files_wait = feed.look()
            issue_time = next_time(feed.due(), flags.out, flags.suffix, flags.keep)
            if issue_time is None:
                time.sleep(0 if more_files_wait else POLL_SECONDS)
                continue
            start = time.perf_counter()
            try:
                past = feed.event(issue_time)
                check_grid(past.grid)
                for note in [note for note in past.notes if note not in said]:
                    said.add(note)
                    log(f"note: {note}")
                forecast = make_forecast(
                    flags, model, calibration, past, processes, stop.interrupting
                )
            except InputError as error:  # what it would be made of, not where it would be written
                feed.drop(issue_time)
                log(f"no forecast from {format_time(issue_time)}: {error}")
                continue
            path = forecast_path(flags.out, issue_time, flags.suffix)
            write_forecast(forecast, path, flags.format)
            for surplus in surplus_forecasts(flags.out, flags.suffix, flags.keep):
                shutil.rmtree(surplus) if surplus.is_dir() else surplus.unlink()
            seconds = time.perf_counter() - start
            log(f"{format_time(issue_time)}: {flags.members} members in {seconds:.0f} s, {path}")
            for line in describe_gaps(past.rain_rate, flags.frames.minutes_per_frame):
                log(line)
            if flags.plot and issue_time > newest:
                newest = issue_time
                try:
                    draw(flags, past, forecast)
                except (InputError, OSError) as error:
                    log(f"no picture of {format_time(issue_time)}: {error}")
    log(f"stopped by {stop.name}")


def log(line: str) -> None:
    """Prints a line, whatever is in it: a file may have a name that the terminal cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


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
        work = watch if flags.watch else forecast_once
        work(flags, processes)


if __name__ == "__main__":
    sys.exit(run_script(main))
