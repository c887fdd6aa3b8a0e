"""How fast windows are drawn from an archive of any length, and how fast its crops are read.

  python -m ldcast.tools.archives draws --frames 1000000 --out DIR     an index of made-up tiles
  python -m ldcast.tools.archives crops --archive radar.zarr           an archive with its index

`draws` writes an archive without rain, of 640 x 710 pixels 5 minutes apart with some gaps, and its
index (unless they are there already), then measures each picker in a process of its own: seconds
until it can draw, how much memory the process holds beyond one that has imported the same, and
draws a second. `crops` reads training crops of 24 frames x 128 px with 0, 1 and 2 workers.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from ldcast.data.archive.days import DaySplit
from ldcast.data.archive.events import find_archive
from ldcast.data.archive.sidecar import About, State, create_group, index_address, require_zarr
from ldcast.data.crops import BatchKeys, TrainingCrops
from ldcast.data.picking import PICKERS, build_picker
from ldcast.data.reading import AS_STATED
from ldcast.data.tile_index import (
    BLOCK,
    BOUNDED,
    STATISTICS,
    classes_of_tiles,
    count_classes,
    highest_of_block,
)
from ldcast.data.tiles import TILE
from ldcast.errors import InputError, check_count, run_script
from ldcast.seeds import keyed_rng

SIZE = 640, 710
CROP_SIZE, NUM_FRAMES, MINUTES = 128, 24, 5
NUM_KINDS = 32  # different blocks of tiles; an index repeats them
GAP_EVERY = 50_000  # frames


def write_times(path: Path, num_frames: int) -> np.ndarray:
    """An archive whose rain was never written; returns its times, int64 seconds."""
    group = require_zarr().open_group(str(path), mode="w")
    gaps = np.arange(num_frames) // GAP_EVERY * 7200  # two hours each
    seconds = 1_262_304_000 + 60 * MINUTES * np.arange(num_frames) + gaps  # from 2010 on
    height, width = SIZE
    coordinates = {
        "time": (seconds, {"units": "seconds since 1970-01-01", "standard_name": "time"}),
        "y": (1000.0 * np.arange(height)[::-1], {"units": "m"}),
        "x": (1000.0 * np.arange(width), {"units": "m"}),
    }
    for name, (values, attributes) in coordinates.items():
        array = group.create_array(name, data=values, chunks=(100_000,), dimension_names=[name])
        array.attrs.update(attributes)
    rain = group.create_array(
        "rain",
        shape=(num_frames, *SIZE),
        chunks=(1, *SIZE),
        dtype="f2",
        fill_value=np.nan,
        dimension_names=["time", "y", "x"],
    )
    rain.attrs.update({"standard_name": "rainfall_rate", "units": "mm h-1"})
    return seconds


def made_up_tiles(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One block of tiles: a wet area that comes and goes, a quarter of the domain without data."""
    rows, columns = (-(-size // TILE) for size in SIZE)
    frame, y, x = np.meshgrid(*map(np.arange, (BLOCK, rows, columns)), indexing="ij")
    at = rng.uniform((0, 0, 0), (BLOCK, rows, columns))
    width = rng.uniform(2, 8)
    distance = ((frame - at[0]) / 60) ** 2 + ((y - at[1]) ** 2 + (x - at[2]) ** 2) / width**2
    mean = rng.gamma(0.5, 4) * np.maximum(np.exp(-distance) - 0.2, 0)
    mean = mean * rng.uniform(0.8, 1.2, mean.shape)
    has_data = x >= columns // 4
    valid_share = np.where(has_data, 1.0, 0.0)
    values = {
        "valid_share": valid_share,
        "wet_share": np.clip(mean, 0, 1) * valid_share,
        "mean": np.where(has_data, mean, np.nan),
        "percentile_99": np.where(has_data, 5 * mean, np.nan),
    }
    return {name: values[name].astype(np.float16) for name in STATISTICS}


def write_index(archive: Path, seconds: np.ndarray) -> None:
    """The index of an archive, of made-up tiles."""
    num_frames = len(seconds)
    group = create_group(index_address(archive), About(str(archive), SIZE, num_frames))
    for name in ("time", "state", "class_counts", *STATISTICS):
        group[name].resize((num_frames, *group[name].shape[1:]))
    num_blocks = -(-num_frames // BLOCK)
    kinds = [made_up_tiles(keyed_rng(0, kind)) for kind in range(NUM_KINDS)]
    chosen = keyed_rng(1).integers(NUM_KINDS, size=num_blocks)
    group["time"][:] = seconds
    group["state"][:] = State.GOOD
    counts = [
        count_classes(classes_of_tiles(kind["percentile_99"], kind["valid_share"], SIZE))
        for kind in kinds
    ]
    group["class_counts"][:] = np.concatenate([counts[kind] for kind in chosen])[:num_frames]
    for name in BOUNDED:
        highest = np.stack([highest_of_block(kind[name]) for kind in kinds])
        array = group[f"highest_{name}"]
        array.resize((num_blocks, *array.shape[1:]))
        array[:] = highest[chosen]
    for block, kind in enumerate(chosen):
        frames = slice(BLOCK * block, min(BLOCK * (block + 1), num_frames))
        for name in STATISTICS:
            group[name][frames] = kinds[kind][name][: frames.stop - frames.start]


def held_bytes() -> int:
    """What this process has in memory now. Raises InputError but on Linux."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError as error:
        raise InputError(f"memory is measured on Linux alone ({error})") from error


def measure_draws(archive: Path, picker: str, num_draws: int) -> tuple[float, ...]:
    """Seconds until a picker can draw, MB that it holds after the draws, draws a second, and
    milliseconds of this process's work for each."""
    before = held_bytes()
    start = time.perf_counter()
    found = find_archive(str(archive), AS_STATED)
    if found is None:
        raise InputError(f"{archive} has no index: python -m ldcast.data.index {archive}")
    events = found.events(NUM_FRAMES, MINUTES, "training", DaySplit())
    draw = build_picker(picker, events, NUM_FRAMES, CROP_SIZE)
    ready, worked = time.perf_counter(), time.process_time()
    for index in range(num_draws):
        draw(keyed_rng(0, index))
    end = time.perf_counter()
    worked = 1000 * (time.process_time() - worked) / num_draws
    return ready - start, (held_bytes() - before) / 1e6, num_draws / (end - ready), worked


def measure_crops(archive: Path, num_workers: int, num_crops: int) -> tuple[float, float]:
    """Crops a second, drawn uniformly, and milliseconds of this process's work for each."""
    found = find_archive(str(archive), AS_STATED)
    if found is None:
        raise InputError(f"{archive} has no index: python -m ldcast.data.index {archive}")
    events = found.events(NUM_FRAMES, MINUTES)
    crops = TrainingCrops(events, NUM_FRAMES, CROP_SIZE, "uniform", seed=0)
    keys = BatchKeys(0, range(1 + num_crops // 4), batch_size=4)
    batches = iter(DataLoader(crops, batch_sampler=keys, num_workers=num_workers))
    next(batches)  # once the workers are there
    start, worked = time.perf_counter(), time.process_time()
    num_read = sum(len(batch.rain_rate) for batch in batches)
    worked = time.process_time() - worked
    return num_read / (time.perf_counter() - start), 1000 * worked / num_read


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ldcast.tools.archives",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("command", choices=("draws", "crops"), help="what is measured")
    add("--frames", type=int, default=1_000_000, metavar="N", help="of draws (%(default)s)")
    add("--draws", type=int, default=1000, metavar="N", help="for each picker (%(default)s)")
    add("--out", type=Path, metavar="DIR", help="of draws: where the made-up archive goes")
    add("--archive", type=Path, metavar="PATH.zarr", help="of crops: an archive with its index")
    add("--crops", type=int, default=100, metavar="N", help="that are read (%(default)s)")
    add("--picker", choices=PICKERS, help="of draws: this one alone, in this process")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    flags = parse_arguments(argv)
    torch.set_num_threads(1)
    needed = "archive" if flags.command == "crops" else "out"
    if getattr(flags, needed) is None:
        raise InputError(f"{flags.command} needs --{needed}: give it")
    if flags.command == "crops":
        check_count("--crops", flags.crops)
        print("| workers | crops/s | ms of this process's work a crop |\n|---:|---:|---:|")
        for num_workers in (0, 1, 2):
            rate, worked = measure_crops(flags.archive, num_workers, flags.crops)
            print(f"| {num_workers} | {rate:.1f} | {worked:.1f} |", flush=True)
        return
    check_count("--frames", flags.frames)
    check_count("--draws", flags.draws)
    archive = flags.out / f"made_up_{flags.frames}.zarr"
    if flags.picker:
        seconds, megabytes, rate, worked = measure_draws(archive, flags.picker, flags.draws)
        print(f"| {flags.picker} | {seconds:.1f} | {megabytes:.0f} | {rate:.0f} | {worked:.1f} |")
        return
    if not index_address(archive).exists():
        write_index(archive, write_times(archive, flags.frames))
    print("| picker | start, s | memory, MB | draws/s | ms of work a draw |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for picker in PICKERS:
        command = [sys.executable, "-m", "ldcast.tools.archives", "draws", "--picker", picker]
        command += ["--frames", str(flags.frames), "--draws", str(flags.draws)]
        subprocess.run([*command, "--out", str(flags.out)], check=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
