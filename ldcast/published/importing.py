"""From the published tensors to a model folder: which are used, compared or left out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ldcast.config import DiffusionConfig, ModelConfig
from ldcast.diffusion.schedule import NUM_DIFFUSION_STEPS
from ldcast.errors import InputError
from ldcast.nowcast.ldcast import build
from ldcast.nowcast.model_folder import (
    WEIGHTS_NAME,
    network_tensors,
    write_description,
    write_tensors,
)
from ldcast.published.checks import (
    SCHEDULE_TABLES,
    check_copies,
    check_kinds,
    check_tensors,
    find_schedule,
    find_untrained,
)
from ldcast.published.names import (
    autoencoder_name,
    averaged_name,
    conditioner_name,
    denoiser_name,
)
from ldcast.published.reading import Checkpoint
from ldcast.published.sizes import (
    Shapes,
    autoencoder_config,
    conditioner_config,
    denoiser_config,
)

# Prefixes in the file of the latent diffusion model; the autoencoder's own file has none.
CONDITIONER, DENOISER, AVERAGED = "context_encoder.", "model.", "model_ema."
AUTOENCODER_COPIES = ("autoencoder.", "context_encoder.autoencoder.0.")
AVERAGING_SETTINGS = ("model_ema.decay", "model_ema.num_updates")
UNUSED_SCALAR = "log_var"
# Why tensors are left out, by the prefix of their names; the first that fits.
REASONS = {
    UNUSED_SCALAR: "takes part in nothing",
    AUTOENCODER_COPIES[0]: "a copy that equals the autoencoder's own file",
    AUTOENCODER_COPIES[1]: "a copy that equals the autoencoder's own file",
    DENOISER: "raw weights; forecasts use their averages, model_ema.*; see --keep-raw",
    AVERAGED: "settings of the averaging, for training only",
    "": "the noise schedule, equal to the one computed here",
}
MOST_NAMED = 5  # tensors of one reason; more are counted


@dataclass(frozen=True)
class Weights:
    """Tensors still in their files, by the names that they have in a model folder.

    origins: where each comes from, by the same names, for messages.
    """

    tensors: dict[str, Tensor]
    origins: dict[str, str]

    def __or__(self, other: "Weights") -> "Weights":
        return Weights(self.tensors | other.tensors, self.origins | other.origins)


@dataclass(frozen=True)
class PublishedModel:
    """A published model in our terms.

    weights: what a forecast uses. raw: the same with the denoiser as training had left it instead
        of its average; None where the file has no averages, because `weights` are raw then.
    notes: what became of every tensor of the files, line by line.
    warning: why its forecasts may be worthless, or "".
    """

    config: ModelConfig
    weights: Weights
    raw: Weights | None
    trained_on: dict[str, str]
    notes: tuple[str, ...]
    warning: str


@dataclass(frozen=True)
class _Names:
    """What the files call each tensor of a model folder; shapes by the names there."""

    autoencoder: dict[str, str]
    conditioner: dict[str, str]
    denoiser: dict[str, str]
    averages: dict[str, str]  # of the denoiser
    shapes: Shapes

    def expected(self, *tables: dict[str, str]) -> Shapes:
        """Shapes by published name of all tensors in some of the tables."""
        return {name: self.shapes[ours] for table in tables for ours, name in table.items()}


def match(first: Checkpoint, second: Checkpoint) -> PublishedModel:
    """The model in the files of an autoencoder and of a latent diffusion model built on it.

    Raises InputError that names tensors that are missing, unknown, of another shape, or different
    in two copies of the autoencoder, and for networks or a noise schedule unknown here.
    """
    check_kinds(first, second)
    config = _read_config(first, second)
    try:
        names = _name_tensors(config)
    except InputError as error:  # sizes that do not fit together
        raise InputError(f"{second.path}: {error}") from None
    has_averages = any(name.startswith(AVERAGED) for name in second.tensors)
    averages = names.averages if has_averages else {}
    copies = [p for p in AUTOENCODER_COPIES if any(n.startswith(p) for n in second.tensors)]

    in_first = names.expected(names.autoencoder)
    check_tensors(first, in_first, {UNUSED_SCALAR: ()})
    in_copies = {prefix + name: shape for prefix in copies for name, shape in in_first.items()}
    check_tensors(
        second,
        names.expected(names.conditioner, names.denoiser, averages) | in_copies,
        dict.fromkeys(SCHEDULE_TABLES, (NUM_DIFFUSION_STEPS,))
        | dict.fromkeys([*AVERAGING_SETTINGS, *(p + UNUSED_SCALAR for p in copies)], ()),
    )
    check_copies(first, second, copies)

    warning = find_untrained(second, names.conditioner.values())
    rest = _take(first, names.autoencoder) | _take(second, names.conditioner)
    raw = rest | _take(second, names.denoiser)
    return PublishedModel(
        config=config,
        weights=rest | _take(second, averages) if has_averages else raw,
        raw=raw if has_averages else None,
        trained_on={"imported_from": f"{first.path.name}, {second.path.name}"}
        | ({"warning": warning} if warning else {}),
        notes=(
            *_account(first, names.autoencoder),
            *_account(second, names.conditioner, averages or names.denoiser),
        ),
        warning=warning,
    )


def _read_config(first: Checkpoint, second: Checkpoint) -> ModelConfig:
    path = first.path  # of which a message speaks
    try:
        autoencoder = autoencoder_config(first.below(""))
        path = second.path
        conditioner = conditioner_config(second.below(CONDITIONER))
        denoiser = denoiser_config(second.below(DENOISER), conditioner.num_cascade_levels)
        return ModelConfig(
            autoencoder=autoencoder,
            conditioner=replace(conditioner, num_cascade_levels=len(denoiser.channel_multipliers)),
            denoiser=denoiser,
            diffusion=DiffusionConfig(schedule=find_schedule(second)),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _name_tensors(config: ModelConfig) -> _Names:
    with torch.device("meta"):  # shapes only
        networks = build(config).networks()
    names = {network: list(module.state_dict()) for network, module in networks.items()}
    denoiser = {name: denoiser_name(name, config.denoiser) for name in names["denoiser"]}
    shapes = {name: tuple(t.shape) for name, t in network_tensors(**networks).items()}
    return _Names(
        autoencoder={f"autoencoder.{n}": autoencoder_name(n) for n in names["autoencoder"]},
        conditioner={
            f"conditioner.{n}": CONDITIONER + conditioner_name(n) for n in names["conditioner"]
        },
        denoiser={f"denoiser.{n}": DENOISER + published for n, published in denoiser.items()},
        averages={f"denoiser.{n}": averaged_name(published) for n, published in denoiser.items()},
        shapes=shapes,
    )


def _take(checkpoint: Checkpoint, names: dict[str, str]) -> Weights:
    return Weights(
        {ours: checkpoint.tensors[name] for ours, name in names.items()},
        {ours: f"{name} of {checkpoint.path}" for ours, name in names.items()},
    )


def _account(checkpoint: Checkpoint, *used: dict[str, str]) -> list[str]:
    """How many tensors of a file are used, and why each of the others is not."""
    used_names = {name for table in used for name in table.values()}
    groups: dict[str, list[str]] = {}
    for name in checkpoint.tensors:
        if name not in used_names:
            prefix = next(prefix for prefix in REASONS if name.startswith(prefix))
            groups.setdefault(prefix, []).append(name)
    lines = [f"{checkpoint.path.name}: {len(used_names)} of {len(checkpoint.tensors)} tensors used"]
    for prefix, names in groups.items():
        what = ", ".join(names) if len(names) <= MOST_NAMED else f"{prefix}* ({len(names)})"
        lines.append(f"  not used: {what}: {REASONS[prefix]}")
    if any(name.startswith(DENOISER) for name in used_names):
        lines.append("  no averaged weights (model_ema.*) in the file: the raw ones are used")
    if checkpoint.training_state:
        what = ", ".join(checkpoint.training_state)
        lines.append(f"  not used: {what}: of the training run, beside its state_dict")
    return lines


def check_finite(
    weights: Weights, dtype: torch.dtype, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Raises InputError unless all values are finite in the float type that is to be written.

    progress: called with the number of bytes looked at.
    """
    for name, tensor in weights.tensors.items():
        if not torch.isfinite(tensor.to(dtype)).all():
            raise InputError(
                f"got NaN or infinite values in {weights.origins[name]}, expected finite ones of "
                f"{dtype}: its training has diverged, or the file is damaged"
            )
        progress(tensor.nbytes)


def write_models(
    model: PublishedModel,
    folders: dict[Path, Weights],
    dtype: torch.dtype,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes a model folder for each of the given weights, which are the model's or its raw ones.

    dtype: float type of the files. progress: called with the number of bytes written.
    All descriptions follow all weights, so an import that was cut short left no model.
    """
    for folder, weights in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS_NAME, weights.tensors, dtype=dtype, progress=progress)
    for folder, weights in folders.items():
        is_raw = model.raw is None or weights is model.raw
        about = {"denoiser": "raw weights" if is_raw else "averaged weights"}
        write_description(folder, "nowcaster", model.config, model.trained_on | about)


def count_bytes(weights: Weights, dtype: torch.dtype) -> int:
    """What `check_finite` and `write_models` together report to `progress`."""
    return sum(t.nbytes + t.numel() * dtype.itemsize for t in weights.tensors.values())
