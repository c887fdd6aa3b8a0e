"""PyTorch checkpoint files, read without running anything that they contain."""

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldcast.errors import InputError

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTER = "model_ema.num_updates"
BLOCK_SIZE = 2**22  # bytes read at once


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    tensors: by published name; of a mapped file they take no memory until they are used.
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


def read_checkpoint(path: Path, progress: Callable[[int], None] = lambda _: None) -> Checkpoint:
    """The tensors of a state dict, or of a Lightning checkpoint's `state_dict`, on the CPU.

    Files that torch.save writes since 2020 are mapped, older ones read into memory.
    progress: called with the number of bytes whose checksums were compared, in all the file's size.
    Raises InputError for a file that is none of these, is damaged, or holds other classes than
    tensors and Python's plain ones: such a file is not unpickled.
    """
    _check_sums(path, progress)
    content = _load(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a table of tensors")
    tensors, training_state = dict(content), ()
    if isinstance(tensors.get("state_dict"), Mapping):
        training_state = tuple(ascii(name).strip("'") for name in tensors if name != "state_dict")
        tensors = dict(tensors["state_dict"])
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    return Checkpoint(path, tensors, training_state)


def _check_tensor(path: Path, name: object, tensor: object) -> None:
    if not isinstance(name, str) or not name.isprintable():
        raise InputError(f"{path} holds a tensor called {name!a}, expected a name as text")
    if not isinstance(tensor, Tensor):
        raise InputError(
            f"{path} holds a {type(tensor).__name__} as {name}, expected tensors only: save the "
            "network's state_dict()"
        )
    types = (torch.int32, torch.int64) if name == COUNTER else FLOAT_TYPES
    is_plain = (
        tensor.layout is torch.strided and not tensor.is_nested and tensor.device.type == "cpu"
    )
    if tensor.dtype not in types or not is_plain:
        kind = f"{tensor.dtype}" if is_plain else f"{tensor.layout} on {tensor.device}"
        raise InputError(f"{path} has {kind} as {name}, expected plain numbers of a float type")


def _records(path: Path) -> list[zipfile.ZipInfo]:
    """What torch.save has put into a file of today's form; nothing for a file of the older one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except zipfile.BadZipFile:
        return []


def _check_sums(path: Path, progress: Callable[[int], None]) -> None:
    """Raises InputError where a record differs from its checksum; PyTorch does not look."""
    left = path.stat().st_size
    if _records(path):
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                for num_bytes in _read_blocks(path, archive, record):
                    progress(num_bytes)
                    left -= num_bytes
    progress(left)


def _read_blocks(path: Path, archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> Iterator[int]:
    """Reads a record to its end, where its checksum is compared; yields the sizes of the blocks."""
    try:
        with archive.open(record) as file:
            while block := file.read(BLOCK_SIZE):
                yield len(block)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise InputError(
            f"{path} is damaged in {record.filename}: copy or download it again. If it was saved "
            "without checksums, load and save it once more with PyTorch"
        ) from None


def _load(path: Path) -> object:
    records = _records(path)
    # Mapping takes bytes as they lie there, so compressed records are left to the other way.
    can_be_mapped = bool(records) and not any(record.compress_type for record in records)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; an error says enough
            return torch.load(path, map_location="cpu", weights_only=True, mmap=can_be_mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise InputError(
                f"{path} holds {found[1]}, expected tensors and plain Python values; reading it "
                "could run code, so it was not opened: where you trust the file, save its "
                "state_dict alone"
            ) from None
        reason = "no pickle of tensors, or of a protocol above 3"
    except MemoryError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    raise InputError(
        f"{path} cannot be read as a PyTorch checkpoint ({reason}): it may be cut short, or an "
        "archive that must be unpacked first"
    )
