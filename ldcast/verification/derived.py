"""What is made of forecasts and of radar images alike and scored by itself: sums, and areas."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldcast.frames import FrameConfig
from ldcast.motion import motion_of_known
from ldcast.products.accumulate import window_sums, windows_of
from ldcast.products.areas import AreasOnGrid
from ldcast.products.ensemble import THRESHOLDS
from ldcast.verification.scores.crps import CRPSScore
from ldcast.verification.scores.fractions import FractionsScore
from ldcast.verification.scores.probabilities import BrierScore
from ldcast.verification.scores.ranks import RankScore
from ldcast.verification.scores.score import Score
from ldcast.verification.scores.spread import SpreadScore
from ldcast.verification.tally import Tally

SUM_BLOCKS = (1, 8, 64)  # pixels
SUM_SCALES = (1, 4, 16, 64)  # pixels
WHOLE = 0.999  # of an area, that must be known for it to be scored


@dataclass(frozen=True)
class Quantity:
    """One thing that is scored: rain rates, or sums over windows of so many minutes (0: rates), of
    pixels or of areas. thresholds: in its unit."""

    minutes: int
    is_of_areas: bool
    thresholds: tuple[float, ...]

    @property
    def name(self) -> str:
        what = f"sum_{self.minutes}min" if self.minutes else "mean"
        return f"area_{what}" if self.is_of_areas else what

    @property
    def unit(self) -> str:
        return "mm" if self.minutes else "mm/h"

    def scores(self) -> list[Score]:
        brier = [BrierScore(threshold) for threshold in self.thresholds]
        if self.is_of_areas:
            return [CRPSScore(1), RankScore(1), SpreadScore(), *brier]
        return [
            *(CRPSScore(size) for size in SUM_BLOCKS),
            *(RankScore(size) for size in SUM_BLOCKS),
            *(FractionsScore(threshold, SUM_SCALES) for threshold in self.thresholds),
            SpreadScore(),
            *brier,
        ]


@dataclass(frozen=True)
class Derived:
    """What is scored besides rain rates.

    accumulate: lengths of windows, minutes: "sum_60min", of those between the issue time and the
        last lead time. thresholds: mm, of these sums.
    areas: "area_mean", each area's mean rain rate, and "area_sum_60min", of those that lie wholly
        in a crop and have data.
    """

    accumulate: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    areas: AreasOnGrid | None = None

    def quantities(self) -> list[Quantity]:
        """All that is scored."""
        sums = [Quantity(minutes, False, self.thresholds) for minutes in self.accumulate]
        if self.areas is None:
            return sums
        of_areas = [replace(quantity, is_of_areas=True) for quantity in sums]
        return [*sums, Quantity(0, True, THRESHOLDS), *of_areas]

    def tallies(self) -> dict[str, Tally]:
        """Empty ones, by name."""
        return {quantity.name: Tally(quantity.scores()) for quantity in self.quantities()}

    def of(
        self, members: Tensor, past: Tensor, frames: FrameConfig, grid: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """By name, (E, N, h, w) each; of areas one row that has a column for each.

        members: (E, T, H, W) mm/h, of a forecast, or of the radar as one. past: (P, H, W) mm/h, the
        same for all, whose last frame begins the sums, and whose motion they follow. grid: of the
        domain, which areas need.
        """
        times, step = np.array([0, *frames.lead_minutes]), frames.minutes_per_frame
        fields = {0: members}  # by the length of windows
        motion = motion_of_known(past, step) if self.accumulate else None
        for minutes in self.accumulate:
            windows = windows_of(times, minutes)
            fields[minutes] = window_sums(past[-1:], members, motion, step, windows)
        made = {}
        for quantity in self.quantities():
            values = fields[quantity.minutes]
            if quantity.is_of_areas:
                pixels = self.areas(grid, tuple(members.shape[2:]))
                mean, _, share = pixels.over(values.cpu().numpy())
                known = np.where(share >= WHOLE, mean, np.nan)[:, :, None]
                values = torch.from_numpy(known).to(members.device)
            made[quantity.name] = values
        return made

    def describe(self, frames: FrameConfig) -> dict[str, dict[str, Any]]:
        """For `scores.json`, by name: what is scored, pixels or areas, unit, thresholds, and the
        end of each window, minutes."""
        return {
            quantity.name: {
                "of": "areas" if quantity.is_of_areas else "pixels",
                "unit": quantity.unit,
                "thresholds": quantity.thresholds,
                "lead_minutes": [lead for lead in frames.lead_minutes if lead >= quantity.minutes],
            }
            for quantity in self.quantities()
        }
