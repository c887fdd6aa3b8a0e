"""The command line that verify and calibrate share: which cases are forecast, and how."""

import argparse
from collections.abc import Sequence

from ldcast.data.archive.days import DaySplit
from ldcast.data.readers.reading_flags import add_reading_flags
from ldcast.diffusion.registry import SAMPLERS
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.machine.device import AMP_HELP, AMP_MODES
from ldcast.nowcast.model_folder import read_nowcaster
from ldcast.products.amounts import AMOUNT_THRESHOLDS

LOWEST = {"members": 1, "cases": 1, "seed": 0, "steps": 1}


def case_parser(tool: str, description: str) -> argparse.ArgumentParser:
    """A parser that has the shared flags; equal ones find each other's forecasts in a cache."""
    parser = argparse.ArgumentParser(
        prog=f"python -m ldcast.{tool}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        action="extend",
        required=True,
        metavar="PATH[@START/END]",
        help="event files, archives",
    )
    add(
        "--split-days",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VALIDATE", "TEST"),
        help="of archives, only the days that a training with these shares left for testing",
    )
    add_reading_flags(add)
    add(
        "--accumulate",
        type=int,
        nargs="+",
        action="extend",
        default=[],
        metavar="MINUTES",
        help="sums over such windows, too",
    )
    add(
        "--amount-thresholds",
        type=float,
        nargs="+",
        action="extend",
        metavar="MM",
        help=f"of these sums ({' '.join(f'{mm:g}' for mm in AMOUNT_THRESHOLDS)})",
    )
    add("--members", type=int, default=16, metavar="N", help="ensemble members (%(default)s)")
    add("--cases", type=int, default=32, metavar="N", help="forecasts per model (%(default)s)")
    add("--crop-size", type=int, default=256, metavar="PX", help="of a case (%(default)s)")
    add("--seed", type=int, default=0, help="of the choice of cases and of noise (%(default)s)")
    add("--sampler", choices=SAMPLERS, help="default: the model's own")
    add("--steps", type=int, metavar="N", help="sampling steps; default: the model's own")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--amp", choices=AMP_MODES, default="auto", help=AMP_HELP)
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The command line.

    Raises InputError for numbers that are too small, and for thresholds of sums without sums.
    """
    flags = parser.parse_args(argv)
    if flags.amount_thresholds and not flags.accumulate:
        raise InputError(
            "--amount-thresholds is about sums: add --accumulate, such as --accumulate 60"
        )
    flags.amount_thresholds = flags.amount_thresholds or list(AMOUNT_THRESHOLDS)
    for name, low in LOWEST.items():
        value = getattr(flags, name)
        if value is not None and value < low:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {value}: expected at least {low}")
    return flags


def split_of(flags: argparse.Namespace) -> DaySplit | None:
    """The split whose days for testing are asked for; None for all days."""
    return DaySplit(tuple(flags.split_days)) if flags.split_days else None


def frames_of(folders: Sequence[str], crop_size: int) -> FrameConfig:
    """The frames of models that are judged by the same cases.

    Raises InputError where they differ, and for crops that are too small for one of the models.
    """
    models = {folder: read_nowcaster(folder).model for folder in folders}
    first, *others = models
    frames = models[first].frames
    for folder in others:
        if models[folder].frames != frames:
            raise InputError(
                f"{folder} forecasts {_describe(models[folder].frames)}, expected as {first} does, "
                f"{_describe(frames)}: verify them one by one"
            )
    low = max(model.rain_multiple for model in models.values())
    if crop_size < low:
        raise InputError(f"--crop-size {crop_size}: expected at least {low}")
    return frames


def _describe(frames: FrameConfig) -> str:
    return (
        f"{frames.future_frames} frames {frames.minutes_per_frame} minutes apart from "
        f"{frames.past_frames}"
    )
