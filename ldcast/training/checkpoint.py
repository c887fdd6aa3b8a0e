"""Everything that a training run resumes from, in one object and one file."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.model_folder import network_tensors, write_tensors
from ldcast.training.ema import EMA

STATE_NAME = "state.safetensors"


@dataclass
class TrainState:
    """All that changes while a run trains.

    iteration: updates so far, those skipped for a non-finite loss or gradient included.
    validated_at: iteration of the last validation, -1 before the first.
    best_score: lowest validation loss of the averaged weights so far.
    num_skipped: skipped updates in all; num_bad_in_a_row: those since the last good one.
    sums: totals since the last line of metrics, by name.
    """

    networks: dict[str, nn.Module]
    ema: EMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    iteration: int = 0
    validated_at: int = -1
    best_score: float = float("inf")
    num_skipped: int = 0
    num_bad_in_a_row: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Adds to the totals that `take_means` averages."""
        for name, value in {**values, "num": 1}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take_means(self) -> dict[str, float]:
        """Means of what was added since the last call."""
        sums, self.sums = self.sums, {}
        num = sums.pop("num", 1)
        return {name: total / num for name, total in sums.items()}


COUNTERS = (
    "iteration",
    "validated_at",
    "best_score",
    "num_skipped",
    "num_bad_in_a_row",
    "sums",
)


def save_state(state: TrainState, folder: Path) -> None:
    """Writes `state.safetensors`: a single rename commits tensors and counters together."""
    tensors = network_tensors(**state.networks)
    tensors |= {f"ema.{name}": tensor for name, tensor in state.ema.shadow.items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in slots.items()}
    counters = {name: getattr(state, name) for name in COUNTERS}
    counters |= {"ema_updates": state.ema.num_updates, "scaler": state.scaler.state_dict()}
    write_tensors(folder / STATE_NAME, tensors, metadata={"counters": json.dumps(counters)})


def load_state(state: TrainState, folder: Path) -> None:
    """Fills `state` from `state.safetensors`.

    Raises InputError where the file cannot be read or is of other networks.
    """
    path = folder / STATE_NAME
    try:
        with safe_open(path, framework="pt") as file:
            counters = json.loads(file.metadata()["counters"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): restore it, or start anew with another --out"
        ) from None
    try:
        for network, module in state.networks.items():
            module.load_state_dict(_below(tensors, network))
        for name, shadow in state.ema.shadow.items():
            shadow.copy_(tensors[f"ema.{name}"])
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path} is of other networks ({error}): use another --out") from None
    _load_optimizer(state.optimizer, _below(tensors, "optimizer"))
    state.ema.num_updates = counters.pop("ema_updates")
    state.scaler.load_state_dict(counters.pop("scaler"))
    for name in COUNTERS:
        setattr(state, name, counters[name])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    prefix += "."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Slots `<index of the parameter>.<name>` into the optimizer; settings stay as they are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Fused optimizers walk through memory, so each moment needs its parameter's layout.
            tensor = torch.empty_like(parameter).copy_(tensor)
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
