"""Training examples of stage 2 as latents: encoded in the loop, or once for the whole run.

A pool holds a fixed number of examples on disk, encoded once. Drawing from it costs nothing of an
update, where encoding them anew takes a third to a half; what is lost is variety: crops, flips and
surroundings other than those of the pool.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ldcast.data.crops import WET_THRESHOLD, Example, TrainingCrops, valid_share
from ldcast.files import write_text
from ldcast.motion import fill_gaps
from ldcast.nowcast.inputs import Input, Known, LatentGrid, Observed, known_at_issue_time
from ldcast.processes import Processes
from ldcast.rain import drop_impossible_rain, is_wet, valid_mask
from ldcast.seeds import STREAM_POOL, keyed_rng
from ldcast.stopping import StopRequest

POOL_NAME = "pool"  # of the folder within the run's
_MARK = "pool.json"
# What of a run's arguments decides the examples.
_ARGUMENTS = ("data", "data_settings", "seed", "inputs", "encoder_dtype", "autoencoder_sha256")
_CHUNK = 8  # examples that are encoded at once


class LatentExample(NamedTuple):
    """What an update needs of B examples.

    z_past: (B, C, L_past, h, w). past, future: inputs by name, see `Known`.
    z_future: (B, C, L_future, h, w), clean latents to denoise towards.
    weight: (B, 1, L_future, h, w), share of each cell's pixels that have data.
    num_wet, num_valid, num_impossible: (B,) pixels with 0.1 mm/h or more, with data, and with rain
        that cannot be, of all frames.
    """

    z_past: Tensor
    past: dict[str, Tensor]
    future: dict[str, Tensor]
    z_future: Tensor
    weight: Tensor
    num_wet: Tensor
    num_valid: Tensor
    num_impossible: Tensor

    @property
    def known(self) -> Known:
        return Known(self.z_past, self.past, self.future)

    @property
    def wet_share(self) -> Tensor:
        """Share of the pixels with data that are wet, of the whole batch; a scalar."""
        return self.num_wet.sum() / self.num_valid.sum().clamp(min=1)

    def to(self, device: torch.device) -> "LatentExample":
        """On a device, float32."""
        return _from_names({name: t.to(device).float() for name, t in self.by_name().items()})

    def by_name(self) -> dict[str, Tensor]:
        """All tensors in one table; an input's name is "past.NAME" or "future.NAME"."""
        table = self._asdict()
        for beside in ("past", "future"):
            table |= {f"{beside}.{name}": value for name, value in table.pop(beside).items()}
        return table


@torch.no_grad()
def encode_example(
    example: Example,
    grid: LatentGrid,
    inputs: Mapping[str, Input],
    margin: int = 0,
    max_rain_rate: float = float("inf"),
    device: torch.device | str = "cpu",
) -> LatentExample:
    """Latents and inputs of a batch of rain (B, 1, T, H, W) mm/h, past and future frames.

    grid: encodes with the frozen autoencoder. margin: pixels on all sides of the example that only
    the inputs look at. max_rain_rate: mm/h; pixels above it count as no data.
    device: of what comes out, and of the work. Gaps of the past are filled as for a forecast.
    """
    example = example.to(device)
    pairs = [drop_impossible_rain(rain_rate, max_rain_rate) for rain_rate in example.rain_rate]
    rain_rate = torch.stack([rain_rate for rain_rate, _ in pairs])
    frames = grid.frames
    past, future = rain_rate.split([frames.past_frames, frames.future_frames], dim=2)
    filled = [fill_gaps(of_one, frames.minutes_per_frame).rain_rate for of_one in past[:, 0]]
    past = torch.stack(filled)  # (B, T, H, W)
    observed = Observed(past, example.fields, margin)
    known = known_at_issue_time(observed, grid, inputs)
    rain_rate, future = observed.domain(rain_rate), observed.domain(future)
    is_valid = valid_mask(rain_rate)
    return LatentExample(
        known.z_past,
        dict(known.past),
        dict(known.future),
        grid.encode(future),
        valid_share(future, grid.compression),
        is_wet(rain_rate, WET_THRESHOLD).flatten(1).sum(1).float(),
        is_valid.flatten(1).sum(1).float(),
        torch.stack([num_impossible for _, num_impossible in pairs]),
    )


class LatentPool(Dataset):
    """A fixed number of examples, encoded once and kept as float16 arrays in a folder.

    Example k of the pool is that of the crops for the key (0, 0, k), so it is what training in the
    loop would see, but for float16's rounding. Item (attempt, iteration, index in the global
    batch): one of them, drawn with equal chances.
    """

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}

    def __getitem__(self, key: tuple[int, int, int]) -> LatentExample:
        index = int(keyed_rng(self._seed, STREAM_POOL, *key).integers(self._size))
        found = {name: torch.from_numpy(np.array(of[index])) for name, of in self._arrays.items()}
        return _from_names(found)


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

    arguments: of the run. encode: `encode_example` of crops.
    stop: ends it early; the next time, it is made anew.
    progress: called with the number of examples just done. The processes share the work.
    Raises OSError where the disk is full.
    """
    size, seed = arguments["data_settings"]["pool"], arguments["seed"]
    made_of = json.loads(json.dumps({name: arguments[name] for name in _ARGUMENTS}))
    made_of["data_settings"].pop("num_workers")
    if not _is_made_of(folder, made_of):
        first = encode(default_collate([crops[(0, 0, 0)]]))
        if processes.is_main:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name, value in first.by_name().items():
                dtype = np.float32 if value.ndim == 1 else np.float16  # counts, and latents
                shape = (size, *value.shape[1:])
                np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        processes.wait()
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in first.by_name()}
        chunks = range(0, size, _CHUNK)
        for chunk in stop.until(processes.share(len(chunks))):
            indices = range(chunks[chunk], min(chunks[chunk] + _CHUNK, size))
            batch = default_collate([crops[(0, 0, index)] for index in indices])
            for name, value in encode(batch).by_name().items():
                arrays[name][indices.start : indices.stop] = value.cpu().numpy()
            progress(len(indices))
        for array in arrays.values():
            array.flush()
        is_cut_short = processes.any(stop.is_set)  # waits for all of them
        if processes.is_main and not is_cut_short:
            write_text(folder / _MARK, json.dumps(made_of, indent=2) + "\n")
    return LatentPool(folder, size, seed)


def _from_names(table: Mapping[str, Tensor]) -> LatentExample:
    """The example of `LatentExample.by_name`."""
    parts = {name: value for name, value in table.items() if "." not in name}
    for beside in ("past", "future"):
        start = f"{beside}."
        parts[beside] = {
            name.removeprefix(start): value
            for name, value in table.items()
            if name.startswith(start)
        }
    return LatentExample(**parts)


def _is_made_of(folder: Path, arguments: dict[str, Any]) -> bool:
    """Whether a pool is there, complete; one that was begun, or is of another run, is made anew."""
    path = folder / _MARK
    return path.is_file() and json.loads(path.read_text()) == arguments
