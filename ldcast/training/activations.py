"""Trading time for memory: activations that are computed again instead of kept."""

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from ldcast.models.blocks import AFNOBlock, ResBlock3d
from ldcast.models.conditioner import TemporalTransformer
from ldcast.models.unet import ContextResBlock

# Together they hold nearly all activations, and none is inside another.
BLOCKS = (AFNOBlock, ContextResBlock, ResBlock3d, TemporalTransformer)


def checkpoint_activations(*networks: nn.Module) -> None:
    """From now on each of `BLOCKS` keeps its input alone for the backward pass.

    What is inside is computed again there: a third more work for much less memory. Results,
    parameters and their names are unchanged; without gradients nothing is done twice.
    Source: Chen et al. 2016 (Training deep nets with sublinear memory cost).
    """
    for network in networks:
        for block in network.modules():
            if isinstance(block, BLOCKS):
                block.forward = functools.partial(
                    checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
                )
