"""The settings of a published model, read from the names and shapes of its tensors.

Not in any shape, and so taken as published: 4 past and 20 future frames, the number of heads of the
temporal attention, that the denoiser predicts noise, the rain transform, and that wide grids lose
Fourier modes.
"""

import re
from statistics import mode

from ldcast.errors import InputError
from ldcast.models import AutoencoderConfig, ConditionerConfig, DenoiserConfig

Shapes = dict[str, tuple[int, ...]]

NUM_HEADS = 8
NUM_LEVELS = 2  # of the autoencoder
FILTER = r".*\.filter\.[wb][12]"


def autoencoder_config(shapes: Shapes) -> AutoencoderConfig:
    """Widths of the autoencoder; shapes by published name.

    Raises InputError where no tensor determines a size, and for other than two levels.
    """
    num_levels = count(shapes, r"encoder\.(\d+)\.conv1\..*")
    if num_levels > NUM_LEVELS:
        raise InputError(
            f"got an autoencoder of {num_levels} levels, expected {NUM_LEVELS}: here, as in the "
            "published forecasts, latents are 4 times coarser than the rain"
        )
    fine, coarse = (
        agreed(f"encoder.{level}.conv1.weight", sizes(shapes, rf"encoder\.{level}\.(conv|norm2).*"))
        for level in (0, 2)
    )
    moments = sizes(shapes, r"to_moments\..*")
    latent_channels = [size // 2 for size in moments] + sizes(shapes, r"to_decoder\.weight", 1)
    return AutoencoderConfig(
        channels=fine,
        latent_channels=agreed("to_decoder.weight", latent_channels),
        coarse_channels=0 if coarse == fine else coarse,
    )


def conditioner_config(shapes: Shapes) -> ConditionerConfig:
    """Widths and depths of the conditioner; shapes by published name, below `context_encoder.`."""
    first = "context_encoder.analysis.0.0"
    widths = sizes(shapes, r"(analysis\.0|forecast)\.\d+\.norm[12]\..*")
    queries = sizes(shapes, r"temporal_transformer\.0\.attn[12]\.Q\..*")
    query_channels = agreed("context_encoder.temporal_transformer.0.attn1.Q.weight", queries)
    return ConditionerConfig(
        channels=agreed(f"{first}.norm1.weight", widths),
        num_analysis_blocks=max(count(shapes, r"analysis\.0\.(\d+)\..*"), 1),
        num_forecast_blocks=max(count(shapes, r"forecast\.(\d+)\..*"), 1),
        num_cascade_levels=1 + count(shapes, r"resnet\.(\d+)\..*"),
        num_afno_blocks=agreed(f"{first}.filter.w1", sizes(shapes, FILTER, 1)),
        num_heads=NUM_HEADS,
        head_channels=query_channels // NUM_HEADS,
        drop_wide_modes=True,
    )


def denoiser_config(shapes: Shapes, num_context_levels: int) -> DenoiserConfig:
    """Widths, depth and levels of the denoiser; shapes by published name, below `model.`.

    num_context_levels: of the conditioner, which has as many; one of three witnesses.
    Raises InputError where a level's width is no multiple of the first one's.
    """
    num_levels = mode(
        [
            1 + count(shapes, r"input_blocks\.(\d+)\.0\.op\..*"),
            1 + count(shapes, r"output_blocks\.(\d+)\.\d\.conv\..*"),
            num_context_levels,
        ]
    )
    per_level = max(round(count(shapes, r"input_blocks\.(\d+)\..*") / num_levels), 2)
    channels = sizes(shapes, r"input_blocks\.0\.0\..*")
    channels += sizes(shapes, r"out\.2\.weight", 1) + sizes(shapes, r"time_embed\.0\.weight", 1)
    channels = agreed("model.input_blocks.0.0.weight", channels)
    multipliers, attention_levels = [], []
    for level in range(num_levels):
        blocks = _blocks(level, num_levels, per_level)
        widths = sizes(shapes, blocks + r"\.0\.(?:in|emb|out)_layers\..*")
        first = f"model.input_blocks.{per_level * level + 1}"
        width = agreed(f"{first}.0.in_layers.2.weight", widths)
        if not channels or width % channels:
            raise InputError(
                f"got a denoiser of {channels} channels with {width} at level {level}, expected a "
                "multiple"
            )
        multipliers.append(width // channels)
        num_attended = count(shapes, rf"({blocks})\.1\.(?:pre_proj|filter|mlp)\..*")
        if 2 * num_attended > 2 * per_level - 1:  # more than half of the blocks
            attention_levels.append(level)
    return DenoiserConfig(
        channels=channels,
        channel_multipliers=tuple(multipliers),
        num_res_blocks=per_level - 1,
        attention_levels=tuple(attention_levels),
        num_afno_blocks=agreed("model.middle_block.1.filter.w1", sizes(shapes, FILTER, 1)),
        drop_wide_modes=True,
    )


def _blocks(level: int, num_levels: int, per_level: int) -> str:
    """Pattern of the names of a level's residual blocks, on the way down and up."""
    down = range(per_level * level + 1, per_level * (level + 1))
    first_up = per_level * (num_levels - 1 - level)
    up = range(first_up, first_up + per_level)
    numbers = "|".join(map(str, down)), "|".join(map(str, up))
    return rf"(?:input_blocks\.(?:{numbers[0]})|output_blocks\.(?:{numbers[1]}))"


def sizes(shapes: Shapes, pattern: str, axis: int = 0) -> list[int]:
    """Sizes of an axis of all tensors whose names match."""
    return [
        shape[axis]
        for name, shape in shapes.items()
        if len(shape) > axis and re.fullmatch(pattern, name)
    ]


def agreed(example: str, candidates: list[int]) -> int:
    """The most common size: a tensor of a wrong shape is outvoted, and can then be named.

    Raises InputError that names the tensor `example` where there is no candidate.
    """
    if not candidates:
        raise InputError(
            f"got no tensor {example}, expected one, or others that determine its size"
        )
    return mode(candidates)


def count(shapes: Shapes, pattern: str) -> int:
    """How many different texts the pattern's first group matches among the names.

    Numbers are counted, not read: one stray name with a large number must not make a deep network.
    """
    matches = (re.fullmatch(pattern, name) for name in shapes)
    return len({match[1] for match in matches if match})
