"""Names of published tensors; that the renamed networks answer the same is tested with each."""

import pytest
import torch

from ldcast.models import DenoiserConfig, DenoiserUNet
from ldcast.published.names import averaged_name, conditioner_name, denoiser_name


def biases_as_published(num_levels: int, num_res_blocks: int, num_attended: int) -> set[str]:
    """Some names of a UNet, made here as the published code counts its lists of blocks."""
    block = ("in_layers.2.bias", "emb_layers.1.bias", "out_layers.3.bias")
    names = {"time_embed.0.bias", "time_embed.2.bias", "input_blocks.0.0.bias", "out.2.bias"}
    for place in ("middle_block.0", "middle_block.2"):
        names |= {f"{place}.{part}" for part in block}
    names.add("middle_block.1.mlp.fc1.bias")
    index = 0
    for level in range(num_levels):
        if level:
            index += 1
            names.add(f"input_blocks.{index}.0.op.bias")
        for _ in range(num_res_blocks):
            index += 1
            names |= {f"input_blocks.{index}.0.{part}" for part in block}
            if level < num_attended:
                names.add(f"input_blocks.{index}.1.mlp.fc1.bias")
    index = 0
    for level in reversed(range(num_levels)):
        for place in range(num_res_blocks + 1):
            names |= {f"output_blocks.{index}.0.{part}" for part in block}
            if level < num_attended:
                names.add(f"output_blocks.{index}.1.mlp.fc1.bias")
            if level and place == num_res_blocks:
                position = 2 if level < num_attended else 1
                names.add(f"output_blocks.{index}.{position}.conv.bias")
            index += 1
    return names


@pytest.mark.parametrize("num_res_blocks", [1, 2, 3])
@pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
@pytest.mark.parametrize("num_attended", [0, 1, 2])
def test_denoisers_of_other_sizes_have_the_names_of_the_published_code(
    num_levels, num_res_blocks, num_attended
):
    config = DenoiserConfig(
        channels=8,
        channel_multipliers=(1,) * num_levels,
        num_res_blocks=num_res_blocks,
        attention_levels=tuple(range(min(num_attended, num_levels))),
    )
    with torch.device("meta"):
        network = DenoiserUNet(config, 4, (8,) * num_levels)
    names = [denoiser_name(name, config) for name in network.state_dict()]
    assert len(set(names)) == len(names)
    endings = ("op.bias", "conv.bias", "fc1.bias", "_layers.1.bias", "_layers.2.bias", "3.bias")
    biases = {name for name in names if name.endswith((*endings, "0.bias", "out.2.bias"))}
    biases |= {"time_embed.2.bias"} & set(names)
    assert biases == biases_as_published(num_levels, num_res_blocks, num_attended)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("proj.weight", "proj.0.weight"),
        ("analysis.3.filter.w1", "analysis.0.3.filter.w1"),
        ("temporal_transformer.attn1.query.bias", "temporal_transformer.0.attn1.Q.bias"),
        ("temporal_transformer.attn2.key_value.bias", "temporal_transformer.0.attn2.KV.bias"),
        ("temporal_transformer.attn2.proj.bias", "temporal_transformer.0.attn2.proj.bias"),
        ("forecast.0.norm1.weight", "forecast.0.norm1.weight"),
        ("cascade.1.proj.bias", "resnet.1.proj.bias"),
    ],
)
def test_names_of_the_conditioner(name, published):
    assert conditioner_name(name) == published


def test_averages_are_named_without_dots():
    assert averaged_name("input_blocks.3.0.op.bias") == "model_ema.input_blocks30opbias"


@pytest.mark.parametrize("name", ["down.0.0.norm.bias", "exit.0.bias"])
def test_a_name_that_no_denoiser_has_is_refused(name):
    with pytest.raises(KeyError):
        denoiser_name(name, DenoiserConfig())
