"""Fits a model's calibration on forecasts of past rain, and reports whether it helps.

    python -m ldcast.calibrate --model runs/ldcast --data PATH@START/END [PATH ...]
    python infer.py --model runs/ldcast --calibrated

Use rain that the model was not trained on. What the calibration is: see ldcast/calibration/maps.py.
It is fitted on all the data and written to DIR/calibration.json. The table says what such a fit
does for rain that it has not seen: each event of --data is judged by a calibration that was fitted
on the other ones. So give at least two files, of different days; all spans of a file are one event.
--accumulate fits sums over windows of time, too, for infer.py --calibrated --accumulate.

Cases are drawn and forecast as `python -m ldcast.verify` does; with its --cache (DIR/cache of its
--out), members, cases, crop size and seed, the forecasts that it made are used again.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ldcast.calibration import CALIBRATION_NAME, write_calibration
from ldcast.calibration.fit import CaseReader, ScoredCase, fit
from ldcast.calibration.judge import describe, draw_reliability, judge, record
from ldcast.calibration.maps import check_not_bundled, model_fingerprint
from ldcast.data.archive.events import read_events
from ldcast.data.event import RainEvent, notes_of
from ldcast.data.fields import check_fields, notes_of_unused
from ldcast.data.readers.reading_flags import reading_of
from ldcast.errors import InputError, run_script
from ldcast.frames import FrameConfig
from ldcast.machine.device import choose_device
from ldcast.machine.folders import check_output_path, check_writable
from ldcast.machine.heap import keep_freed_memory
from ldcast.motion import motion_of_known
from ldcast.nowcast.model_folder import locate
from ldcast.products.accumulate import check_windows, window_sums, windows_of
from ldcast.products.plot import require_matplotlib
from ldcast.products.statistics import check_thresholds
from ldcast.rain import valid_mask
from ldcast.verification.arguments import case_parser, frames_of, parse, split_of
from ldcast.verification.cases import Case, draw_cases
from ldcast.verification.forecasters import ForecastCache, Forecaster, model_forecaster
from ldcast.verification.scoring import read_case
from ldcast.verification.seen import warn_of_training


def case_reader(
    forecaster: Forecaster,
    cache: ForecastCache,
    events: list[RainEvent],
    cases: list[Case],
    crop_size: int,
    device: torch.device,
    minutes: int = 0,
) -> CaseReader:
    """Reads cases; forecasts are made at the first reading and come from the cache later.

    Scored are the pixels with data in the radar image of the time and in the newest past frame.
    minutes: for sums over windows of that length, as infer.py makes them; 0: for rain rates.
    """

    def read(what: str) -> Iterator[ScoredCase]:
        for case in tqdm(cases, desc=what, disable=None):
            past, observation, fields = read_case(
                events, case, crop_size, device, forecaster.fields
            )
            members = cache(forecaster, past, case, fields).members
            if minutes:
                observation = sums_of(observation[None], past, case.frames, minutes)[0]
                members = sums_of(members, past, case.frames, minutes)
            members = members.where(valid_mask(observation), torch.nan)
            yield ScoredCase(case.source, members.cpu().numpy(), observation.cpu().numpy())

    return read


def sums_of(members: Tensor, past: Tensor, frames: FrameConfig, minutes: int) -> Tensor:
    """What falls in windows of that length, (E, N, H, W) mm, as `accumulate` has it of a forecast.

    members: (E, T, H, W) mm/h. past: (P, H, W) mm/h, its gaps filled.
    """
    step = frames.minutes_per_frame
    motion = motion_of_known(past, step)
    return window_sums(past, members, motion, step, windows_of(frame_times(frames), minutes))


def ends_of(frames: FrameConfig, minutes: int) -> tuple[int, ...]:
    """When windows of that length end, minutes after the issue time."""
    times = frame_times(frames)
    return tuple(int(times[last]) for _, last in windows_of(times, minutes))


def frame_times(frames: FrameConfig) -> np.ndarray:
    """(P + T,) of past and future frames, minutes after the issue time."""
    ages = frames.minutes_per_frame * np.arange(1 - frames.past_frames, 1)
    return np.concatenate([ages, frames.lead_minutes])


def name_files(cases: list[Case]) -> dict[str, str]:
    """The files that cases are from, in the order of --data, and what tables call each.

    That is the event's name, or the file's where the cases are of several spans.
    """
    spans: dict[str, set[str]] = {}
    for case in sorted(cases, key=lambda case: case.window.event):
        spans.setdefault(case.source, set()).add(case.event)
    return {
        source: events.pop() if len(events) == 1 else events.pop().partition("@")[0]
        for source, events in spans.items()
    }


def say_lone(num_cases: int, num_files: int) -> str:
    """Why the fit cannot be judged, where all cases are from one file."""
    if num_files == 1:
        return "all cases are of one event: nothing to judge the fit by; give --data of other days"
    return (
        f"all {num_cases} cases fell into 1 of {num_files} events: nothing to judge the fit by; "
        "give more --data or --cases"
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = case_parser("calibrate", __doc__)
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="model folder, to write into")
    default_cache = Path("runs/calibrate/cache")
    add("--cache", type=Path, default=default_cache, help="keeps forecasts (%(default)s)")
    add("--plot", type=Path, metavar="PATH.png", help="also draw reliability before and after")
    return parse(parser, argv)


def main(argv: list[str] | None = None) -> None:
    # ---- checks, before anything is made
    flags = parse_arguments(argv)
    frames = frames_of([flags.model], flags.crop_size)
    how = reading_of(flags, frames.minutes_per_frame)
    check_windows(flags.accumulate, frames.lead_minutes)
    check_thresholds(flags.amount_thresholds, "amounts above 0 mm", "5 10 20")
    if flags.plot:
        check_output_path(flags.plot, (".png",))
        require_matplotlib()
    check_not_bundled(flags.model)
    device = choose_device(flags.device)
    forecaster = model_forecaster(
        flags.model, flags.members, flags.steps, device, flags.amp, flags.sampler
    )
    path = locate(flags.model) / CALIBRATION_NAME
    check_output_path(path, (".json",))
    events = read_events(flags.data, how, frames.num_frames, split_of(flags))
    cases = draw_cases(events, frames, flags.cases, flags.crop_size, flags.seed, print)
    names = name_files(cases)
    lone = ""
    if len(names) == 1:
        lone = say_lone(len(cases), len({event.source for event in events}))
        if flags.plot:
            raise InputError(f"--plot draws what the judgement finds, but {lone}")
    check_writable(flags.cache, "--cache")
    check_fields(events, forecaster.fields)
    lines = [*notes_of(events), *notes_of_unused(events, forecaster.fields)]
    for line in [*lines, *warn_of_training(flags.model, events), *forecaster.notes]:
        print(line)

    # ---- fit and judge
    cache = ForecastCache(flags.cache)
    source = forecaster, cache, events, cases, flags.crop_size, device
    read_cases = case_reader(*source)
    about = {
        "fitted_on": {
            "events": sorted({case.event for case in cases}),
            "num_cases": len(cases),
            "crop_size": flags.crop_size,
            "seed": flags.seed,
            "num_members": flags.members,
        },
        "model": model_fingerprint(flags.model),
        "sampler": forecaster.identity["settings"]["diffusion"]["sampler"],
        "num_sampling_steps": forecaster.identity["num_sampling_steps"],
    }
    calibrations = fit(read_cases, list(names), flags.members, frames.lead_minutes, about)
    calibration = calibrations[None]
    if lone:
        print(lone)
    else:
        judgements = judge(read_cases, names, calibrations, flags.members)
        print(describe(judgements), end="\n\n")
        calibration = replace(calibration, judged=record(judgements))
    sums = []
    for minutes in flags.accumulate:
        read_sums, ends = case_reader(*source, minutes), ends_of(frames, minutes)
        of_sums = about | {"minutes": minutes}
        fits = fit(
            read_sums, list(names), flags.members, ends, of_sums, tuple(flags.amount_thresholds)
        )
        sums.append(fits[None])
        if not lone:
            found = judge(read_sums, names, fits, flags.members)
            print(f"Sums over {minutes} minutes", describe(found, "mm"), sep="\n", end="\n\n")
            sums[-1] = replace(sums[-1], judged=record(found))
    calibration = replace(calibration, sums=tuple(sums))
    write_calibration(flags.model, calibration)
    print(f"wrote {path}")
    if flags.plot:
        draw_reliability(judgements, flags.plot)
        print(f"wrote {flags.plot}")


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(run_script(main))
