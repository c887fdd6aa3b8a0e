"""placeholder"""

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from ldcast.models.blocks import AFNOBlock, ResBlock3d
from ldcast.models.conditioner import TemporalTransformer
from ldcast.models.unet import ContextResBlock


def checkpoint_activations(*networks: nn.Module) -> None:
    for network in networks:
        for block in network.modules():
            if isinstance(block, (ContextResBlock, AFNOBlock, ResBlock3d, TemporalTransformer)):
                block.forward = functools.partial(
                    checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
                )
