"""How much rain falls in windows of time, as a forecast holds it; accumulate.py makes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldcast.products.statistics import STATISTICS_ENTRIES, Statistics

AMOUNT_THRESHOLDS = (5.0, 10.0, 20.0)  # mm, of probabilities where no others are asked for
PREFIX = "amount_"  # of the names of statistics, for those of amounts
AMOUNT_STATISTICS = tuple(PREFIX + name for name in STATISTICS_ENTRIES)
AMOUNT_ENTRIES = (
    *("rain_amount", "window_start", "window_end", "partly_observed", "along_motion"),
    *AMOUNT_STATISTICS,
)


@dataclass(frozen=True)
class Amounts:
    """What falls in N windows of time.

    rain_amount: (E, N, H, W) float32 mm, NaN where a rate of the window is.
    window_start, window_end: (N,) datetime64[s] UTC; the windows of one length after those of
        another, each in the order of time.
    is_partly_observed: (N,) bool, windows that begin before the issue time, with what the radar saw
        until then, the same in all members.
    is_along_motion: whether rain was followed from image to image, or images just added.
    statistics: of the members; thresholds and quantiles in mm.
    """

    rain_amount: np.ndarray
    window_start: np.ndarray
    window_end: np.ndarray
    is_partly_observed: np.ndarray
    is_along_motion: bool = True
    statistics: Statistics = field(default_factory=Statistics)

    def __post_init__(self) -> None:
        num_windows = self.rain_amount.shape[1]
        for values in (self.window_start, self.window_end, self.is_partly_observed):
            assert values.shape == (num_windows,), (values.shape, num_windows)

    @property
    def minutes(self) -> np.ndarray:
        """(N,) int, how long each window is."""
        return (self.window_end - self.window_start).astype("timedelta64[m]").astype(int)

    def entries(self) -> dict[str, Any]:
        """What a forecast file holds of them, by `AMOUNT_ENTRIES`."""
        return {
            "rain_amount": np.asarray(self.rain_amount, np.float32),
            "window_start": self.window_start.astype("datetime64[s]"),
            "window_end": self.window_end.astype("datetime64[s]"),
            "partly_observed": self.is_partly_observed,
            "along_motion": self.is_along_motion,
            **{PREFIX + name: values for name, values in self.statistics.entries().items()},
        }


def amounts_of(entries: Mapping[str, Any]) -> Amounts | None:
    """The amounts among the entries of a forecast file; None where there are none."""
    if "rain_amount" not in entries:
        return None
    statistics = {name: entries.get(PREFIX + name) for name in STATISTICS_ENTRIES}
    return Amounts(
        rain_amount=entries["rain_amount"],
        window_start=entries["window_start"],
        window_end=entries["window_end"],
        is_partly_observed=entries["partly_observed"].astype(bool),
        is_along_motion=bool(entries["along_motion"]),
        statistics=Statistics(**statistics),
    )
