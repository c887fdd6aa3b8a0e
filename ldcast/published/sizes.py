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

    Raises InputError where no tensor tells a size, and for other than two levels.
    """
    num_levels = count(shapes, r"encoder\.(\d+)\..*") // 2
    if num_levels not in (0, NUM_LEVELS):
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
        num_analysis_blocks=count(shapes, r"analysis\.0\.(\d+)\..*"),
        num_forecast_blocks=count(shapes, r"forecast\.(\d+)\..*"),
        num_cascade_levels=1 + count(shapes, r"resnet\.(\d+)\..*"),
        num_afno_blocks=agreed(f"{first}.filter.w1", sizes(shapes, FILTER, 1)),
        num_heads=NUM_HEADS,
        head_channels=query_channels // NUM_HEADS,
        drop_wide_modes=True,
    )


def denoiser_config(shapes: Shapes) -> DenoiserConfig:
    """Widths, depth and levels of the denoiser; shapes by published name, below `model.`.

    Raises InputError where a level's width is no multiple of the first one's.
    """
    downsampling = (re.fullmatch(r"input_blocks\.(\d+)\.0\.op\..*", name) for name in shapes)
    changes = sorted({int(match[1]) for match in downsampling if match})
    per_level = changes[0] if changes else count(shapes, r"input_blocks\.(\d+)\..*")
    channels = sizes(shapes, r"input_blocks\.0\.0\..*")
    channels += sizes(shapes, r"out\.2\.weight", 1) + sizes(shapes, r"time_embed\.0\.weight", 1)
    channels = agreed("model.input_blocks.0.0.weight", channels)
    multipliers, attention_levels = [], []
    for level in range(len(changes) + 1):
        blocks = range(per_level * level + 1, per_level * (level + 1))
        place = rf"input_blocks\.({'|'.join(map(str, blocks))})"
        widths = sizes(shapes, place + r"\.0\.(in|emb|out)_layers\..*")
        width = agreed(f"model.input_blocks.{per_level * level + 1}.0.in_layers.2.weight", widths)
        if width % channels:
            raise InputError(
                f"got a denoiser of {channels} channels with {width} at level {level}, expected a "
                "multiple"
            )
        multipliers.append(width // channels)
        if any(re.fullmatch(place + r"\.1\..*", name) for name in shapes):
            attention_levels.append(level)
    return DenoiserConfig(
        channels=channels,
        channel_multipliers=tuple(multipliers),
        num_res_blocks=per_level - 1,
        attention_levels=tuple(attention_levels),
        num_afno_blocks=agreed("model.middle_block.1.filter.w1", sizes(shapes, FILTER, 1)),
        drop_wide_modes=True,
    )


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
        raise InputError(f"got no tensor {example}, expected one, or others that tell its size")
    return mode(candidates)


def count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that the pattern's group matches in any name."""
    matches = (re.fullmatch(pattern, name) for name in shapes)
    return max((int(match[1]) + 1 for match in matches if match), default=0)
