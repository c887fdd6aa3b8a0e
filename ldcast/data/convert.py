"""Reads files of radar rain, in the formats of weather services too, and writes one event file.

    python -m ldcast.data.convert AQC1619320*.gif --reader mch --out mch_20160711.npz
    python -m ldcast.data.convert radar.nc --out radar.npz

    python -m ldcast.data.convert event.npz --minutes-per-frame 10 --out event_10min.npz

READER: mch (MeteoSwiss, GIF of AQC), fmi (FMI, PGM), knmi (KNMI, HDF5 of accumulated rain), odim
(ODIM HDF5 with one composite); these need pysteps and h5py. xarray (NetCDF and Zarr) and npz (event
files) go by the suffix. The files are put in order of time; they must be of one grid, and each time
may occur once. Rain above 500 mm/h in files of weather services, NetCDF and Zarr becomes no data.
Reflectivity in NetCDF and Zarr becomes rain by --zr. Of frames that come more often than
--minutes-per-frame, those that are whole steps before the newest are written.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldcast.data.cadence import check_cadence, thinned
from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent, notes_of
from ldcast.data.event_files import write_event
from ldcast.data.formats import is_zarr, looks_like
from ldcast.data.readers.reading_flags import add_reading_flags, reader_with, reading_of
from ldcast.data.readers.services import READERS, read_frames, reader_name
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError, check_count, run_script
from ldcast.machine.folders import check_output_path
from ldcast.rain import WET_THRESHOLD, is_wet


def convert(paths: Sequence[Path], name: str, how: Reading = AS_STATED) -> RainEvent:
    """The frames of all files as one event of float16, with texts on where they are from.

    name: of `READERS`. Raises InputError as `read_frames` and `check_used` do.
    """

    def read(path: Path) -> RainEvent:  # float16 at once: a day of large images must fit
        event = reader_with(READERS[name], how)(path)
        return replace(event, rain_rate=event.rain_rate.astype(np.float16))

    bar = tqdm(paths, desc="read", unit="file", disable=None)
    event = read_frames(bar, read, how.minutes)
    source = event.grid.get("source") or _list_names(paths)
    processing = event.grid.get("processing") or f"read by ldcast.data.convert --reader {name}"
    return replace(event, grid={**event.grid, "source": source, "processing": processing})


def describe(event: RainEvent) -> str:
    """Frames, span, cadence, size, and what is in them, in one line."""
    num_frames, height, width = event.rain_rate.shape
    num_valid = num_frames * height * width - np.count_nonzero(np.isnan(event.rain_rate))
    wet = np.count_nonzero(is_wet(event.rain_rate, WET_THRESHOLD)) / max(num_valid, 1)
    pixel = event.grid.get("pixel_size_m")
    return (
        f"{num_frames} frames, {format_time(event.time[0])} to {format_time(event.time[-1])}, "
        f"{height} x {width} pixels{f' of {pixel:g} m' if pixel else ''}, {wet:.1%} wet, at most "
        f"{np.fmax.reduce(event.rain_rate, axis=None):.1f} mm/h, no data "
        f"{1 - num_valid / event.rain_rate.size:.1%}"
    )


def _list_names(paths: Sequence[Path]) -> str:
    """Names without folders: all of three, the first and the last of more."""
    names = sorted(path.name for path in paths)
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}, {len(names)} files"


def parse_flags(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ldcast.data.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="in any order")
    add("--reader", choices=READERS, metavar="READER", help="default: by the suffix")
    add_reading_flags(add)
    add(
        "--minutes-per-frame",
        type=int,
        help="minutes between the frames to write; times near that grid are rounded; "
        f"default: all frames, and a grid of {Reading.minutes} minutes",
    )
    add("--out", type=Path, required=True, metavar="EVENT.npz", help="event file to write")
    return parser.parse_args(argv)


def choose_reader(files: Sequence[Path]) -> str:
    """The reader that all suffixes agree on."""
    names = {reader_name(path) for path in files}
    if len(names) > 1 or None in names:
        unknown = [path for path in files if reader_name(path) is None]
        known = looks_like(unknown[0]) if unknown else ""
        suffixes = ", ".join(sorted({f"'{path.suffix}'" for path in files}))
        raise InputError(
            f"the suffix {suffixes} does not show the format, expected --reader with one of "
            f"{', '.join(READERS)}{f'; {known}' if known else ''}"
        )
    return names.pop()


def check_paths(flags: argparse.Namespace) -> None:
    """Checks before the work what would fail after it or overwrite something."""
    check_output_path(flags.out, (".npz",))
    for path in flags.files:
        if not path.exists():
            raise InputError(f"{path} is missing, expected a file of radar rain")
        if path.is_dir() and not is_zarr(path):
            raise InputError(f"{path} is a folder: name the files in it, such as {path}/*")
        if path.resolve() == flags.out.resolve():
            raise InputError(f"--out {flags.out} is one of the files to read: name another")


def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(argv)
    check_paths(flags)
    name = flags.reader or choose_reader(flags.files)
    minutes = Reading.minutes if flags.minutes_per_frame is None else flags.minutes_per_frame
    check_count("minutes per frame", minutes)
    event = convert(flags.files, name, reading_of(flags, minutes))
    if flags.minutes_per_frame is not None:
        event = thinned(event, minutes)
    write_event(event, flags.out)
    print(f"wrote {flags.out}: {describe(event)}")
    for note in notes_of([event]):
        print(f"note: {note}")
    try:
        check_cadence(event, minutes)
    except InputError as note:  # other cadences are fine in an event file
        print(f"note: {note}")


if __name__ == "__main__":
    sys.exit(run_script(main))
