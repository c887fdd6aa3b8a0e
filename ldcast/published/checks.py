"""What must hold for two published files to make one model."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ldcast.diffusion.schedule import NUM_DIFFUSION_STEPS, SCHEDULES, NoiseSchedule
from ldcast.errors import InputError
from ldcast.published.reading import Checkpoint
from ldcast.published.sizes import Shapes

SECOND_INPUT = "context_encoder.proj.1."
# Buffers in which the published code keeps its noise schedule.
SCHEDULE_TABLES = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
)
PUBLISHED_SCHEDULES = ("sqrt_linear", "cosine")  # there called linear and cosine
NUM_NAMED = 3  # tensors in a message


def check_kinds(first: Checkpoint, second: Checkpoint) -> None:
    """Raises InputError unless they are an autoencoder and a model that forecasts from radar."""
    kinds = _kind(first), _kind(second)
    if kinds != ("an autoencoder", "a latent diffusion model"):
        raise InputError(
            f"got {kinds[0]} in {first.path} and {kinds[1]} in {second.path}, expected an "
            "autoencoder in the first and a latent diffusion model in the second"
        )
    if any(name.startswith(SECOND_INPUT) for name in second.tensors):
        raise InputError(
            f"{second.path} has a second input ({SECOND_INPUT}*), expected a model that forecasts "
            "from radar alone"
        )


def _kind(checkpoint: Checkpoint) -> str:
    if any(name.startswith("model.") for name in checkpoint.tensors):
        return "a latent diffusion model"
    if any(name.startswith(("encoder.", "to_decoder.")) for name in checkpoint.tensors):
        return "an autoencoder"
    return "other tensors"


def check_tensors(checkpoint: Checkpoint, required: Shapes, optional: Shapes) -> None:
    """Raises InputError unless a file has all required tensors, no unknown ones, and the shapes."""
    found, expected = checkpoint.shapes, required | optional
    missing = [f"got nothing as {n}, expected {required[n]}" for n in required if n not in found]
    unknown = [f"got {found[n]} as {n}, expected nothing" for n in found if n not in expected]
    misshapen = [
        f"got {found[n]} as {n}, expected {expected[n]}"
        for n in found
        if n in expected and found[n] != expected[n]
    ]
    problems = [_abridge(faults, "; ") for faults in (missing, misshapen, unknown) if faults]
    if problems:
        raise InputError(f"{checkpoint.path}: {'; '.join(problems)}")


def check_copies(first: Checkpoint, second: Checkpoint, prefixes: Iterable[str]) -> None:
    """Raises InputError unless the copies in the second file equal the first file's tensors.

    Files of different float types are compared in the one with fewer digits.
    """
    different = [
        prefix + name
        for prefix in prefixes
        for name, tensor in first.tensors.items()
        if prefix + name in second.tensors and not _is_same(second.tensors[prefix + name], tensor)
    ]
    if different:
        raise InputError(
            f"{second.path}: {_abridge(different, ', ')} differ from {first.path}, expected the "
            "autoencoder that the model was trained with"
        )


def _is_same(a: Tensor, b: Tensor) -> bool:
    coarser = max(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return torch.equal(a.to(coarser).nan_to_num(), b.to(coarser).nan_to_num())


def find_schedule(second: Checkpoint) -> str:
    """Name of the noise schedule whose tables a file has; of the published one if it has none.

    Raises InputError where they are none of ours.
    """
    found = {name: second.tensors[name] for name in SCHEDULE_TABLES if name in second.tensors}
    different = {}
    for schedule_name in PUBLISHED_SCHEDULES:
        tables = _schedule_tables(SCHEDULES[schedule_name]())
        different[schedule_name] = [n for n in found if not _is_close(found[n], tables[n])]
    nearest = min(different, key=lambda name: len(different[name]))
    if not different[nearest]:
        return nearest
    got = ", ".join(f"{name} {tuple(found[name].shape)}" for name in different[nearest])
    raise InputError(
        f"got tables of another noise schedule, {got}, expected those of "
        f"{' or '.join(PUBLISHED_SCHEDULES)}, ({NUM_DIFFUSION_STEPS},) each"
    )


def _schedule_tables(schedule: NoiseSchedule) -> dict[str, Tensor]:
    alpha_bar = schedule.alpha_bar
    before = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
    beta = 1 - alpha_bar / before
    tables = beta, alpha_bar, before, schedule.signal, schedule.sigma
    return dict(zip(SCHEDULE_TABLES, tables, strict=True))


def _is_close(stored: Tensor, computed: Tensor) -> bool:
    """Equal to the rounding of the stored type, or of float32, in which the tables were made."""
    eps = max(torch.finfo(stored.dtype).eps, torch.finfo(torch.float32).eps)
    smallest = torch.finfo(stored.dtype).tiny
    return stored.shape == computed.shape and torch.allclose(
        stored.double(), computed, rtol=4 * eps, atol=smallest
    )


def find_untrained(second: Checkpoint, names: Iterable[str]) -> str:
    """A warning where the conditioner's norms are as they were made, otherwise nothing.

    names: all tensors of the conditioner.
    """
    norms = [name for name in names if re.search(r"\.norm\d\.(weight|bias)$", name)]
    if all((second.tensors[name] == name.endswith("weight")).all() for name in norms):
        return (
            "the LayerNorm weights of the conditioner are all exactly 1 and the biases 0: it was "
            "never trained. Training of before July 2023 left it out; expect poor forecasts"
        )
    return ""


def _abridge(texts: list[str], separator: str) -> str:
    more = len(texts) - NUM_NAMED
    return separator.join(texts[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
