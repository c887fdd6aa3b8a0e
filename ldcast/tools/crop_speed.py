"""How fast random crops are read from archives, and what of the disk's own rate that is.

    python -m ldcast.tools.crop_speed archive.zarr --workers 0 1 2

Crops are drawn uniformly and read as trainings read them; 0 workers read in this process. First the
archive's files are read from end to end, for the disk's own rate. Before each turn the system is
asked to forget the files, so that they come from the disk (Linux; without --cold what it keeps in
memory counts as read, too).
"""

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldcast.data.readers.services import require_reader
from ldcast.data.readers.times import open_rain
from ldcast.data.reading import AS_STATED
from ldcast.errors import InputError, check_count, run_script
from ldcast.tools.memory import RSS_UNIT

BLOCK = 2**22  # bytes of a file that are read at once
MIB = 2**20
_COUNTERS = Path("/proc/self/io")


class Turn(NamedTuple):
    """What one process read.

    of_core: seconds of one core. opening: seconds until the first crop could be read.
    num_bytes: from files. peak: bytes of memory.
    """

    num_crops: int
    seconds: float
    of_core: float
    opening: float
    num_bytes: int
    peak: int


def read_crops(task: tuple[Path, int, int, float, int]) -> Turn:
    """task: archive, frames and pixels of a crop, for how many seconds, seed."""
    path, num_frames, crop_size, seconds, seed = task
    start = time.perf_counter()
    rain = open_rain(path, AS_STATED)
    opening = time.perf_counter() - start
    ends = np.array(rain.shape) - (num_frames, crop_size, crop_size)
    if (ends < 0).any():
        raise InputError(
            f"{path} has {' x '.join(map(str, rain.shape))} frames, rows and columns, expected at "
            f"least {num_frames} x {crop_size} x {crop_size}; choose a smaller crop"
        )
    random = np.random.default_rng(seed)
    before, num_crops = _bytes_read(), 0
    start, of_core = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        first = random.integers(0, ends + 1)
        size = (num_frames, crop_size, crop_size)
        rain.read(*(slice(at, at + length) for at, length in zip(first, size, strict=True)))
        num_crops += 1
    return Turn(
        num_crops=num_crops,
        seconds=time.perf_counter() - start,
        of_core=time.process_time() - of_core,
        opening=opening,
        num_bytes=_bytes_read() - before,
        peak=RSS_UNIT * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def read_through(path: Path, seconds: float) -> float:
    """Bytes per second of the archive's files, read one after the other for so long."""
    start, num_bytes = time.perf_counter(), 0
    for file in _files(path):
        with open(file, "rb", buffering=0) as stream:
            while block := stream.read(BLOCK):
                num_bytes += len(block)
        if time.perf_counter() - start > seconds:
            break
    return num_bytes / (time.perf_counter() - start)


def forget(path: Path) -> None:
    """Asks the system to drop the files from its memory."""
    for file in _files(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file())


def _bytes_read() -> int:
    """By this process so far, from files or what the system keeps of them; 0 where unknown."""
    if not _COUNTERS.exists():
        return 0
    fields = dict(line.split(": ") for line in _COUNTERS.read_text().splitlines())
    return int(fields["rchar"])


def measure(path: Path, num_workers: int, flags: argparse.Namespace) -> list[Turn]:
    tasks = [
        (path, flags.frames, flags.crop_size, flags.seconds, seed)
        for seed in range(max(num_workers, 1))
    ]
    if num_workers == 0:
        return [read_crops(tasks[0])]
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        return pool.map(read_crops, tasks, chunksize=1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("archives", type=Path, nargs="+", metavar="ARCHIVE", help="Zarr stores on a disk")
    add("--frames", type=int, default=24, help="of a crop (%(default)s)")
    add("--crop-size", type=int, default=128, help="pixels along each side (%(default)s)")
    add("--workers", type=int, nargs="+", default=[0], metavar="N", help="(%(default)s)")
    add("--seconds", type=float, default=10.0, help="of each turn (%(default)s)")
    add("--cold", action="store_true", help="from the disk, not from what the system keeps")
    flags = parser.parse_args(argv)
    for number in flags.workers:
        check_count("workers", number, 0)
    require_reader("xarray")
    columns = ("archive", "workers", "crops/s", "crops/core-s", "kB/crop", "MB/s", "disk MB/s")
    print("  ".join([*columns, "share", "opening s", "memory MiB"]))
    for path in flags.archives:
        if flags.cold:
            forget(path)
        of_disk = read_through(path, flags.seconds)
        for num_workers in flags.workers:
            if flags.cold:
                forget(path)
            turns = measure(path, num_workers, flags)
            rate = sum(turn.num_crops / turn.seconds for turn in turns)
            num_crops = sum(turn.num_crops for turn in turns)
            num_bytes = sum(turn.num_bytes for turn in turns) / num_crops
            print(
                f"{path.name}  {num_workers}  {rate:.1f}  "
                f"{num_crops / sum(turn.of_core for turn in turns):.1f}  {num_bytes / 1e3:.1f}  "
                f"{rate * num_bytes / 1e6:.0f}  {of_disk / 1e6:.0f}  "
                f"{rate * num_bytes / of_disk:.1%}  {max(turn.opening for turn in turns):.1f}  "
                f"{max(turn.peak for turn in turns) / MIB:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(run_script(main))
