"""Names of published tensors; that the renamed networks answer the same is tested with each."""

import pytest
import torch
from golden_arrays import below, load

from ldcast.models import DenoiserConfig, DenoiserUNet
from ldcast.published import AUTOENCODER_RULES, CONDITIONER_RULES, denoiser_rules, rename


def test_renaming_keeps_every_tensor_once():
    state = below(load("unet"), "state.")
    renamed = rename(state, denoiser_rules(3, 1))
    assert len(renamed) == len(state)
    network = DenoiserUNet(DenoiserConfig(channels=8, num_res_blocks=1), 32, (16, 32, 64))
    assert renamed.keys() == network.state_dict().keys()


@pytest.mark.parametrize("num_res_blocks", [1, 2, 3])
@pytest.mark.parametrize("num_levels", [2, 3])
def test_rules_reach_every_parameter_of_other_sizes(num_res_blocks, num_levels):
    """Published names, made here as the published code counts its lists of blocks."""
    block = ("in_layers.2.bias", "emb_layers.1.bias", "out_layers.3.bias")
    names = ["time_embed.0.bias", "input_blocks.0.0.bias", "out.2.bias"]
    index = 0
    for level in range(num_levels):
        if level:
            index += 1
            names.append(f"input_blocks.{index}.0.op.bias")
        for _ in range(num_res_blocks):
            index += 1
            names += [f"input_blocks.{index}.0.{part}" for part in block]
            names.append(f"input_blocks.{index}.1.mlp.fc1.bias")
    for index in range(num_levels * (num_res_blocks + 1)):
        names += [f"output_blocks.{index}.0.{part}" for part in block]
    for stage in range(num_levels - 1):
        names.append(f"output_blocks.{stage * (num_res_blocks + 1) + num_res_blocks}.2.conv.bias")

    renamed = rename(
        dict.fromkeys(names, torch.zeros(1)), denoiser_rules(num_levels, num_res_blocks)
    )
    config = DenoiserConfig(
        channels=8,
        channel_multipliers=(1,) * num_levels,
        num_res_blocks=num_res_blocks,
        attention_levels=tuple(range(num_levels)),
    )
    network = DenoiserUNet(config, 4, (8,) * num_levels)
    assert len(renamed) == len(names)
    assert renamed.keys() <= network.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("encoders.0.bias", AUTOENCODER_RULES),
        ("proj.1.bias", CONDITIONER_RULES),
        ("input_blocks.99.0.bias", denoiser_rules(3, 1)),
    ],
)
def test_unknown_names_are_refused(name, rules):
    with pytest.raises(KeyError, match=name):
        rename({name: torch.zeros(1)}, rules)
