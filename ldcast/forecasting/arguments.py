"""The command line of infer.py: its flags, and checks of them before the work."""

import argparse
from pathlib import Path

from ldcast.data.readers.reading_flags import add_reading_flags, reading_of
from ldcast.data.readers.services import READERS, require_reader
from ldcast.data.readers.specs import spec_source
from ldcast.diffusion.registry import SAMPLERS
from ldcast.errors import InputError, check_count
from ldcast.machine.code_version import command_line
from ldcast.machine.device import AMP_HELP, AMP_MODES
from ldcast.machine.folders import check_output_path, check_writable
from ldcast.machine.processes import Processes
from ldcast.nowcast.model_folder import read_nowcaster
from ldcast.nowcast.request import count_frames
from ldcast.products.accumulate import check_windows
from ldcast.products.amounts import AMOUNT_THRESHOLDS
from ldcast.products.area_files import check_areas_path
from ldcast.products.area_table import table_path
from ldcast.products.border_files import read_lines
from ldcast.products.files import FORECAST_SUFFIXES, check_forecast_path
from ldcast.products.plot import PLOT_SUFFIXES, require_plot_packages
from ldcast.products.statistics import check_statistics, check_thresholds
from ldcast.seeds import KEY_LIMIT

DAY = 24 * 60  # minutes; --keep keeps its forecasts


def parse_flags(description: str, argv: list[str] | None) -> argparse.Namespace:
    """The flags, and the model's `frames`; description: for --help, the script's docstring.

    Raises InputError where --model names none.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("what to forecast").add_argument
    add("--model", default="bundled", metavar="DIR", help="model or run folder (%(default)s)")
    add(
        "--data",
        metavar="PATH[@START/END]",
        help="event file, NetCDF or Zarr; with --reader a service's file or a folder of them; "
        "default: synthetic rain of --seed",
    )
    add("--reader", choices=READERS, help="how to read --data or what comes in to --watch")
    add_reading_flags(add)
    add("--issue-time", metavar="TIME", help="UTC, as 2016-07-11T22:00; default: the newest")
    add("--lead-minutes", type=int, help="of the last frame; default: as far as the model reaches")
    add("--members", type=int, default=8, help="ensemble members (%(default)s)")
    add("--seed", type=int, default=0, help="of the members' noise (%(default)s)")
    add("--sampler", choices=SAMPLERS, help="default: the model's")
    add("--steps", type=int, help="sampling steps, exactly as many; default: the model's")
    add(
        "--calibrated",
        action="store_true",
        help="correct rain rates and add exceedance probabilities to the file, as python -m "
        "ldcast.calibrate fitted them",
    )

    add = parser.add_argument_group("what to write").add_argument
    add("--out", type=Path, help="forecast.npz, or .nc or .zarr; with --watch a folder: forecasts")
    add("--format", choices=["pysteps"], help="a .nc that pysteps reads; default: as --out ends")
    several = {"nargs": "+", "action": "extend"}  # given again, a flag adds to what it had
    add("--probabilities", type=float, **several, default=[], metavar="MM_H", help="of exceedance")
    add("--quantiles", type=float, **several, default=[], metavar="P", help="such as 0.1 0.5 0.9")
    add("--means", action="store_true", help="add ensemble mean and probability-matched mean")
    add(
        "--accumulate",
        type=int,
        **several,
        default=[],
        metavar="MINUTES",
        help="add what falls in every window of so many minutes, such as 30 60",
    )
    add(
        "--amount-thresholds",
        type=float,
        **several,
        metavar="MM",
        help="of exceedance by these sums; with --probabilities "
        f"{' '.join(f'{mm:g}' for mm in AMOUNT_THRESHOLDS)} if not given",
    )
    add("--plain-sums", action="store_true", help="add frames, do not follow rain between them")
    add(
        "--areas",
        type=Path,
        metavar="FILE",
        help="add what falls on its polygons, GeoJSON or shapefile, and write a .csv beside --out",
    )
    add(
        "--plot",
        type=Path,
        metavar="PATH",
        help="also draw a .png, a film: .gif or .mp4, or a page to explore: .html",
    )
    add("--borders", type=Path, **several, default=[], metavar="FILE", help="GeoJSON or shapefile")

    add = parser.add_argument_group("as a service").add_argument
    add("--watch", type=Path, metavar="DIR", help="forecast when a new frame completes the past")
    add("--keep", type=int, metavar="N", help="forecasts to keep in --out; default: a day's")
    add("--suffix", choices=FORECAST_SUFFIXES, help="of the forecasts (.npz)")

    add = parser.add_argument_group("how to compute").add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--amp", choices=AMP_MODES, default="auto", help=AMP_HELP)
    add("--window", type=int, metavar="PX", help="see overlapping windows of a large domain")
    flags = parser.parse_args(argv)
    flags.command = command_line(argv, "infer.py")
    flags.frames = read_nowcaster(flags.model).model.frames
    if flags.lead_minutes is None:
        flags.lead_minutes = flags.frames.lead_minutes[-1]
    if flags.out is None:
        flags.out = Path("forecasts" if flags.watch else "forecast.npz")
    if flags.amount_thresholds is None:
        use_default = flags.accumulate and flags.probabilities
        flags.amount_thresholds = AMOUNT_THRESHOLDS if use_default else ()
    if flags.watch:
        flags.keep = DAY // flags.frames.minutes_per_frame if flags.keep is None else flags.keep
        flags.suffix = flags.suffix or ".npz"
    return flags


def check_flags(flags: argparse.Namespace) -> None:
    """Checks before the work what would fail after it."""
    if not 0 <= flags.seed < KEY_LIMIT:
        raise InputError(f"got --seed {flags.seed}, expected 0 or more, below 2**64")
    check_count("members", flags.members)
    num_frames = count_frames(flags.lead_minutes, flags.frames)
    check_statistics(flags.probabilities, flags.quantiles)
    _check_sums(flags, num_frames)
    for flag in ("probabilities", "amount_thresholds"):
        if flags.calibrated and getattr(flags, flag):
            name = flag.replace("_", "-")
            raise InputError(f"--calibrated has probabilities of its own: leave out --{name}")
    if flags.calibrated and flags.plain_sums:
        raise InputError("--calibrated is fitted to sums along the motion: leave out --plain-sums")
    if flags.borders and not flags.plot:
        raise InputError("--borders are for a picture: name one by --plot")
    if flags.reader:
        require_reader(flags.reader)
    reading_of(flags, flags.frames.minutes_per_frame)
    if flags.areas:
        check_areas_path(flags.areas)
    for path in flags.borders:
        read_lines(path)
    if flags.plot:
        check_output_path(flags.plot, PLOT_SUFFIXES)
        require_plot_packages(flags.plot)
    if flags.watch:
        _check_watch(flags)
    else:
        _check_once(flags)


def check_processes(flags: argparse.Namespace, processes: Processes) -> None:
    """Raises InputError for more processes than the work can be shared among."""
    if flags.watch and processes.num > 1:
        raise InputError("--watch is for one process: start it without torchrun")
    if 0 < flags.members < processes.num:
        raise InputError(
            f"got {processes.num} processes for {flags.members} members, expected no more "
            "processes than --members"
        )


def _check_sums(flags: argparse.Namespace, num_frames: int) -> None:
    if flags.accumulate:
        check_windows(flags.accumulate, flags.frames.leads(num_frames))
        check_thresholds(flags.amount_thresholds, "amounts above 0 mm", "5 10 20")
        return
    for flag in ("amount_thresholds", "plain_sums"):
        if getattr(flags, flag):
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is about sums: add --accumulate, such as --accumulate 60")


def _check_once(flags: argparse.Namespace) -> None:
    for flag in ("keep", "suffix"):
        if getattr(flags, flag) is not None:
            raise InputError(f"--{flag} is for --watch: leave it out")
    if flags.reader and flags.data is None:
        raise InputError("--reader reads --data or --watch: name one of them")
    check_forecast_path(flags.out, flags.format)
    if flags.areas:
        check_output_path(table_path(flags.out), (".csv",))
    if flags.data == "":
        raise InputError("got an empty --data, expected a path; leave it out for synthetic rain")
    if flags.data:
        _check_outside(flags, "data", Path(spec_source(flags.data)))


def _check_watch(flags: argparse.Namespace) -> None:
    for flag in ("data", "issue_time"):
        if getattr(flags, flag):
            raise InputError(
                f"--watch forecasts what comes in: leave out --{flag.replace('_', '-')}"
            )
    if not flags.watch.is_dir():
        raise InputError(f"--watch {flags.watch}: expected a folder that exists")
    if flags.keep < 1:
        raise InputError(f"got --keep {flags.keep}, expected 1 forecast or more")
    _check_outside(flags, "watch", flags.watch)
    check_writable(flags.out)
    check_forecast_path(flags.out / f"forecast{flags.suffix}", flags.format)


def _check_outside(flags: argparse.Namespace, of: str, source: Path) -> None:
    """Raises InputError where output would overwrite radar files or land among incoming ones."""
    for flag in ("out", "plot"):
        written = getattr(flags, flag) and getattr(flags, flag).resolve()
        if written and source.exists() and source.resolve() in (written, *written.parents):
            raise InputError(
                f"--{flag} {getattr(flags, flag)} lies in --{of}: name another file or folder"
            )
