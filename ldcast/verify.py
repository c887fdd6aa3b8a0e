"""Scores forecasts of one or more models against the radar, beside baselines.

    python -m ldcast.verify --model runs/ldcast --data PATH@START/END [PATH ...] --out DIR

Cases are crops drawn from the events (see ldcast/verification/cases.py); every forecaster gets the
same ones and is scored on the same pixels: those with data in the radar image of that time and in
the newest past one. Baselines: persistence, dry everywhere and, where pysteps is installed,
extrapolation and the STEPS ensemble with as many members. Ensembles of different sizes, one member
included, may be compared by fair_crps_* alone.

Forecasts of another system are scored on the same cases from its files:
    python -m ldcast.verify --data PATH --write-cases cases      # the past frames, to start from
    python -m ldcast.verify --data PATH --forecasts NAME=DIR --out DIR
with the same --data, --cases, --crop-size, --seed and model. A file, .npz, .nc or .zarr, is of the
case that its entry `case` names, or else its own name; docs/verification.md shows how to write it.

Forecasts are kept in DIR/cache (--cache): an interrupted run resumes, and a further model
takes the time of its own forecasts only. Writes DIR/scores.json, the same as figures, with three
cases to look at, in DIR/scores.html, a page to explore in a browser, without a network, and, where
matplotlib is installed, in DIR/scores.png. Of scores.json:
    lead_minutes, num_members, crop_size, seed, num_events, cases, wavelength_px, notes
    forecasts: of other systems, name -> directory, num_files, num_members
    models: name -> score -> one number, histogram or curve per lead time; null where unknown
    interior: the same for pixels whose air came from inside the crop, by the case's mean motion
    interior_share: of the scored pixels, by lead time; a case of unknown motion has none
    derived: of --accumulate and --areas, name -> of (pixels or areas), unit, thresholds,
        lead_minutes (ends of windows), and models and skill as above: "sum_60min", "area_mean",
        "area_sum_60min"
    made_of: the code's version, the command, and the SHA-256 of each model's weights
    intervals: 90 % bootstrap intervals of the scores, over events (files)
    skill, interior_skill: name -> reference -> fair CRPS, pooled over the cases and of the median
        case, by lead time and, under "mean", of all leads (inside: of those with a share of 20 %)
    seconds_per_forecast: median of what forecasts took when they were made, by an earlier run too
Names of scores are explained in the modules of ldcast/verification that compute them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldcast.data.archive.events import read_events
from ldcast.data.event import RainEvent, notes_of
from ldcast.data.fields import check_fields, notes_of_unused
from ldcast.data.readers.reading_flags import reading_of
from ldcast.errors import InputError, run_script
from ldcast.frames import FrameConfig, nearest_leads
from ldcast.machine.code_version import code_version, command_line
from ldcast.machine.device import choose_device
from ldcast.machine.files import write_text
from ldcast.machine.folders import check_writable
from ldcast.machine.heap import keep_freed_memory
from ldcast.nowcast.model_folder import fingerprint
from ldcast.products.accumulate import check_windows
from ldcast.products.area_files import read_areas
from ldcast.products.areas import AreasOnGrid
from ldcast.products.plot import require_matplotlib
from ldcast.products.statistics import check_thresholds
from ldcast.products.summary import SHOWN_LEADS, readable_time
from ldcast.rain import valid_mask
from ldcast.verification.arguments import case_parser, frames_of, parse, split_of
from ldcast.verification.case_files import write_cases
from ldcast.verification.cases import Case, case_grid, draw_cases
from ldcast.verification.derived import WHOLE, Derived
from ldcast.verification.figures import ShownCase, draw_page
from ldcast.verification.forecasters import (
    BASELINES,
    REFERENCE,
    ForecastCache,
    Forecaster,
    model_forecaster,
    simple_baselines,
)
from ldcast.verification.others import find_forecasts, parse_sources
from ldcast.verification.pysteps_baselines import pysteps_baselines
from ldcast.verification.report import (
    describe_cases,
    describe_scores,
    scores_table,
    warn_of_blocks,
    warn_of_few_events,
)
from ldcast.verification.scores_page import save_scores_page
from ldcast.verification.scoring import (
    BLOCK_SIZES,
    Record,
    needed_fields,
    read_case,
    score_cases,
)
from ldcast.verification.seen import warn_of_training
from ldcast.verification.skill import MIN_REFERENCE, mean_of_leads, skill

SCORES_NAME = "scores.json"
PAGE_NAME = "scores.html"
FIGURES_NAME = "scores.png"


def make_forecasters(
    flags: argparse.Namespace, device: torch.device
) -> tuple[list[Forecaster], list[str]]:
    """The baselines, then every `--model`, loaded; and a line on what is left out."""
    forecasters, notes = simple_baselines(), []
    try:
        forecasters += pysteps_baselines(flags.members)
    except ImportError as error:
        notes.append(f"skipped: {error}")
    for folder in flags.model:
        forecasters.append(
            model_forecaster(folder, flags.members, flags.steps, device, flags.amp, flags.sampler)
        )
        notes += [f"{folder}: {note}" for note in forecasters[-1].notes]
    return forecasters, notes


def check_names(folders: list[str]) -> None:
    """Raises InputError for models with equal names in the tables, or a baseline's name."""
    for index, folder in enumerate(folders):
        if folder in BASELINES:
            raise InputError(f"--model {folder}: a baseline has this name; write ./{folder}")
        if folder in folders[:index]:
            raise InputError(f"--model {folder} is given twice: name each folder once")


def choose_shown(cases: list[Case], record: Record, reference: Record) -> dict[str, Case]:
    """Three cases to look at: the wettest, the median one, and where the model did worst.

    record: of the model. Worst is the lowest skill per pixel, mean of all lead times, where the
    reference is above `MIN_REFERENCE`. Fewer where they coincide.
    """
    order = sorted(range(len(cases)), key=lambda index: cases[index].wet_share)
    chosen = {"wettest": order[-1], "median": order[len(order) // 2]}
    scores, references = mean_of_leads(
        *(
            np.stack([case["fair_crps_1px"] for case in of.whole.cases])
            for of in (record, reference)
        ),
        np.array(True),
    )
    skills = np.where(references > MIN_REFERENCE, skill(scores, references), np.nan)
    if not np.isnan(skills).all():
        chosen["worst"] = int(np.nanargmin(skills))
    titles: dict[int, list[str]] = {}
    for title, index in chosen.items():
        titles.setdefault(index, []).append(title)
    return {" and ".join(of_case): cases[index] for index, of_case in titles.items()}


def show_case(
    title: str,
    case: Case,
    forecasters: list[Forecaster],
    events: list[RainEvent],
    crop_size: int,
    device: torch.device,
    cache: ForecastCache,
) -> ShownCase:
    """Radar and forecasts of one case at the lead times nearest to `SHOWN_LEADS`.

    The forecasts come out of the cache.
    """
    names = needed_fields(forecasters)
    past, observation, fields = read_case(events, case, crop_size, device, names)
    lead_minutes = case.frames.lead_minutes
    leads = nearest_leads(lead_minutes, SHOWN_LEADS)
    observation = observation[leads]
    forecasts = {}
    for forecaster in forecasters:
        members = cache(forecaster, past, case, fields).members[:, leads]
        members = members.where(valid_mask(observation), torch.nan)
        forecasts[forecaster.name] = members.cpu().numpy()
    return ShownCase(
        title=f"{title}: {case.event}, {readable_time(case.issue_time)} UTC",
        lead_minutes=tuple(lead_minutes[index] for index in leads),
        observation=observation.cpu().numpy(),
        forecasts=forecasts,
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = case_parser("verify", __doc__)
    add = parser.add_argument
    add("--model", nargs="+", action="extend", metavar="DIR", help="model folders (bundled)")
    add("--cache", type=Path, metavar="DIR", help="where forecasts are kept; default: OUT/cache")
    add("--out", type=Path, metavar="DIR", help="where the scores go")
    add(
        "--forecasts",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=DIR",
        help="files of other systems, one for each case",
    )
    add(
        "--write-cases",
        type=Path,
        metavar="DIR",
        help="write the past frames of each case, for other systems, and score nothing",
    )
    add("--areas", type=Path, metavar="FILE", help="score means over areas of a file, too")
    flags = parse(parser, argv)
    flags.model = flags.model or ["bundled"]
    for name in ("forecasts", "areas", "accumulate"):
        if flags.write_cases and getattr(flags, name):
            raise InputError(
                f"got --write-cases, which scores nothing, and --{name}: leave one out"
            )
    if not flags.out and not flags.write_cases:
        raise InputError("got no --out, expected --out DIR, where the scores go")
    return flags


def write_past_frames(flags: argparse.Namespace) -> None:
    """Draws the cases as for scoring, and writes what a forecast of each starts from."""
    frames = frames_of(flags.model, flags.crop_size)
    how = reading_of(flags, frames.minutes_per_frame)
    check_writable(flags.write_cases, "--write-cases")
    events = read_events(flags.data, how, frames.num_frames, split_of(flags))
    notes: list[str] = []
    cases = draw_cases(events, frames, flags.cases, flags.crop_size, flags.seed, notes.append)
    write_cases(events, cases, flags.crop_size, flags.write_cases)
    print(describe_cases(events, cases, flags.crop_size), *notes, *notes_of(events), sep="\n")
    first, last = frames.lead_minutes[0], frames.lead_minutes[-1]
    print(
        f"wrote the past frames of {len(cases)} cases to {flags.write_cases}; to be forecast: "
        f"{frames.future_frames} frames, {frames.minutes_per_frame} minutes apart, +{first} to "
        f"+{last} min"
    )


def derived_of(flags: argparse.Namespace, frames: FrameConfig) -> Derived:
    """What is scored besides rain rates. Raises InputError for what cannot be."""
    check_windows(flags.accumulate, frames.lead_minutes)
    check_thresholds(flags.amount_thresholds, "amounts above 0 mm", "5 10 20")
    areas = AreasOnGrid(read_areas(flags.areas)) if flags.areas else None
    return Derived(tuple(flags.accumulate), tuple(flags.amount_thresholds), areas)


def check_areas(derived: Derived, grids: list[dict[str, Any]], flags: argparse.Namespace) -> None:
    """Raises InputError where areas are to be scored and none lies wholly in a case."""
    if derived.areas is None:
        return
    shape = flags.crop_size, flags.crop_size
    if not any((derived.areas(grid, shape).inside >= WHOLE).any() for grid in grids):
        raise InputError(
            f"--areas {flags.areas}: none lies wholly in one of the {len(grids)} cases of "
            f"{flags.crop_size} pixels, expected some: give smaller areas, a larger --crop-size or "
            "more --cases"
        )


def main(argv: list[str] | None = None) -> None:
    flags = parse_arguments(argv)
    if flags.write_cases:
        write_past_frames(flags)
        return
    check_writable(flags.out)
    cache = ForecastCache(flags.cache or flags.out / "cache")
    check_writable(cache.folder, "--cache")
    check_names(flags.model)
    sources = parse_sources(flags.forecasts, flags.model)
    frames = frames_of(flags.model, flags.crop_size)
    how = reading_of(flags, frames.minutes_per_frame)
    derived = derived_of(flags, frames)
    device = choose_device(flags.device)
    forecasters, notes = make_forecasters(flags, device)
    events = read_events(flags.data, how, frames.num_frames, split_of(flags))
    cases = draw_cases(events, frames, flags.cases, flags.crop_size, flags.seed, notes.append)
    fields = needed_fields(forecasters)
    check_fields(events, fields)
    check_areas(derived, [case_grid(events, case, flags.crop_size) for case in cases], flags)
    others = find_forecasts(sources, events, cases, flags.crop_size)
    forecasters += [of.forecaster() for of in others]
    notes += notes_of(events) + notes_of_unused(events, fields)
    notes += warn_of_few_events(len({case.source for case in cases}))
    notes += warn_of_blocks(flags.crop_size, max(BLOCK_SIZES))
    notes += [line for folder in flags.model for line in warn_of_training(folder, events)]
    notes += [line for of in others for line in of.notes(flags.members)]
    print(describe_cases(events, cases, flags.crop_size), *notes, sep="\n")

    records, motions = score_cases(
        forecasters, events, cases, flags.crop_size, device, cache, derived
    )
    settings = {
        "num_members": flags.members,
        "crop_size": flags.crop_size,
        "seed": flags.seed,
        "forecasts": {of.name: of.description() for of in others},
        "made_of": {
            "code_version": code_version(),
            "command": command_line(argv, "-m ldcast.verify"),
            "weights_sha256": {folder: fingerprint(folder) for folder in flags.model},
        },
    }
    table = scores_table(records, cases, motions, settings, notes, derived.describe(frames))
    for name in (PAGE_NAME, FIGURES_NAME):  # of an earlier run
        (flags.out / name).unlink(missing_ok=True)
    write_text(flags.out / SCORES_NAME, json.dumps(table, indent=2, allow_nan=False) + "\n")
    print("", describe_scores(table), "", f"wrote {flags.out / SCORES_NAME}", sep="\n")
    print(f"forecasts are kept in {cache.folder}, {cache.size() / 1e6:.0f} MB in all")

    shown = [
        show_case(title, case, forecasters, events, flags.crop_size, device, cache)
        for title, case in choose_shown(cases, records[flags.model[0]], records[REFERENCE]).items()
    ]
    save_scores_page(table, shown, flags.out / PAGE_NAME)
    print(f"wrote {flags.out / PAGE_NAME}")
    try:
        require_matplotlib()
    except InputError as error:
        print(f"skipped: {FIGURES_NAME}: {error}")
        return
    draw_page(table, shown, flags.out / FIGURES_NAME)
    print(f"wrote {flags.out / FIGURES_NAME}")


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(run_script(main))
