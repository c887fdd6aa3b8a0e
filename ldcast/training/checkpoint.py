"""Everything that a training run resumes from, in one object and one file.

A checkpoint is committed by one rename; the one before stays beside it. So a run that is killed at
any moment, or whose newest file is damaged, resumes from a whole one.
"""

import json
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.machine.files import sync_folder
from ldcast.nowcast.model_folder import check_checksum, network_tensors, write_tensors
from ldcast.training.ema import EMA

STATE_NAME = "state.safetensors"
PREVIOUS_NAME = "state.previous.safetensors"
DAMAGED_NAME = "state.damaged.safetensors"
NUM_RECENT_LOSSES = 100  # whose median is the measure of a loss that jumps


@dataclass
class TrainState:
    """All that changes while a run trains.

    iteration: updates so far, skipped ones included.
    attempt: 0, or 1 after the run was rolled back; part of the key of every draw.
    lr_factor: what the learning rate is multiplied by, less than 1 after a rollback.
    validated_at: iteration of the last validation, -1 before the first.
    validation_loss: of the raw weights at the last validation, infinite before the first.
    best_score: lowest score of the averaged weights so far.
    skipped: updates that were not made, by their problem; see `guard`.
    num_bad_in_a_row: skipped updates since the last good one.
    recent_losses: of the last good updates, oldest first.
    rollback: what is to be said of the rollback; empty without one.
    num_processes: that trained so far.
    sums: totals since the last line of metrics, by name.
    """

    networks: dict[str, nn.Module]
    ema: EMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    iteration: int = 0
    attempt: int = 0
    lr_factor: float = 1.0
    validated_at: int = -1
    validation_loss: float = float("inf")
    best_score: float = float("inf")
    skipped: dict[str, int] = field(default_factory=dict)
    num_bad_in_a_row: int = 0
    recent_losses: list[float] = field(default_factory=list)
    rollback: str = ""
    num_processes: int = 1
    sums: dict[str, float] = field(default_factory=dict)

    @property
    def is_validated(self) -> bool:
        """Whether these very weights have been validated."""
        return self.validated_at == self.iteration

    def is_validation_due(self, interval: int, is_done: bool) -> bool:
        """At every multiple of `interval`, and at the end.

        After a bad update it waits for a good one, so that no run is rolled back into trouble.
        """
        is_due = self.iteration // interval > self.validated_at // interval
        return (is_due and not self.num_bad_in_a_row) or (is_done and not self.is_validated)

    def record_best(self, scores: dict[str, float], name: str) -> bool:
        """Keeps the lowest score of that name; whether it is this one, as always without scores."""
        if scores and scores[name] >= self.best_score:
            return False
        self.best_score = scores.get(name, math.inf)
        return True

    def count_good(self, **figures: float) -> None:
        """Counts an update that was made; its figures are for `take_figures`.

        loss: of the global batch. seconds, wait_seconds: of the update, and for its data.
        """
        self.num_bad_in_a_row = 0
        self.recent_losses = [*self.recent_losses, figures["loss"]][-NUM_RECENT_LOSSES:]
        for name, value in {**figures, "num": 1}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def count_bad(self, problem: str) -> None:
        """Counts an update that was not made, by its problem."""
        self.skipped[problem] = self.skipped.get(problem, 0) + 1
        self.num_bad_in_a_row += 1

    def take_figures(self, batch_size: int) -> dict[str, float]:
        """For a line of metrics: means over the good updates since the last call, and counts."""
        sums, self.sums = self.sums, {}
        figures = {}
        if sums:
            seconds, wait_seconds, num = (sums.pop(n) for n in ("seconds", "wait_seconds", "num"))
            figures = {name: total / num for name, total in sums.items()}
            figures["examples_per_s"] = batch_size * num / seconds
            figures["data_wait_share"] = wait_seconds / seconds
        skipped = {f"num_skipped_{problem}": num for problem, num in self.skipped.items()}
        return figures | {"num_skipped": sum(self.skipped.values()), **skipped}


# What a state's file holds as numbers and texts: all but the parts that have tensors.
PARTS = ("networks", "ema", "optimizer", "scaler")
COUNTERS = tuple(entry.name for entry in fields(TrainState) if entry.name not in PARTS)


def save_state(state: TrainState, folder: Path) -> None:
    """Writes `state.safetensors`; the one before becomes `state.previous.safetensors`.

    A state that was not validated, as an interrupted run saves it, is not kept as the one before:
    the previous one is the newest validated one, to which a run can be rolled back.
    """
    path = folder / STATE_NAME
    unfinished = folder / f".{STATE_NAME}.new.tmp"  # complete and on disk before anything moves
    write_state(state, unfinished)
    if _is_validated(path):
        os.replace(path, folder / PREVIOUS_NAME)
    os.replace(unfinished, path)
    sync_folder(folder)


def write_state(state: TrainState, path: Path) -> None:
    """Writes tensors and counters together into one safetensors file, flushed to disk."""
    tensors = _weights(state)
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in slots.items()}
    counters = {name: getattr(state, name) for name in COUNTERS}
    counters |= {"ema_updates": state.ema.num_updates, "scaler": state.scaler.state_dict()}
    write_tensors(path, tensors, metadata={"counters": json.dumps(counters)})


def load_state(state: TrainState, path: Path) -> None:
    """Fills `state` from a file, tensor by tensor.

    Raises InputError where the file is damaged (see `check_state`) or of other networks.
    """
    counters = check_state(path)
    weights = _weights(state)
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        expected = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        for name in sorted(names | expected.keys()):
            if not name.startswith("optimizer.") and shapes.get(name) != expected.get(name):
                raise InputError(f"{path} is of other networks ({name}): use another --out")
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(file.get_tensor(name))
        moments = {n: file.get_tensor(n) for n in names if n.startswith("optimizer.")}
    _load_optimizer(state.optimizer, moments)
    state.ema.num_updates = counters.pop("ema_updates")
    state.scaler.load_state_dict(counters.pop("scaler"))
    for name in COUNTERS:
        setattr(state, name, counters[name])


def check_state(path: Path) -> dict[str, Any]:
    """The counters of a state file, once all of its bytes are known to be as they were written.

    Raises InputError where it is missing, truncated or changed.
    """
    check_checksum(path, is_required=True)
    return _read_counters(path)


def rollback_target(folder: Path) -> Path:
    """The newest state that was validated: what a run is rolled back to."""
    path = folder / STATE_NAME
    return path if _is_validated(path) else folder / PREVIOUS_NAME


def num_state_bytes(state: TrainState) -> int:
    """Size of the state's file once the optimizer has both moments of every parameter."""
    moments = sum(2 * p.nbytes for group in state.optimizer.param_groups for p in group["params"])
    return moments + sum(tensor.nbytes for tensor in _weights(state).values())


def _weights(state: TrainState) -> dict[str, Tensor]:
    """Raw and averaged weights by their names in the file."""
    shadow = {f"ema.{name}": tensor for name, tensor in state.ema.shadow.items()}
    return network_tensors(**state.networks) | shadow


def _is_validated(path: Path) -> bool:
    """Whether the file holds a state that was validated; not if it is missing or unreadable."""
    try:
        counters = _read_counters(path)
    except InputError:
        return False
    return counters["validated_at"] == counters["iteration"]


def _read_counters(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["counters"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Slots `optimizer.<index of the parameter>.<name>`; the optimizer's settings stay."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        _, index, name = key.split(".", 2)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Fused optimizers walk through memory, so each moment needs its parameter's layout.
            tensor = torch.empty_like(parameter).copy_(tensor)
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
