"""Fractions skill score: is there as much rain nearby as forecast, if not at the very pixel?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldcast.products.ensemble import exceedance_probability
from ldcast.rain import is_wet


@dataclass(frozen=True)
class FractionsScore:
    """Fractions skill score (FSS) of exceedance probabilities, 1 at best and 0 at worst.

    Around each pixel lies a window of scale x scale pixels. With f, the share of members that
    reach the threshold, averaged over the window, and o, the share of its pixels that are observed
    to reach it,
        FSS = 1 - sum (f - o)^2 / (sum f^2 + sum o^2),
    the sums going over the windows of all cases. Pixels that are not scored, and those beyond the
    border, count as below the threshold in both. A window of even size reaches one pixel further
    up and left than down and right.

    threshold: mm/h. scales: pixels.
    Source: Roberts and Lean 2008 (MWR 136), for the score; Schwartz et al. 2010 (Weather and
    Forecasting 25), for f. Necker et al. 2024 (QJRMS 150) compare this way of scoring an ensemble
    with others: it alone depends reasonably on the number of members.
    """

    threshold: float
    scales: tuple[int, ...]

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """For each scale the sums of (f - o)^2, f^2 and o^2."""
        forecast = exceedance_probability(members, self.threshold).nan_to_num(nan=0.0)
        observed = is_wet(observation, self.threshold)
        # Shares are float32: float64 adds them up without rounding, so nothing stays behind when a
        # window has left the rain.
        both = torch.stack([forecast.double(), observed.double()])
        sums = []
        for scale in self.scales:
            f, o = window_sums(both, scale) / scale**2
            sums += [(f - o).square().sum(), f.square().sum(), o.square().sum()]
        return torch.stack(sums)

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """fss_{threshold}mm_{scale}px; NaN where nobody ever reaches the threshold."""
        scores = {}
        for k, scale in enumerate(self.scales):
            error, forecast, observed = np.moveaxis(sums[..., 3 * k : 3 * k + 3], -1, 0)
            worst = forecast + observed
            fss = 1 - error / np.where(worst > 0, worst, np.nan)
            scores[f"fss_{self.threshold:g}mm_{scale}px"] = fss
        return scores


def window_sums(field: Tensor, size: int) -> Tensor:
    """Sums over the window of size x size pixels around each pixel; zeros beyond the border.

    field: (..., H, W), float64. Of an even size, one more pixel lies above and left than below and
        right of the centre.
    Returns the same shape. The time it takes does not depend on the size.
    """
    return _line_sums(_line_sums(field, size).mT, size).mT


def _line_sums(field: Tensor, size: int) -> Tensor:
    """Along the last axis, as differences of running sums."""
    before, after = size // 2, size - 1 - size // 2
    running = torch.nn.functional.pad(field, (before + 1, after)).cumsum(dim=-1)
    return running[..., size:] - running[..., :-size]
