"""Arrays of the published code (`golden/README.md`), its networks under our names, and comparing.

All networks of the published code lose modes on wide grids, so all here are built that way.
"""

import functools
import json
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
from ldcast.nowcaster import LDCast, build
from ldcast.published import AUTOENCODER_RULES, CONDITIONER_RULES, denoiser_rules, rename

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


def load_autoencoder(network: AutoencoderKL, state: dict[str, Tensor]) -> AutoencoderKL:
    network.load_state_dict(rename(state, AUTOENCODER_RULES))
    return network


def load_conditioner(network: AFNOConditioner, state: dict[str, Tensor]) -> AFNOConditioner:
    own = {name: t for name, t in state.items() if not name.startswith("autoencoder.")}
    network.load_state_dict(rename(own, CONDITIONER_RULES))
    return network


def load_denoiser(network: DenoiserUNet, state: dict[str, Tensor]) -> DenoiserUNet:
    config = network.config
    rules = denoiser_rules(len(config.channel_multipliers), config.num_res_blocks)
    network.load_state_dict(rename(state, rules))
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
    averaged = below(state, "model_ema.")  # there, names have no dots
    dotted = {name.replace(".", ""): name for name in below(state, "model.")}
    load_autoencoder(model.autoencoder, below(state, "autoencoder."))
    load_conditioner(model.latent_nowcaster.conditioner, below(state, "context_encoder."))
    load_denoiser(
        model.latent_nowcaster.denoiser, {dotted[name]: t for name, t in averaged.items()}
    )
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


def gradient_norms(names: list[str], network: nn.Module, rules: tuple) -> Tensor:
    """Norm of each parameter's gradient, in the order of published names."""
    parameters = dict(network.named_parameters())
    ours = rename(dict.fromkeys(names), rules)
    return torch.stack([parameters[name].grad.norm() for name in ours])


def assert_norms_close(got: Tensor, expected: Tensor) -> None:
    """Each gradient norm against itself, hence 1e-4.

    Some gradients are zero but for rounding, such as that of a bias before a norm that removes it:
    below 1e-6 of the largest, anything passes.
    """
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6 * expected.max().item())
