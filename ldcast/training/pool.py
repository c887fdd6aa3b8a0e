"""A fixed number of training examples of stage 2, encoded once and kept on disk.

Updates then spend no time on encoding. What is lost is variety: crops, flips and surroundings other
than those of the pool.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from ldcast.config import DiffusionTraining
from ldcast.data.crops import Example, TrainingCrops
from ldcast.errors import InputError
from ldcast.machine.files import code_fingerprint, naming, write_text
from ldcast.machine.processes import Processes
from ldcast.machine.stopping import StopRequest
from ldcast.rain import as_float32
from ldcast.seeds import STREAM_POOL, keyed_rng
from ldcast.training.batches import Batches
from ldcast.training.latents import LatentExample, from_names

POOL_NAME = "pool"  # of the folder within the run's
_MARK = "pool.json"
# What of a run's arguments decides the examples, beside the crops, and what of the package.
_ARGUMENTS = ("frames", "rain", "inputs", "encoder_dtype", "autoencoder_sha256", "pool")
_PACKAGE = Path(__file__).parents[1]
_CODE = (
    *("models", "motion", "inputs", "data/crops.py", "data/pickers.py", "data/index_pickers.py"),
    *("data/picking.py", "data/tiles.py", "data/tile_index.py", "data/variations.py"),
    *("training/latents.py", "rain.py", "seeds.py"),
)
_CHUNK = 8  # examples that are encoded at once


class LatentPool(Dataset):
    """The examples in a folder, by `make_pool`.

    Example k is what the crops have for the key (0, 0, k), encoded: what training in the loop would
    see, but for float16's rounding. Item (attempt, iteration, index in the global batch): one of
    them, drawn with equal chances.
    """

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}

    def __getitem__(self, key: tuple[int, int, int]) -> LatentExample:
        index = int(keyed_rng(self._seed, STREAM_POOL, *key).integers(self._size))
        table = {name: np.array(of[index]) for name, of in self._arrays.items()}
        table["rain_rate"] = as_float32(table["rain_rate"])
        return from_names({name: torch.from_numpy(value) for name, value in table.items()})


def pool_batches(
    out: Path,
    crops: TrainingCrops,
    settings: DiffusionTraining,
    arguments: dict[str, Any],
    encode: Callable[[Example], LatentExample],
    processes: Processes,
    stop: StopRequest,
) -> Batches:
    """Batches of the pool in a run's folder, which is made now, with a bar, where it is not there.

    Other arguments, and what raises: as for `make_pool`, `Batches`.
    """
    is_hidden = None if processes.is_main else True
    with tqdm(total=settings.pool, desc="pool", disable=is_hidden) as bar:
        work = encode, processes, stop, bar.update
        pool = make_pool(out / POOL_NAME, crops, arguments, *work)
    return Batches(pool, settings.loop, settings.data.num_workers, processes)


def make_pool(
    folder: Path,
    crops: TrainingCrops,
    arguments: dict[str, Any],
    encode: Callable[[Example], LatentExample],
    processes: Processes,
    stop: StopRequest,
    progress: Callable[[int], None],
) -> LatentPool:
    """The pool in the folder, encoded now unless it is complete there already.

    arguments: of the run, and its `rain` scale. encode: `encode_example` of crops.
    stop: ends it early; the next time, it is made from the beginning.
    progress: called with the number of examples just done. The processes share the work.
    Raises InputError where the disk has no room, and for values that float16 does not hold.
    """
    size, seed = arguments["pool"], arguments["seed"]
    made_of = json.loads(json.dumps({name: arguments[name] for name in _ARGUMENTS}))
    made_of["max_rain_rate"] = arguments["data_settings"]["max_rain_rate"]
    made_of["crops"] = crops.fingerprint()
    made_of["code"] = code_fingerprint(*(_PACKAGE / name for name in _CODE))
    if processes.any(not _is_complete(folder, made_of)):
        first = encode(default_collate([crops[(0, 0, 0)]])).by_name()
        shapes = {name: (size, *value.shape[1:]) for name, value in first.items()}
        dtypes = {name: "f4" if len(shape) == 1 else "f2" for name, shape in shapes.items()}
        with processes.failing_together():
            if processes.is_main:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                _check_room(folder, shapes)
                for name, shape in shapes.items():
                    path = folder / f"{name}.npy"
                    np.lib.format.open_memmap(path, "w+", dtypes[name], shape)
                    _reserve(path)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in shapes}
        with processes.failing_together():
            _fill(arrays, crops, encode, processes, stop, progress)
        is_cut_short = processes.any(stop.is_set)  # waits for all of them
        if processes.is_main and not is_cut_short:
            made_of["arrays"] = {name: _checksum(folder / f"{name}.npy") for name in shapes}
            write_text(folder / _MARK, json.dumps(made_of, indent=2) + "\n")
        processes.wait()
    return LatentPool(folder, size, seed)


def _fill(
    arrays: dict[str, np.ndarray],
    crops: TrainingCrops,
    encode: Callable[[Example], LatentExample],
    processes: Processes,
    stop: StopRequest,
    progress: Callable[[int], None],
) -> None:
    """This process's share of the examples."""
    size = len(arrays["weight"])
    chunks = range(0, size, _CHUNK)
    for chunk in stop.until(processes.share(len(chunks))):
        indices = range(chunks[chunk], min(chunks[chunk] + _CHUNK, size))
        batch = default_collate([crops[(0, 0, index)] for index in indices])
        for name, value in encode(batch).by_name().items():
            part = arrays[name][indices.start : indices.stop]
            with np.errstate(over="ignore"):
                part[:] = value.cpu().numpy()
            is_lost = ~np.isfinite(part)
            if name == "rain_rate":  # NaN = no data
                is_lost &= ~value.cpu().isnan().numpy()
            if is_lost.any():
                raise InputError(
                    f"{name} has values up to {value.abs().max():.3g}, expected no more than "
                    "65,504, which a pool can hold: scale the input to about unit size"
                )
        progress(len(indices))
    for array in arrays.values():
        array.flush()


def _check_room(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    needed = sum(2 * np.prod(shape, dtype=np.int64) for shape in shapes.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has room for {free / 1e9:.1f} GB, expected {needed / 1e9:.1f} GB for the "
            "pool: free some, ask for a smaller --pool, or choose another --out"
        )


def _reserve(path: Path) -> None:
    """Takes a sparse file's room on the disk, so that filling it cannot fail as a signal does."""
    with naming(path), open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_complete(folder: Path, made_of: dict[str, Any]) -> bool:
    """Whether a pool made of the same is there, whole."""
    try:
        mark = json.loads((folder / _MARK).read_text())
        arrays = mark.pop("arrays")
        if mark != made_of or {path.stem for path in folder.glob("*.npy")} != arrays.keys():
            return False
        return all(_checksum(folder / f"{name}.npy") == digest for name, digest in arrays.items())
    except (OSError, ValueError, KeyError, AttributeError):  # missing or damaged
        return False
