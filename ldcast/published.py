"""Names of the tensors in the published files, and what they are called here."""

import re

from torch import Tensor

# One rule per line, first match wins: published name -> name here, regular expressions.
AUTOENCODER_RULES = ((r"(encoder|decoder|to_moments|to_decoder)\.(.*)", r"\1.\2"),)
CONDITIONER_RULES = (
    (r"proj\.0\.(.*)", r"proj.\1"),
    (r"analysis\.0\.(.*)", r"analysis.\1"),
    (r"temporal_transformer\.0\.(attn\d)\.Q\.(.*)", r"temporal_transformer.\1.query.\2"),
    (r"temporal_transformer\.0\.(attn\d)\.KV\.(.*)", r"temporal_transformer.\1.key_value.\2"),
    (r"temporal_transformer\.0\.(.*)", r"temporal_transformer.\1"),
    (r"(forecast\..*)", r"\1"),
    (r"resnet\.(.*)", r"cascade.\1"),
)
RES_BLOCK_RULES = (
    (r"in_layers\.2\.", "conv1."),
    (r"emb_layers\.1\.", "step_proj."),
    (r"out_layers\.3\.", "conv2."),
    (r"skip_connection\.", "proj."),
)


def rename(state: dict[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The tensors of a published state dict under our names.

    Raises KeyError for a name that no rule matches.
    """
    return {_rename_one(name, rules): tensor for name, tensor in state.items()}


def _rename_one(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise KeyError(name)


def denoiser_rules(num_levels: int, num_res_blocks: int) -> tuple[tuple[str, str], ...]:
    """Rules for a UNet: `input_blocks` and `output_blocks` run on through all levels there.

    Each entry of those lists holds a residual block (`0`), where there is one its cross-attention
    (`1`), and at the end of a level on the way up the upsampling (last).
    """
    rules = [
        (r"time_embed\.(.*)", r"step_embedding.\1"),
        (r"input_blocks\.0\.0\.(.*)", r"enter.0.\1"),
        (r"out\.2\.(.*)", rf"leave.{num_levels - 1}.1.\1"),
        *_block_rules(r"middle_block\.0", "middle.0", attention=r"middle_block\.1"),
        *_block_rules(r"middle_block\.2", "middle.1"),
    ]
    per_level = num_res_blocks + 1
    for level in range(num_levels):
        rules.append((rf"input_blocks\.{per_level * level}\.0\.op\.(.*)", rf"enter.{level}.\1"))
        for block in range(num_res_blocks):
            published = rf"input_blocks\.{per_level * level + 1 + block}\.0"
            rules += _block_rules(published, f"down.{level}.{block}")
    for stage in range(num_levels):
        for block in range(per_level):
            published = rf"output_blocks\.{per_level * stage + block}"
            rules += _block_rules(published + r"\.0", f"up.{stage}.{block}")
            rules.append((published + r"\.\d\.conv\.(.*)", rf"leave.{stage}.1.\1"))
    return tuple(rules)


def _block_rules(published: str, ours: str, attention: str | None = None) -> list[tuple[str, str]]:
    """Rules for one residual block and the cross-attention that follows it."""
    attention = attention or re.sub(r"\.0$", ".1", published)
    inner = [(published + r"\." + p + "(.*)", f"{ours}.{o}" + r"\1") for p, o in RES_BLOCK_RULES]
    return [*inner, (attention + r"\.((?:pre_proj|filter|mlp)\..*)", f"{ours}.attention." + r"\1")]
