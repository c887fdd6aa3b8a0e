"""What the published code calls the parameters of our networks."""

import re

from ldcast.models import DenoiserConfig

# (pattern, replacement), all applied in turn; the autoencoder's names are the same here and there.
CONDITIONER_RULES = (
    (r"^(proj|analysis|temporal_transformer)\.", r"\1.0."),  # 0: the first input; NWP would be 1
    (r"\.query\.", ".Q."),
    (r"\.key_value\.", ".KV."),
    (r"^cascade\.", "resnet."),
)
# The layers of a residual block, and of the cross-attention that may follow it in the same list.
RES_BLOCK_LAYERS = {
    "conv1": "0.in_layers.2",
    "step_proj": "0.emb_layers.1",
    "conv2": "0.out_layers.3",
    "proj": "0.skip_connection",
    "attention": "1",
}


def autoencoder_name(name: str) -> str:
    """The published name of an `AutoencoderKL` parameter."""
    return name


def conditioner_name(name: str) -> str:
    """The published name of an `AFNOConditioner` parameter, below `context_encoder.`."""
    for pattern, replacement in CONDITIONER_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def denoiser_name(name: str, config: DenoiserConfig) -> str:
    """The published name of a `DenoiserUNet` parameter, below `model.`.

    There, `input_blocks` and `output_blocks` run on through all levels, and changes of resolution
    are entries among the residual blocks.
    """
    num_blocks = config.num_res_blocks
    per_level = num_blocks + 1
    stage_of_level = len(config.channel_multipliers) - 1
    match name.split("."):
        case ["step_embedding", *rest]:
            place = ["time_embed"]
        case ["enter", "0", *rest]:
            place = ["input_blocks.0.0"]
        case ["enter", level, *rest]:
            place = [f"input_blocks.{per_level * int(level)}.0.op"]
        case ["down", level, block, layer, *rest]:
            index = per_level * int(level) + 1 + int(block)
            place = [f"input_blocks.{index}", RES_BLOCK_LAYERS[layer]]
        case ["middle", block, layer, *rest]:
            position, *below = RES_BLOCK_LAYERS[layer].split(".")  # all in one list, after another
            place = ["middle_block", str(2 * int(block) + int(position)), *below]
        case ["up", stage, block, layer, *rest]:
            index = per_level * int(stage) + int(block)
            place = [f"output_blocks.{index}", RES_BLOCK_LAYERS[layer]]
        case ["leave", stage, "1", *rest] if int(stage) == stage_of_level:
            place = ["out.2"]
        case ["leave", stage, "1", *rest]:
            has_attention = stage_of_level - int(stage) in config.attention_levels
            position = 2 if has_attention else 1
            place = [f"output_blocks.{per_level * int(stage) + num_blocks}.{position}.conv"]
        case _:
            raise KeyError(name)
    return ".".join([*place, *rest])


def averaged_name(published: str) -> str:
    """Where the published file keeps the average of the denoiser's parameter `published`."""
    return "model_ema." + published.replace(".", "")
