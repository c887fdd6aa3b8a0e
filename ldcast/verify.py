"""Scores forecasts of one or more models against the radar, beside two that cost nothing.

    python -m ldcast.verify --model runs/ldcast --data PATH@START/END [PATH ...] --out DIR

Cases are crops drawn from the events (see ldcast/verification/cases.py); every model forecasts the
same ones and is scored on the same pixels: those with data in the radar image of that time and in
the newest past one. Each score is the mean over these pixels of all cases.

Writes DIR/scores.json and, where matplotlib is installed, DIR/crps.png:
    lead_minutes, num_members, cases
    models: name -> score -> one number per lead time (null where nothing could be scored)
        crps_1px, fair_crps_1px: CRPS per pixel, mm/h; crps_8px, crps_64px: of means over blocks of
        8 x 8 and 64 x 64 pixels. "persistence" and "dry" have one member: absolute errors.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ldcast.config import FUTURE_FRAMES, MINUTES_PER_FRAME, PAST_FRAMES
from ldcast.data.archive import RainEvent, format_time, read_event
from ldcast.data.crops import CROP_STEP, read_window
from ldcast.device import AMP_MODES, choose_device
from ldcast.errors import InputError, run_script
from ldcast.files import open_atomically, write_text
from ldcast.nowcaster import LDCast
from ldcast.rain import valid_mask
from ldcast.training.run import check_writable
from ldcast.verification.baselines import dry, persistence
from ldcast.verification.cases import CASE_FRAMES, Case, draw_cases
from ldcast.verification.crps import block_mean, crps_ensemble, fair_crps

SCORES_NAME = "scores.json"
FIGURE_NAME = "crps.png"
REFERENCE = "persistence"
LEAD_MINUTES = [MINUTES_PER_FRAME * frame for frame in range(1, FUTURE_FRAMES + 1)]
SHOWN_LEADS = (5, 15, 30, 60, 100)

# past (4, H, W) mm/h and a seed -> members (E, T, H, W) mm/h on the same device
Forecaster = Callable[[Tensor, int], Tensor]


class Score(Protocol):
    """What gathers one score of one model over the cases."""

    def add(self, members: Tensor, observation: Tensor) -> None:
        """members: (E, T, H, W) mm/h, observation: (T, H, W); NaN in both where not scored."""

    def result(self) -> Any:
        """What `scores.json` says under the score's name: plain values, NaN where unknown."""


class MeanScore:
    """Mean of a score over all its pixels and cases, for each lead time.

    score: (E, H, W), (H, W) -> the score of each pixel or block, NaN where there is none.
    """

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._score = score
        self._total = np.zeros(FUTURE_FRAMES)
        self._count = np.zeros(FUTURE_FRAMES)

    def add(self, members: Tensor, observation: Tensor) -> None:
        for frame in range(FUTURE_FRAMES):  # one by one: a fraction of the memory
            scores = self._score(members[:, frame], observation[frame])
            self._total[frame] += scores.nansum(dtype=torch.float64).item()
            self._count[frame] += valid_mask(scores).sum().item()

    def result(self) -> list[float]:
        mean = np.full(FUTURE_FRAMES, np.nan)
        return np.divide(self._total, self._count, out=mean, where=self._count > 0).tolist()


def make_scores() -> dict[str, Score]:
    """All scores, empty, under their names in `scores.json`; a new score is a line here."""
    return {
        "crps_1px": MeanScore(crps_ensemble),
        "fair_crps_1px": MeanScore(fair_crps),
        "crps_8px": MeanScore(_of_block_means(8)),
        "crps_64px": MeanScore(_of_block_means(64)),
    }


def _of_block_means(size: int) -> Callable[[Tensor, Tensor], Tensor]:
    def crps_of_block_means(members: Tensor, observation: Tensor) -> Tensor:
        return crps_ensemble(block_mean(members, size), block_mean(observation, size))

    return crps_of_block_means


class ForecasterRecord:
    """What is known of one forecaster: its scores and the wall seconds of each forecast."""

    def __init__(self) -> None:
        self.scores = make_scores()
        self.seconds: list[float] = []

    def results(self) -> dict[str, Any]:
        return {name: score.result() for name, score in self.scores.items()}


def score_cases(
    forecasters: dict[str, Forecaster],
    events: list[RainEvent],
    cases: list[Case],
    crop_size: int,
    device: torch.device,
) -> dict[str, ForecasterRecord]:
    """Every forecaster's record over all cases; one forecast is in memory at a time.

    Raises InputError where a forecast lacks a pixel that the newest past frame has.
    """
    records = {name: ForecasterRecord() for name in forecasters}
    num_forecasts = len(cases) * len(forecasters)
    with tqdm(total=num_forecasts, desc="forecasts", disable=None) as bar:
        for case in cases:
            rain_rate = read_window(events, case.window, CASE_FRAMES, crop_size)[0].to(device)
            past, observation = rain_rate[:PAST_FRAMES], rain_rate[PAST_FRAMES:]
            is_scored = valid_mask(observation) & valid_mask(past[-1])  # (T, H, W)
            observation = observation.where(is_scored, torch.nan)
            for name, forecaster in forecasters.items():
                start = time.perf_counter()
                members = forecaster(past, case.seed)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                records[name].seconds.append(time.perf_counter() - start)
                # Left out, such pixels would make a model look better than it is.
                if not torch.isfinite(members[:, is_scored]).all():
                    raise InputError(
                        f"{name} forecasts values that are not finite for {case.event} at "
                        f"{format_time(case.issue_time)}, expected mm/h: try --amp off, or "
                        "another model"
                    )
                members = members.where(is_scored, torch.nan)
                for score in records[name].scores.values():
                    score.add(members, observation)
                bar.update()
    return records


def make_forecasters(flags: argparse.Namespace, device: torch.device) -> dict[str, Forecaster]:
    """The baselines and every `--model`, loaded, under the name that it was given by."""
    forecasters: dict[str, Forecaster] = {
        "persistence": lambda past, seed: persistence(past, FUTURE_FRAMES),
        "dry": lambda past, seed: dry(past, FUTURE_FRAMES),
    }
    for folder in flags.model:
        if folder in forecasters:
            raise InputError(
                f"--model {folder}: the name is taken, expected each folder once; write "
                f"./{folder} for a folder that is called like a baseline"
            )
        forecasters[folder] = _model_forecaster(folder, flags, device)
    return forecasters


def _model_forecaster(folder: str, flags: argparse.Namespace, device: torch.device) -> Forecaster:
    model = LDCast.from_pretrained(folder, device)

    def forecast(past: Tensor, seed: int) -> Tensor:
        return model.predict(
            past,
            num_members=flags.members,
            seed=seed,
            num_sampling_steps=flags.steps,
            amp=flags.amp,
        )

    return forecast


def scores_table(num_members: int, cases: list[Case], models: dict[str, Any]) -> dict[str, Any]:
    """The content of `scores.json`: plain values, None for NaN."""
    return {
        "lead_minutes": LEAD_MINUTES,
        "num_members": num_members,
        "cases": [
            {
                "event": case.event,
                "issue_time": str(case.issue_time),
                "y": case.window.y,
                "x": case.window.x,
                "wet_share": case.wet_share,
                "seed": case.seed,
            }
            for case in cases
        ],
        "models": _without_nan(models),
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None takes its place in nested lists and tables."""
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def describe_cases(events: list[RainEvent], cases: list[Case], crop_size: int) -> str:
    """A line for each event: its cases and how wet they are."""
    lines = []
    for index, event in enumerate(events):
        wet = [f"{100 * case.wet_share:.0f}" for case in cases if case.window.event == index]
        wetness = f", {' to '.join(dict.fromkeys([wet[0], wet[-1]]))} % wet" if wet else ""
        count = f"{len(wet)} case" if len(wet) == 1 else f"{len(wet)} cases"
        lines.append(f"{event.name}: {count} of {crop_size} x {crop_size} pixels{wetness}")
    return "\n".join(lines)


def describe_crps(records: dict[str, ForecasterRecord]) -> str:
    """CRPS at some lead times and on average, with the skill against persistence, as a table."""
    shown = {name: _shown_crps(record) for name, record in records.items()}
    width = max(len(name) for name in shown)
    row = (f"{{:<{width}}}" + " {:>13}" * (len(SHOWN_LEADS) + 2)).format
    leads = [f"+{minutes} min" for minutes in SHOWN_LEADS]
    lines = ["CRPS per pixel, mm/h (and skill against persistence), and wall seconds per forecast"]
    lines.append(row("", *leads, "mean of all", "s/forecast"))
    for name, values in shown.items():
        pairs = zip(values, shown[REFERENCE], strict=True)
        cells = [
            _cell(value, None if name == REFERENCE else reference) for value, reference in pairs
        ]
        # The median, because the first forecast on a GPU waits for it to warm up.
        lines.append(row(name, *cells, f"{np.median(records[name].seconds):.2f}"))
    return "\n".join(lines)


def _shown_crps(record: ForecasterRecord) -> list[float]:
    """CRPS at `SHOWN_LEADS`, and the mean over all lead times."""
    crps = record.scores["crps_1px"].result()
    return [*(crps[LEAD_MINUTES.index(minutes)] for minutes in SHOWN_LEADS), float(np.mean(crps))]


def _cell(crps: float, reference: float | None) -> str:
    """For example "0.123 (+12 %)"; without a bracket where there is no skill to speak of."""
    if math.isnan(crps):
        return "-"
    return f"{crps:.3f} ({1 - crps / reference:+.0%})" if reference else f"{crps:.3f}"


def draw_crps(models: dict[str, Any], path: Path) -> None:
    """CRPS per pixel against lead time, a line for each model (PNG). Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        title="Lower is better", xlabel="lead time, minutes", ylabel="CRPS per pixel, mm/h"
    )
    for name, scores in models.items():
        style = {"color": "0.5", "linestyle": "--" if name == REFERENCE else ":"}
        is_baseline = name in ("persistence", "dry")
        axes.plot(LEAD_MINUTES, scores["crps_1px"], label=name, **(style if is_baseline else {}))
    axes.set_xlim(0, LEAD_MINUTES[-1])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with open_atomically(path) as file:
        figure.savefig(file, format="png", dpi=150)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Raises InputError for numbers that are too small."""
    parser = argparse.ArgumentParser(
        prog="python -m ldcast.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", nargs="+", default=["bundled"], metavar="DIR", help="model folders (bundled)")
    add("--data", nargs="+", required=True, metavar="PATH[@START/END]", help="event files")
    add("--members", type=int, default=8, metavar="N", help="ensemble members (%(default)s)")
    add("--cases", type=int, default=24, metavar="N", help="forecasts per model (%(default)s)")
    add("--crop-size", type=int, default=256, metavar="PX", help="of a case (%(default)s)")
    add("--seed", type=int, default=0, help="of the choice of cases and of noise (%(default)s)")
    add("--steps", type=int, metavar="N", help="sampling steps; default: the model's own")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--amp", choices=AMP_MODES, default="auto", help="auto: bf16 on CUDA, off on a CPU")
    add("--out", type=Path, required=True, metavar="DIR", help="where the scores go")
    flags = parser.parse_args(argv)
    for name, low in {"members": 1, "cases": 1, "crop_size": CROP_STEP, "seed": 0}.items():
        if getattr(flags, name) < low:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {getattr(flags, name)}: expected at least {low}")
    return flags


def main(argv: list[str] | None = None) -> None:
    flags = parse_arguments(argv)
    check_writable(flags.out)
    device = choose_device(flags.device)
    forecasters = make_forecasters(flags, device)
    events = [read_event(spec) for spec in flags.data]
    cases = draw_cases(events, flags.cases, flags.crop_size, flags.seed)
    print(describe_cases(events, cases, flags.crop_size))

    records = score_cases(forecasters, events, cases, flags.crop_size, device)
    models = {name: record.results() for name, record in records.items()}
    table = scores_table(flags.members, cases, models)
    write_text(flags.out / SCORES_NAME, json.dumps(table, indent=2, allow_nan=False) + "\n")
    print("", describe_crps(records), "", f"wrote {flags.out / SCORES_NAME}", sep="\n")
    try:
        draw_crps(models, flags.out / FIGURE_NAME)
    except ImportError:
        print(f"no {FIGURE_NAME}: it needs matplotlib (pip install matplotlib)")


if __name__ == "__main__":
    sys.exit(run_script(main))
