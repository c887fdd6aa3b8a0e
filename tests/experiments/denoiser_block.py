"""Separable convolutions: fewer weights; without the setting, the networks are the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from ldcast.config import SMALL_DIFFUSION
from ldcast.models import DenoiserUNet

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


def shapes(use_separable_blocks):
    config = replace(SMALL_DIFFUSION.denoiser, use_separable_blocks=use_separable_blocks)
    network = DenoiserUNet(config, 16, (32, 64, 128))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


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
config = replace(SMALL_DIFFUSION.denoiser, use_separable_blocks=True)
network = DenoiserUNet(config, 16, (32, 64, 128))
assert not network.down[0][0].conv2[-1].weight.any()  # each branch is silent at first
