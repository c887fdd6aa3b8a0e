"""How much of the area is wet in the members, and how much was: is there too much drizzle?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldcast.rain import WET_THRESHOLD, is_wet, valid_mask


@dataclass(frozen=True)
class WetAreaScore:
    """Share of the pixels with 0.1 mm/h or more, of a member and observed, and their ratio."""

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Wet pixels of a mean member, of the observation, and pixels: three sums."""
        is_valid = valid_mask(observation)
        wet = (is_wet(members, WET_THRESHOLD) & is_valid).sum().double() / len(members)
        observed = is_wet(observation, WET_THRESHOLD).sum().double()
        return torch.stack([wet, observed, is_valid.sum().double()])

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """wet_area and wet_area_observed in 0..1, and wet_area_ratio, each (...); see `Score`.

        Where nothing wet was observed there is no ratio: NaN.
        """
        wet, observed, num_pixels = np.moveaxis(sums, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # where there is nothing to divide by
            return {
                "wet_area": wet / num_pixels,
                "wet_area_observed": observed / num_pixels,
                "wet_area_ratio": np.where(observed > 0, wet / observed, np.nan),
            }
