"""Rank histogram: is the observation as likely to fall between any two members as any others?

The observation's rank among E members is 0..E. For a reliable ensemble every rank is equally
frequent; a valley means too little spread, a slope a bias.
Source: Hamill 2001 (Monthly Weather Review 129), also on the ties of dry forecasts. The divergence
from flat: Leinonen et al. 2023 (LDCast).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldcast.rain import valid_mask
from ldcast.verification.scores.crps import block_mean


@dataclass(frozen=True)
class RankScore:
    """Shares of the ranks, and their Kullback-Leibler divergence from flat, of means over blocks.

    block_size: pixels; 1 ranks each pixel. Where the observation equals m members (most often all
    are dry) its rank is drawn, uniformly, from the m + 1 that it could have.
    """

    block_size: int

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """How often each rank 0..E was found: (E + 1,); see `Score`."""
        members = block_mean(members, self.block_size)
        observation = block_mean(observation, self.block_size)
        num_below = (members < observation).count_nonzero(dim=0)
        num_ties = (members == observation).count_nonzero(dim=0)
        # Drawn for all blocks, scored or not: the mask does not change the draws of the others.
        draw = torch.rand(observation.shape, generator=generator).to(observation.device)
        rank = num_below + (draw * (num_ties + 1)).long()
        counts = torch.bincount(rank[valid_mask(observation)], minlength=len(members) + 1)
        return counts.double()

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """rank_histogram (..., E + 1), shares that sum to 1, and rank_divergence (...), nats.

        The divergence is 0 for a flat histogram and log(E + 1) where all ranks are the same.
        """
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing was ranked
            shares = sums / sums.sum(axis=-1, keepdims=True)
        num_ranks = sums.shape[-1]
        logs = np.log(np.where(shares > 0, shares * num_ranks, 1))  # 0 log 0 = 0
        return {
            f"rank_histogram_{self.block_size}px": shares,
            f"rank_divergence_{self.block_size}px": (shares * logs).sum(axis=-1),
        }
