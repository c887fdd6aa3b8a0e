"""Spread of the members against the error of their mean: does the ensemble know how sure it is?

If the E members and the observation are draws from one distribution of variance s^2, the mean of
the members has the expected squared error s^2 (1 + 1/E). So the spread, the square root of the mean
over pixels and cases of the unbiased variance, has to be multiplied by sqrt((E + 1) / E).
Source: Fortin et al. 2014 (Journal of Hydrometeorology 15); Leutbecher and Palmer 2008 (Journal of
Computational Physics 227).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldcast.rain import valid_mask


@dataclass(frozen=True)
class SpreadScore:
    """Spread, error of the ensemble mean, and their ratio: 1 if reliable, less if overconfident."""

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Squared errors and squared deviations of all members, pixels, members: four sums."""
        mean = members.mean(dim=0)
        squares = [(mean - observation).square(), (members - mean).square().sum(dim=0)]
        totals = [square.nansum(dtype=torch.float64) for square in squares]
        num_pixels = valid_mask(observation).sum().double()
        return torch.stack([*totals, num_pixels, num_pixels * len(members)])

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """spread and rmse in mm/h, and spread_error_ratio, each (...); see `Score`.

        One member has neither spread nor ratio, and an rmse of 0 has no ratio: NaN.
        """
        squared_error, squared_deviation, num_pixels, num_values = np.moveaxis(sums, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # where there is nothing to divide by
            rmse = np.sqrt(squared_error / num_pixels)
            spread = np.sqrt(squared_deviation / (num_values - num_pixels))
            num_members = num_values / num_pixels
            ratio = np.sqrt((num_members + 1) / num_members) * spread / rmse
        return {
            "spread": spread,
            "rmse": rmse,
            "spread_error_ratio": np.where(rmse > 0, ratio, np.nan),
        }
