"""Makes an archive of synthetic rain, of any length, to measure on: cheap, but as fine as radar.

    python -m ldcast.tools.make_archive --frames 100000 --out archive.zarr

A few hours are made as `ldcast.data.synthetic` does, and repeated: an archive of ten years takes no
longer to make than its files take to write. The rain is continuous but where it begins again.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldcast.data.building.archive import LAYOUTS, SHARD_FRAMES, Archive, place_of
from ldcast.data.building.run import DEFAULT_BITS, DEFAULT_LAYOUT
from ldcast.data.building.store import commit, require_zarr, shard_path, write_shard
from ldcast.data.building.work import rounded
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError, check_count, run_script
from ldcast.frames import FrameConfig
from ldcast.machine.files import open_atomically

MINUTES = FrameConfig.minutes_per_frame


def make_archive(
    out: Path, num_frames: int, size: tuple[int, int], seed: int, num_distinct: int, layout: str
) -> Archive:
    """Writes the archive. num_distinct: frames after which the rain begins again.

    Both numbers of frames are rounded up to whole shards.
    """
    num_shards, num_made = (-(-number // SHARD_FRAMES) for number in (num_frames, num_distinct))
    event = synthetic_event(seed, num_made * SHARD_FRAMES, *size)
    time = event.time[0] + np.arange(num_shards * SHARD_FRAMES) * np.timedelta64(60 * MINUTES, "s")
    archive = Archive(
        path=out,
        grid=place_of(event.grid, size, event.name),
        shape=size,
        minutes=MINUTES,
        bits=DEFAULT_BITS,
        layout=layout,
    ).with_about(event.grid)
    for index in tqdm(range(num_shards), desc="write", unit="shard", disable=None):
        if index < num_made:
            frames = event.rain_rate[index * SHARD_FRAMES : (index + 1) * SHARD_FRAMES]
            write_shard(archive, index, rounded(frames, archive.bits))
            continue
        path = shard_path(archive, index)
        path.parent.mkdir(parents=True)
        with open_atomically(path) as file:
            file.write(shard_path(archive, index % num_made).read_bytes())
    archive = replace(archive, time=time)
    commit(archive)
    return archive


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="ARCHIVE.zarr")
    add("--frames", type=int, required=True, help="5 minutes apart")
    add("--size", type=int, nargs=2, default=(640, 710), metavar=("HEIGHT", "WIDTH"))
    add("--distinct", type=int, default=96, help="frames, which are repeated (%(default)s)")
    add("--layout", choices=LAYOUTS, default=DEFAULT_LAYOUT, help="(%(default)s)")
    add("--seed", type=int, default=0, help="of the rain (%(default)s)")
    flags = parser.parse_args(argv)
    check_count("frames", flags.frames)
    check_count("distinct frames", flags.distinct)
    require_zarr()
    if flags.out.exists():
        raise InputError(f"{flags.out} exists, and is kept; remove it or name another --out")
    distinct = min(flags.distinct, flags.frames)
    archive = make_archive(
        flags.out, flags.frames, tuple(flags.size), flags.seed, distinct, flags.layout
    )
    size = sum(file.stat().st_size for file in flags.out.rglob("*") if file.is_file())
    print(f"wrote {flags.out}: {len(archive.time)} frames, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    sys.exit(run_script(main))
