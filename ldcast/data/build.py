"""Builds an archive of radar rain, or one event file, from files in many formats.

    python -m ldcast.data.build radar/2016 --reader knmi --out netherlands.zarr
    python -m ldcast.data.build old.zarr events/*.npz radar.nc --out all.zarr
    python -m ldcast.data.build AQC1619320*.gif --reader mch --out mch_20160711.npz
    python -m ldcast.data.build event.npz --minutes-per-frame 10 --out event_10min.npz

SOURCE: files, Zarr stores, folders with what is in them, each with @START/END for a part of it.
READER: mch (MeteoSwiss, GIF of AQC), fmi (FMI, PGM), knmi (KNMI, HDF5 of accumulated rain), odim
(ODIM HDF5 with one composite); these need pysteps and h5py. xarray (NetCDF and Zarr) and npz (event
files) go by the suffix. The files are put in order of time; they must be of one grid and one
cadence, and each time may occur once. Rain above 500 mm/h becomes no data. Reflectivity in NetCDF
and Zarr becomes rain by --zr. Of frames that come more often than --minutes-per-frame, those that
are whole steps before the newest are written.

An archive (Zarr) is whole at every moment. The same command again continues where it was stopped,
and adds the times that are newer than its last. A file that is damaged is skipped, named and
counted.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ldcast.data.building.archive import LAYOUTS, MAX_BITS
from ldcast.data.building.pools import open_pool
from ldcast.data.building.report import describe_event, lines_of_skipped, lines_of_summary
from ldcast.data.building.run import DEFAULT_BITS, DEFAULT_LAYOUT, Job, Settings, build_archive
from ldcast.data.building.sources import (
    Skipped,
    Source,
    check_some,
    in_span,
    list_names,
    list_sources,
    one_line,
)
from ldcast.data.cadence import check_cadence, round_event, thinned
from ldcast.data.event import RainEvent, notes_of
from ldcast.data.event_files import write_event
from ldcast.data.pieces import PieceError
from ldcast.data.readers.reading_flags import add_reading_flags, check_used, reading_of
from ldcast.data.readers.services import READERS, join_events, require_reader
from ldcast.data.reading import Reading
from ldcast.errors import InputError, check_count, run_script
from ldcast.machine.folders import check_file_writable, check_output_path

OUT_SUFFIXES = (".zarr", ".npz")
FEW = 100  # files that one process has read before others have started
ARCHIVE_FLAGS = ("keep_bits", "layout", "workers", "scheduler")  # that an event file has no use for


def parse_flags(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ldcast.data.build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="files, stores and folders, in any order")
    add("--out", type=Path, required=True, metavar="ARCHIVE.zarr|EVENT.npz", help="what to write")
    add("--reader", choices=READERS, metavar="READER", help="default: by the suffix of each file")
    add_reading_flags(add)
    add(
        "--minutes-per-frame",
        type=int,
        help="minutes between the frames to write; times near that grid are rounded; "
        f"default: all frames, and a grid of {Reading.minutes} minutes",
    )
    add("--strict", action="store_true", help="stop at a file that cannot be read")
    add(
        "--keep-bits",
        type=int,
        metavar="BITS",
        help=f"of the mantissa of each rate, 1 to {MAX_BITS} ({DEFAULT_BITS}: relative error at "
        "most 0.4 %%)",
    )
    add(
        "--layout",
        choices=LAYOUTS,
        help="chunks for random crops, or of one whole frame each, as MLCast asks for "
        f"({DEFAULT_LAYOUT})",
    )
    add("--workers", type=int, metavar="N", help="processes that read and write (one per core)")
    add("--scheduler", metavar="ADDRESS", help="of a dask scheduler, whose workers do it instead")
    return parser.parse_args(argv)


def check_flags(flags: argparse.Namespace) -> None:
    """Checks before the work what would fail after it or overwrite something."""
    if flags.out.suffix.lower() not in OUT_SUFFIXES or flags.out.suffix.lower() == ".npz":
        check_output_path(flags.out, OUT_SUFFIXES)
        for name in ARCHIVE_FLAGS:
            if getattr(flags, name) is not None:
                raise InputError(
                    f"got --{name.replace('_', '-')}, which is for archives, but --out is "
                    f"{flags.out}; leave it out, or name {flags.out.with_suffix('.zarr')}"
                )
    else:
        check_file_writable(flags.out)
    if flags.minutes_per_frame is not None:
        check_count("minutes per frame", flags.minutes_per_frame)
    if flags.workers is not None:
        check_count("workers", flags.workers)
        if flags.scheduler is not None:
            raise InputError("got --workers and --scheduler, whose workers it has: leave one out")
    if flags.keep_bits is not None and not 1 <= flags.keep_bits <= MAX_BITS:
        raise InputError(f"got --keep-bits {flags.keep_bits}, expected 1 to {MAX_BITS}")


# ---- an event file -------------------------------------------------------------------------------


def read_event_of(
    sources: Sequence[Source], how: Reading, is_strict: bool
) -> tuple[RainEvent, list[Skipped]]:
    """The frames of all sources as one event of float16, with texts on where they are from.

    Also the files that could not be read. Raises InputError as `join_events` and `check_used` do,
    where no file can be read, and for the first that cannot where `is_strict`.
    """
    skipped: list[Skipped] = []
    events = []
    for source in tqdm(sources, desc="read", unit="file", disable=None):
        try:
            event = READERS[source.reader](source.path, how)
        except PieceError:  # the request is wrong, not the file
            raise
        except (InputError, OSError) as error:
            skipped.append(Skipped(source.path, one_line(error)))
            if is_strict or len(skipped) == len(sources):
                raise
            continue
        check_used(how, [event])
        event = round_event(event, how.minutes)
        event = event.select(in_span(event.time, source.span))
        if len(event.time):  # float16 at once: a day of large images must fit
            events.append(replace(event, rain_rate=event.rain_rate.astype(np.float16)))
    check_some(len(events), sources)
    events.sort(key=lambda event: event.time[0])
    event = round_event(join_events(events, how.minutes), how.minutes)
    readers = " and ".join(dict.fromkeys(source.reader for source in sources))
    texts = {
        "source": event.grid.get("source") or list_names([source.path for source in sources]),
        "processing": event.grid.get("processing")
        or f"read by ldcast.data.build --reader {readers}",
    }
    return replace(event, grid={**event.grid, **texts}), skipped


def build_event_file(flags: argparse.Namespace, sources: Sequence[Source], how: Reading) -> None:
    event, skipped = read_event_of(sources, how, flags.strict)
    if flags.minutes_per_frame is not None:
        event = thinned(event, how.minutes)
    write_event(event, flags.out)
    print(f"wrote {flags.out}: {describe_event(event)}")
    for line in lines_of_skipped(skipped, len(sources)):
        print(line)
    for note in notes_of([event]):
        print(f"note: {note}")
    try:
        check_cadence(event, how.minutes)
    except InputError as note:  # other cadences are fine in an event file
        print(f"note: {note}")


# ---- an archive ----------------------------------------------------------------------------------


def build_store(flags: argparse.Namespace, sources: Sequence[Source], how: Reading) -> None:
    settings = Settings(
        minutes=flags.minutes_per_frame,
        bits=flags.keep_bits,
        layout=flags.layout,
        is_strict=flags.strict,
    )
    is_small = len(sources) <= FEW and not any(source.path.is_dir() for source in sources)
    num_workers = flags.workers or (1 if is_small else os.cpu_count() or 1)
    with open_pool(num_workers, flags.scheduler) as pool:
        summary = build_archive(flags.out, Job(sources, how, settings, pool, show_progress))
    for line in lines_of_summary(summary, len(sources)):
        print(line)


def show_progress(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    return tqdm(items, desc=what, total=total, disable=None)


def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(argv)
    check_flags(flags)
    how = reading_of(flags, flags.minutes_per_frame or Reading.minutes)
    sources = list_sources(flags.sources, flags.reader, flags.out)
    for reader in {source.reader for source in sources}:
        require_reader(reader)
    build = build_event_file if flags.out.suffix.lower() == ".npz" else build_store
    build(flags, sources, how)


if __name__ == "__main__":
    sys.exit(run_script(main))
