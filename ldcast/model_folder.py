"""A model on disk: a folder with `config.json` and `model.safetensors`, and nothing else needed.

`config.json` holds `format_version`, `stage` ("autoencoder" or "nowcaster"), `model` (a
`ModelConfig`) and `trained_on` (free, for people). Tensors are named `<network>.<parameter>`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ldcast.config import ModelConfig
from ldcast.errors import InputError
from ldcast.files import open_atomically, write_text
from ldcast.settings import from_dict, to_dict

FORMAT_VERSION = 1
STAGES = ("autoencoder", "nowcaster")
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
BUNDLED = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class ModelDescription:
    """What `config.json` says."""

    stage: str
    model: ModelConfig
    trained_on: dict[str, Any]


def locate(folder: str | Path) -> Path:
    """The folder; the word "bundled" stands for the one that ships with the package."""
    return BUNDLED if str(folder) == "bundled" else Path(folder)


def read_description(folder: str | Path) -> ModelDescription:
    """The content of a model folder's `config.json`.

    Raises InputError for a missing folder or file, a broken file, and a newer format.
    """
    folder = locate(folder)
    path = folder / CONFIG_NAME
    if not path.is_file():
        what = "no such folder" if not folder.exists() else f"it has no {CONFIG_NAME}"
        raise InputError(f"{folder} is not a model folder ({what}): give one that training wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is broken: expected a JSON table with format_version") from None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {version}, this code reads {FORMAT_VERSION}: update ldcast to read "
            "a newer one"
        )
    stage = content.get("stage")
    if stage not in STAGES:
        raise InputError(f"{path} has stage {stage!r}, expected {' or '.join(STAGES)}")
    try:
        model = from_dict(ModelConfig, content.get("model", {}))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return ModelDescription(stage, model, content.get("trained_on", {}))


def write_description(folder: Path, stage: str, model: ModelConfig, trained_on: dict) -> None:
    """Writes `config.json`."""
    content = {
        "format_version": FORMAT_VERSION,
        "stage": stage,
        "model": to_dict(model),
        "trained_on": trained_on,
    }
    write_text(folder / CONFIG_NAME, json.dumps(content, indent=2) + "\n")


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises InputError where it is missing or broken."""
    if not path.is_file():
        raise InputError(f"{path} is missing: the folder is incomplete")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(
            f"{path} cannot be read ({error}): it is truncated or of another kind; copy it again"
        ) from None


def write_weights(folder: Path, **networks: nn.Module) -> None:
    """Writes `model.safetensors` with the networks under their names."""
    write_tensors(folder / WEIGHTS_NAME, network_tensors(**networks))


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file; the old one stays until the new one is on disk."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with open_atomically(path) as file:
        file.write(save(tensors, metadata))


def fingerprint(folder: str | Path) -> str:
    """SHA-256 of a model folder's weights, to notice when they change."""
    path = locate(folder) / WEIGHTS_NAME
    if not path.is_file():
        raise InputError(f"{path} is missing: the folder is incomplete")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def network_tensors(**networks: nn.Module) -> dict[str, Tensor]:
    """State dicts of several networks in one table: `<network>.<parameter>` -> tensor."""
    return {
        f"{network}.{name}": tensor
        for network, module in networks.items()
        for name, tensor in module.state_dict().items()
    }


def load_weights(folder: str | Path, **networks: nn.Module) -> None:
    """Fills networks by their names from a model folder, whatever float type the file has.

    Raises InputError that names a tensor that is missing, unknown or of another shape.
    """
    path = locate(folder) / WEIGHTS_NAME
    tensors = read_tensors(path)
    for network, module in networks.items():
        prefix = network + "."
        found = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        expected = module.state_dict()
        for name in sorted(found.keys() | expected.keys()):
            got = tuple(found[name].shape) if name in found else "nothing"
            wanted = tuple(expected[name].shape) if name in expected else "nothing"
            if got != wanted:
                raise InputError(
                    f"{path} has {got} as {prefix}{name}, expected {wanted}: its weights are of "
                    "another model than the settings"
                )
        module.load_state_dict(found)
