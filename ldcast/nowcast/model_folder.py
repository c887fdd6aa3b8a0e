"""A model on disk: a folder with `config.json` and `model.safetensors`, and nothing else needed.

`config.json` holds `format_version`, `stage` ("autoencoder" or "nowcaster"), `code_version` (that
wrote it), `model` (a `ModelConfig`) and `trained_on` (free, for people). Tensors are named
`<network>.<parameter>`.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ldcast.config import ModelConfig
from ldcast.errors import InputError
from ldcast.machine.code_version import code_version
from ldcast.machine.files import open_atomically, write_text
from ldcast.settings import from_dict, to_dict

FORMAT_VERSION = 1
STAGES = ("autoencoder", "nowcaster")
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
BUNDLED = Path(__file__).parents[1] / "bundled"
CHECKSUM = "sha256"  # in a file's metadata: of the file with zeros in the checksum's place
NO_CHECKSUM = "0" * 64
SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}
PARAMETER_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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
        if stage == "nowcaster":
            model.frames.check_divisible(model.compression)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return ModelDescription(stage, model, content.get("trained_on", {}))


def read_nowcaster(folder: str | Path) -> ModelDescription:
    """The description of a model that forecasts.

    Raises InputError as `read_description` does, and for a folder of stage 1 only.
    """
    description = read_description(folder)
    if description.stage == "autoencoder":
        raise InputError(
            f"{folder} holds an autoencoder only, expected a trained nowcaster: run "
            f"python train_diffusion.py --autoencoder {folder} and use the folder it writes"
        )
    return description


def write_description(folder: Path, stage: str, model: ModelConfig, trained_on: dict) -> None:
    """Writes `config.json`."""
    content = {
        "format_version": FORMAT_VERSION,
        "stage": stage,
        "code_version": code_version(),
        "model": to_dict(model),
        "trained_on": trained_on,
    }
    write_text(folder / CONFIG_NAME, json.dumps(content, indent=2) + "\n")


def write_weights(
    folder: Path, parameter_dtype: torch.dtype | None = None, **networks: nn.Module
) -> None:
    """Writes `model.safetensors` with the networks under their names, into a new or old folder.

    parameter_dtype: float type to write parameters in, not buffers, some of which are statistics of
        many sizes; None keeps each one's own.
    Raises InputError, before anything is written, for another type, and for a parameter that is not
    finite in it.
    """
    tensors = network_tensors(**networks)
    if parameter_dtype is not None:
        if parameter_dtype not in PARAMETER_DTYPES:
            names = ", ".join(map(str, PARAMETER_DTYPES))
            raise InputError(f"got the type {parameter_dtype} for weights, expected one of {names}")
        for network, module in networks.items():
            for name, parameter in module.named_parameters(prefix=network):
                tensors[name] = parameter.detach().to(parameter_dtype)
                if not tensors[name].isfinite().all():
                    raise InputError(
                        f"{name} has values that are not finite as {parameter_dtype}, expected "
                        "finite ones; write another type"
                    )
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_NAME, tensors)


def write_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes a safetensors file with a checksum; the old one stays until the new one is on disk.

    dtype: float type to write floats in; None keeps each tensor's own.
    progress: called with the number of bytes just written.
    One tensor at a time is copied: the library's own writer needs all of them contiguous and
    converted at once, a second copy of a model whose convolutions are stored channels last.
    """
    as_written = {name: _written_dtype(tensor, dtype) for name, tensor in tensors.items()}
    # Wide types first, so that every tensor starts at a multiple of its own width.
    names = sorted(tensors, key=lambda name: (-as_written[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {**(metadata or {}), CHECKSUM: NO_CHECKSUM}}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * as_written[name].itemsize
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[as_written[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    text = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(text)
    with open_atomically(path) as file:
        file.write(text)
        for name in names:
            tensor = tensors[name].detach().to("cpu", as_written[name]).contiguous()
            block = tensor.reshape(-1).view(torch.uint8).numpy()
            file.write(block)
            digest.update(block)
            if progress is not None:
                progress(tensor.nbytes)
        file.seek(0)
        file.write(text.replace(NO_CHECKSUM.encode(), digest.hexdigest().encode()))


def check_checksum(path: Path, is_required: bool = False) -> None:
    """Compares a file with the checksum that `write_tensors` put into its header.

    is_required: a file without one counts as changed; otherwise it is of other origin and passes.
    Raises InputError where the file is missing, truncated or changed.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: the folder is incomplete")
    try:
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get(CHECKSUM)
    except SafetensorError as error:
        raise InputError(
            f"{path} cannot be read ({error}): it is truncated or of another kind; copy it again"
        ) from None
    if checksum is None and not is_required:
        return
    checksum = checksum or NO_CHECKSUM
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        header = file.read(8 + length)
        digest = hashlib.sha256(header.replace(checksum.encode(), NO_CHECKSUM.encode(), 1))
        while block := file.read(2**20):
            digest.update(block)
    if digest.hexdigest() != checksum:
        raise InputError(
            f"{path} has changed since it was written (its checksum does not fit): copy it again"
        )


def _written_dtype(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype and tensor.is_floating_point() else tensor.dtype


def fingerprint(folder: str | Path) -> str:
    """SHA-256 of a model folder's weights, to notice when they change."""
    path = locate(folder) / WEIGHTS_NAME
    if not path.is_file():
        raise InputError(f"{path} is missing: the folder is incomplete")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def network_tensors(**networks: nn.Module) -> dict[str, Tensor]:
    """State dicts of several networks in one table: `<network>.<parameter>` -> tensor."""
    return {
        f"{network}.{name}": tensor
        for network, module in networks.items()
        for name, tensor in module.state_dict().items()
    }


def give_memory(module: nn.Module, device: torch.device) -> None:
    """Lays the tensors of a module that was made on "meta" out on a device, without content.

    As `to_empty` does, which asks the symbolic shapes of the compiler for each meta tensor and so
    loads them.
    """

    def laid_out(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    module._apply(laid_out)


def load_weights(folder: str | Path, **networks: nn.Module) -> None:
    """Fills networks by their names from a model folder, whatever float type the file has.

    Tensor by tensor, so that nothing but the networks needs memory.
    Raises InputError where the file is missing or broken, and one that names a tensor that is
    missing, unknown or of another shape; the networks are then as they were.
    """
    path = locate(folder) / WEIGHTS_NAME
    check_checksum(path)
    parameters = network_tensors(**networks)  # detached: nothing is recorded for gradients
    with safe_open(path, framework="pt") as file:
        found = {
            name: tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118
            if name.partition(".")[0] in networks
        }
        _check_shapes(path, found, parameters)
        for name, parameter in parameters.items():
            parameter.copy_(file.get_tensor(name))


def _check_shapes(
    path: Path, found: dict[str, tuple[int, ...]], parameters: dict[str, Tensor]
) -> None:
    for name in sorted(found.keys() | parameters.keys()):
        got = found.get(name, "nothing")
        expected = tuple(parameters[name].shape) if name in parameters else "nothing"
        if got != expected:
            raise InputError(
                f"{path} has {got} as {name}, expected {expected}: its weights are of another "
                "model than the settings"
            )
