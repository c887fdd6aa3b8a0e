"""The arguments of a picture of a forecast, and what all kinds of pictures derive from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldcast.motion import PAST_INCOMPLETE, UPSTREAM_UNKNOWN
from ldcast.products.summary import LIKELY_MM_H, chance_of, ensemble_mean, readable_time


@dataclass(frozen=True)
class Story:
    """The arguments of `plot_forecast`, and what all kinds of picture derive from them."""

    past: np.ndarray
    rain: np.ndarray
    issue_time: np.datetime64
    lead_minutes: np.ndarray
    grid: Mapping[str, Any]
    chances: Mapping[float, np.ndarray] | None
    thresholds: tuple[float, ...]
    borders: Sequence[np.ndarray]
    quality: np.ndarray | None
    is_second_hand: np.ndarray | None
    later: np.ndarray | None

    @property
    def title(self) -> str:
        members = "1 member" if len(self.rain) == 1 else f"{len(self.rain)} members"
        calibrated = "" if self.chances is None else ", calibrated"
        return f"Rain forecast from {readable_time(self.issue_time)} UTC, {members}{calibrated}"

    @property
    def past_minutes(self) -> np.ndarray:
        """(past_frames,) minutes after `issue_time`, such as -15, -10, -5, 0."""
        return np.arange(1 - len(self.past), 1) * int(self.lead_minutes[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.past.shape[1:]

    @property
    def map_shape(self) -> tuple[float, float]:
        """Width and height of the domain, the longer one being 1."""
        rows, columns = self.shape
        height = rows * self.pixel_aspect
        return columns / max(height, columns), height / max(height, columns)

    @property
    def pixel_aspect(self) -> float:
        """Height of a pixel over its width."""
        if "pixel_size_m" not in self.grid:
            return 1.0
        width = float(self.grid["pixel_size_m"])
        return float(self.grid.get("pixel_size_y_m", width)) / width

    @property
    def main_threshold(self) -> float:
        """Where only one map of chances has room: the one nearest to `LIKELY_MM_H` by ratio."""
        return min(self.thresholds, key=lambda value: abs(math.log(value / LIKELY_MM_H)))

    def mean(self, frame: int) -> np.ndarray:
        """Of the members at one lead time, (H, W) mm/h."""
        return ensemble_mean(self.rain[:, frame])

    def chance(self, threshold: float, frame: int) -> np.ndarray:
        """Of at least `threshold` mm/h at one lead time, (H, W) in 0..1."""
        if self.chances is None:
            return chance_of(self.rain[:, frame], threshold)
        return self.chances[threshold][frame]

    def doubt(self, frame: int) -> np.ndarray | None:
        """(H, W) bool, where rain would come from what the radar did not see; None: not known.

        Not seen at the issue time, or not before it, where a gap could not be filled.
        """
        if self.quality is None:
            return None
        return np.isin(self.quality[frame], (UPSTREAM_UNKNOWN, PAST_INCOMPLETE))

    def name_time(self, minutes: int) -> str:
        """For example "+30 min, 22:30 UTC"."""
        sign = "+" if minutes > 0 else "−" if minutes < 0 else ""
        time = readable_time(self.issue_time + np.timedelta64(int(minutes), "m"))
        return f"{sign}{abs(minutes)} min, {time[-5:]} UTC"

    def is_continued(self, minutes: int) -> bool:
        """Whether the frame so far ahead was forecast from forecast frames, not from radar."""
        if self.is_second_hand is None:
            return False
        return bool(self.is_second_hand[self.lead_minutes == minutes].any())
