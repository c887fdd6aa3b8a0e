"""Arrays of the published code (`golden/README.md`), its networks under our names, and comparing.

All networks of the published code lose modes on wide grids, so all here are built that way.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ldcast.config import ModelConfig
from ldcast.models import (
    AFNOConditioner,
    AutoencoderConfig,
    AutoencoderKL,
    ConditionerConfig,
    DenoiserConfig,
    DenoiserUNet,
)
from ldcast.nowcast.ldcast import LDCast, build
from ldcast.published.names import (
    autoencoder_name,
    averaged_name,
    conditioner_name,
    denoiser_name,
)

GOLDEN = Path(__file__).parent / "golden"

# Of the largest reference value. The published code repeats itself to 2e-6 (threads, kernels); the
# smallest slip tried on it, the tanh form of GELU, shows as 3e-5 or more.
TOLERANCE = 1e-5


@functools.cache
def load(name: str) -> dict[str, Tensor]:
    """All tensors of a file; shared by the tests, so never change one in place."""
    with safe_open(GOLDEN / f"{name}.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@functools.cache
def notes(name: str) -> dict:
    """What the file's metadata says about the sizes."""
    with safe_open(GOLDEN / f"{name}.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["meta"])


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest reference value."""
    assert got.shape == expected.shape, (got.shape, expected.shape)
    return ((got - expected).abs().max() / expected.abs().max()).item()


def assert_close(got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    error = relative_error(got, expected)
    assert error <= tolerance, f"differs by {error:.1e} of the largest value"


def published_state(
    network: nn.Module, state: dict[str, Tensor], name_of: Callable[[str], str]
) -> dict[str, Tensor]:
    """The state dict of a network from published tensors, all of which must be used."""
    names = {ours: name_of(ours) for ours in network.state_dict()}
    assert sorted(names.values()) == sorted(state)
    return {ours: state[published] for ours, published in names.items()}


def load_autoencoder(network: AutoencoderKL, state: dict[str, Tensor]) -> AutoencoderKL:
    network.load_state_dict(published_state(network, state, autoencoder_name))
    return network


def load_conditioner(network: AFNOConditioner, state: dict[str, Tensor]) -> AFNOConditioner:
    own = {name: t for name, t in state.items() if not name.startswith("autoencoder.")}
    network.load_state_dict(published_state(network, own, conditioner_name))
    return network


def load_denoiser(
    network: DenoiserUNet, state: dict[str, Tensor], is_averaged: bool = False
) -> DenoiserUNet:
    def name_of(name: str) -> str:
        published = denoiser_name(name, network.config)
        return averaged_name(published) if is_averaged else published

    network.load_state_dict(published_state(network, state, name_of))
    return network


@functools.cache
def nowcaster() -> LDCast:
    """The whole system of `forecast_e2e` and `plms`, with the averaged weights of its denoiser."""
    model = build(
        ModelConfig(
            autoencoder=AutoencoderConfig(latent_channels=8),
            conditioner=ConditionerConfig(
                channels=16, num_analysis_blocks=1, num_forecast_blocks=1, drop_wide_modes=True
            ),
            denoiser=DenoiserConfig(
                channels=8, num_res_blocks=1, channel_multipliers=(1, 2, 2), drop_wide_modes=True
            ),
        )
    )
    state = below(load("forecast_e2e"), "ldm.")
    averaged = {name: t for name, t in state.items() if name.startswith("model_ema.")}
    load_autoencoder(model.autoencoder, below(state, "autoencoder."))
    load_conditioner(model.latent_nowcaster.conditioner, below(state, "context_encoder."))
    load_denoiser(model.latent_nowcaster.denoiser, averaged, is_averaged=True)
    return model.eval()


def record_outputs(**modules: nn.Module) -> dict[str, Tensor]:
    """A table that fills with each module's output, by the name given, when the network runs."""
    outputs = {}

    def keep(name: str):
        def hook(_module, _inputs, output) -> None:
            outputs[name] = output

        return hook

    for name, module in modules.items():
        module.register_forward_hook(keep(name))
    return outputs


def gradient_norms(names: list[str], network: nn.Module, name_of: Callable[[str], str]) -> Tensor:
    """Norm of each parameter's gradient, in the order of published names."""
    parameters = {name_of(ours): parameter for ours, parameter in network.named_parameters()}
    return torch.stack([parameters[name].grad.norm() for name in names])


def assert_norms_close(got: Tensor, expected: Tensor) -> None:
    """Each gradient norm against itself, hence 1e-4.

    Some gradients are zero but for rounding, such as that of a bias before a norm that removes it:
    below 1e-6 of the largest, anything passes.
    """
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6 * expected.max().item())
