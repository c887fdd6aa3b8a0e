"""Brier score of exceedance probabilities, its decomposition, and the reliability curve.

The forecast probability of E members is one of k/E, k = 0..E. With n_k forecasts of it, o_k of
them followed by the event, N = sum_k n_k and the base rate o = sum_k o_k / N,
    reliability = sum_k n_k (k/E - o_k / n_k)^2 / N      0 is best
    resolution  = sum_k n_k (o_k / n_k - o)^2 / N        larger is better
    uncertainty = o (1 - o)                              not the forecast's doing
    Brier score = reliability - resolution + uncertainty 0 is best, and exact: nothing is binned
Source: Brier 1950 (Monthly Weather Review 78); Murphy 1973 (Journal of Applied Meteorology 12).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldcast.rain import is_wet, valid_mask


@dataclass(frozen=True)
class BrierScore:
    """Scores of the probability of at least `threshold` mm/h, per pixel: the share of members."""

    threshold: float

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """n_k, then o_k, for k = 0..E: (2 (E + 1),); see `Score`."""
        num_exceeding = is_wet(members, self.threshold).count_nonzero(dim=0)
        num_bins = len(members) + 1
        forecasts = num_exceeding[valid_mask(observation)]
        hits = num_exceeding[is_wet(observation, self.threshold)]  # NaN is not wet
        counts = [torch.bincount(chosen, minlength=num_bins) for chosen in (forecasts, hits)]
        return torch.cat(counts).double()

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Score and its three terms (...); observed frequency and n_k, each (..., E + 1)."""
        num_forecasts, num_hits = np.split(sums, 2, axis=-1)
        probability = np.linspace(0, 1, num_forecasts.shape[-1])
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing was forecast
            frequency = num_hits / num_forecasts
            share = num_forecasts / num_forecasts.sum(axis=-1, keepdims=True)
            base_rate = num_hits.sum(axis=-1) / num_forecasts.sum(axis=-1)
        known = np.where(num_forecasts > 0, frequency, 0)  # what follows weighs it by n_k
        square = known * (1 - probability) ** 2 + (1 - known) * probability**2
        resolution = (known - base_rate[..., None]) ** 2
        scores = {
            "brier": (share * square).sum(axis=-1),
            "brier_reliability": (share * (probability - known) ** 2).sum(axis=-1),
            "brier_resolution": (share * resolution).sum(axis=-1),
            "brier_uncertainty": base_rate * (1 - base_rate),
            "observed_frequency": frequency,
            "num_forecasts": num_forecasts,
        }
        return {f"{name}_{self.threshold:g}mm": value for name, value in scores.items()}
