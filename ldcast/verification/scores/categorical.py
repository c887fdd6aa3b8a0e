"""Scores of yes or no: does it rain that much where the one map of the ensemble says so?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldcast.products.ensemble import probability_matched_mean
from ldcast.rain import is_wet


@dataclass(frozen=True)
class MatchedMeanScore:
    """Critical success index (CSI) of the probability-matched mean, 1 at best and 0 at worst.

    CSI = hits / (hits + misses + false alarms), pixels of all cases counted together; the many
    pixels that are rightly forecast to stay below the threshold do not count.

    thresholds: mm/h, reached by at least that much.
    Source: Schaefer 1990 (Weather and Forecasting 5), for the index.
    """

    thresholds: tuple[float, ...]

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """For each threshold the number of hits, and of pixels that are forecast or observed."""
        matched = probability_matched_mean(members)
        counts = []
        for threshold in self.thresholds:
            forecast, observed = is_wet(matched, threshold), is_wet(observation, threshold)
            counts += [(forecast & observed).sum(), (forecast | observed).sum()]
        return torch.stack(counts).double()

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """csi_pmm_{threshold}mm; NaN where no pixel is forecast or observed to reach it."""
        scores = {}
        for k, threshold in enumerate(self.thresholds):
            hits, either = sums[..., 2 * k], sums[..., 2 * k + 1]
            scores[f"csi_pmm_{threshold:g}mm"] = hits / np.where(either > 0, either, np.nan)
        return scores
