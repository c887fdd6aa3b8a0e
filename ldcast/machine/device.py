"""Where to compute and at which precision, as the flags --device and --amp say."""

import contextlib

import torch

from ldcast.errors import InputError

AMP_MODES = ("auto", "off", "bf16", "fp16")
AMP_HELP = "auto: bf16 on CUDA and on a CPU that has it, else off"  # of forecasts


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:N"; auto is CUDA where there is one.

    Raises InputError for another name and where the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"got device {name!r}, expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"got device {name!r}, expected auto, cpu, cuda or cuda:N")
    num_found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_found:
        raise InputError(f"got device {name!r}, but PyTorch sees {num_found} CUDA devices: use cpu")
    return device


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """What autocast computes in, in trainings; None means float32 throughout.

    amp: "auto" (bf16 on CUDA, off on a CPU), "off", "bf16" or "fp16". Raises InputError otherwise.
    Of forecasts: `ldcast.machine.half_precision.forecast_dtype`.
    """
    if amp not in AMP_MODES:
        raise InputError(f"got amp {amp!r}, expected one of {', '.join(AMP_MODES)}")
    if amp == "auto":
        amp = "bf16" if device.type == "cuda" else "off"
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def name_of_dtype(dtype: torch.dtype | None) -> str:
    """Such as bfloat16; float32 for None."""
    return str(dtype or torch.float32).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    """Mixed precision in `dtype`, or nothing where dtype is None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
