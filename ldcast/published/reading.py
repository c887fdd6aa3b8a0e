"""PyTorch checkpoint files, read without running anything that they contain."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldcast.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    tensors: by published name; of a mapped file they cost no memory until they are used.
    training_state: names of the other entries of a Lightning checkpoint.
    """

    path: Path
    tensors: dict[str, Tensor]
    training_state: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def below(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors whose names start with `prefix`, without it."""
        return {
            name.removeprefix(prefix): shape
            for name, shape in self.shapes.items()
            if name.startswith(prefix)
        }


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a state dict, or of a Lightning checkpoint's `state_dict`, on the CPU.

    Files that torch.save writes since 2020 are mapped, older ones read into memory.
    Raises InputError for a file that is none of these, is cut short, or holds other classes than
    tensors and Python's plain ones: such a file is not unpickled.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a table of tensors")
    tensors, training_state = content, ()
    if isinstance(content.get("state_dict"), Mapping):
        tensors = content["state_dict"]
        training_state = tuple(str(name) for name in content if name != "state_dict")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"{path} holds a {type(tensor).__name__} as {name}, expected tensors only: save "
                "the network's state_dict()"
            )
        if not tensor.is_floating_point() and name != "model_ema.num_updates":
            raise InputError(f"{path} has {tensor.dtype} as {name}, expected a float type")
    return Checkpoint(path, dict(tensors), training_state)


def _load(path: Path) -> object:
    with open(path, "rb"):  # what is not there, or may not be read, says so by itself
        can_be_mapped = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=can_be_mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise InputError(
                f"{path} holds a {found[1]}, expected tensors and plain Python values; reading it "
                "could run code, so it was not opened: where you trust the file, save its "
                "state_dict alone"
            ) from None
        reason = "it is no pickle of tensors"
    except MemoryError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    raise InputError(
        f"{path} cannot be read as a PyTorch checkpoint ({reason}): it may be cut short, or an "
        "archive that must be unpacked first"
    )
