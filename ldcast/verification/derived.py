"""What is made of forecasts and of radar images alike and scored by itself: sums, and areas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    def names(self) -> list[str]:
        """Of all that is scored, in this order."""
        sums = [f"sum_{minutes}min" for minutes in self.accumulate]
        if self.areas is None:
            return sums
        return [*sums, "area_mean", *(f"area_{name}" for name in sums)]

    def tallies(self) -> dict[str, Tally]:
        """Empty ones, by name."""
        return {name: Tally(self._scores(name)) for name in self.names()}

    def of(
        self, members: Tensor, past: Tensor, frames: FrameConfig, grid: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """By name, (E, N, h, w) each; of areas one row that has a column for each.

        members: (E, T, H, W) mm/h, of a forecast, or of the radar as one. past: (P, H, W) mm/h, the
        same for all, whose last frame begins the sums, and whose motion they follow. grid: of the
        domain, which areas need.
        """
        motion = motion_of_known(past, frames.minutes_per_frame)
        times = np.array([0, *frames.lead_minutes])
        made = {}
        for minutes in self.accumulate:
            windows = windows_of(times, minutes)
            made[f"sum_{minutes}min"] = window_sums(
                past[-1:], members, motion, frames.minutes_per_frame, windows
            )
        if self.areas is not None:
            pixels = self.areas(grid, tuple(members.shape[2:]))
            for name, values in {"area_mean": members, **_prefixed(made)}.items():
                mean, _, share = pixels.over(values.cpu().numpy())
                known = np.where(share >= WHOLE, mean, np.nan)[:, :, None]
                made[name] = torch.from_numpy(known).to(members.device)
        return made

    def describe(self, frames: FrameConfig) -> dict[str, dict[str, Any]]:
        """For `scores.json`, by name: unit, thresholds, and the end of each window, minutes."""
        about = {}
        for name in self.names():
            is_sum = name != "area_mean"
            length = int(name.removesuffix("min").rpartition("_")[2]) if is_sum else 0
            about[name] = {
                "unit": "mm" if is_sum else "mm/h",
                "thresholds": self.thresholds if is_sum else THRESHOLDS,
                "lead_minutes": [lead for lead in frames.lead_minutes if lead >= length],
            }
        return about

    def _scores(self, name: str) -> Sequence[Score]:
        is_of_areas = name.startswith("area_")
        thresholds = THRESHOLDS if name == "area_mean" else self.thresholds
        brier = [BrierScore(threshold) for threshold in thresholds]
        if is_of_areas:
            return [CRPSScore(1), RankScore(1), SpreadScore(), *brier]
        return [
            *(CRPSScore(size) for size in SUM_BLOCKS),
            *(RankScore(size) for size in SUM_BLOCKS),
            *(FractionsScore(threshold, SUM_SCALES) for threshold in thresholds),
            SpreadScore(),
            *brier,
        ]


def _prefixed(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"area_{name}": values for name, values in sums.items()}
