"""Separable convolutions: fewer weights; without the setting, the networks are the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from ldcast.inputs.registry import build_inputs
from ldcast.nowcast.latent_nowcaster import build_networks
from ldcast.nowcast.model_folder import read_nowcaster

config = json.loads(Path("runs/separable/config.json").read_text())["model"]["denoiser"]
assert config["use_separable_blocks"] is True
with np.load("separable.npz") as forecast:
    assert np.isfinite(forecast["rain_rate"]).all()

published = load_file("ldcast/bundled/model.safetensors")
prefix = "denoiser."
published = {
    name.removeprefix(prefix): tuple(tensor.shape)
    for name, tensor in published.items()
    if name.startswith(prefix)
}


bundled = read_nowcaster("bundled").model


def denoiser(use_separable_blocks):
    block = replace(bundled.denoiser, use_separable_blocks=use_separable_blocks)
    return build_networks(replace(bundled, denoiser=block), build_inputs(bundled.inputs))[1]


def shapes(use_separable_blocks):
    tensors = denoiser(use_separable_blocks).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


usual, separable = shapes(False), shapes(True)
assert usual == published
inner = [name for name in separable if ".conv" in name and name.endswith("weight")]
kernels = {separable[name][2:] for name in inner}
assert kernels == {(1, 3, 3), (3, 1, 1)}
num_usual, num_separable = (
    sum(np.prod(shape) for name, shape in found.items() if ".conv" in name)
    for found in (usual, separable)
)
assert num_separable < 0.5 * num_usual
network = denoiser(True)
assert not network.down[0][0].conv2[-1].weight.any()  # each branch is silent at first
