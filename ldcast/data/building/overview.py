"""What is in an archive: its months and gaps, by all of its times; its rain, by some frames."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldcast.data.building.plan import cadence_seconds
from ldcast.data.cadence import rounded_times
from ldcast.data.readers.gridded import GriddedRain
from ldcast.rain import WET_THRESHOLD, is_wet

RATE_EDGES = np.geomspace(0.1, 500.0, 38)  # mm/h, of the classes that wet pixels are counted in
QUANTILES = (0.5, 0.9, 0.99, 0.999)
_SIDE = 256  # of the maps: larger domains are thinned to every nth pixel


class Month(NamedTuple):
    """One month of an archive.

    month: datetime64[M]. num_frames: that are there. num_expected: that the cadence has in it, from
        the archive's first frame to its last.
    num_seen: frames that were looked at; of these num_blank without data.
    valid: share of pixels with data. wet: share of these. mean: mm/h. highest: mm/h. All of frames
        that are not blank, NaN without one.
    """

    month: np.datetime64
    num_frames: int
    num_expected: int
    num_seen: int
    num_blank: int
    valid: float
    wet: float
    mean: float
    highest: float


class Gap(NamedTuple):
    """Frames on both sides of missing times."""

    before: np.datetime64
    after: np.datetime64
    num_missing: int


@dataclass(frozen=True)
class Overview:
    """What is in an archive.

    minutes: its cadence. time: (T,) datetime64[s]. other_steps: how often frames are how many
        seconds apart where that is no whole multiple of the cadence.
    gaps: the longest first. rates: (N,) counts of wet pixels in the classes of `RATE_EDGES`.
    valid, wet: (h, w) share of the frames looked at with data, and of these with rain.
    wettest: (h, w) mm/h, of those the one with the highest mean, at `wettest_time`.
    step: every so many pixels along both sides is in the maps.
    """

    path: Path
    grid: dict[str, Any]
    shape: tuple[int, int]
    minutes: float
    time: np.ndarray
    other_steps: dict[int, int]
    months: list[Month]
    gaps: list[Gap]
    rates: np.ndarray
    valid: np.ndarray
    wet: np.ndarray
    wettest: np.ndarray
    wettest_time: np.datetime64
    step: int

    @property
    def num_missing(self) -> int:
        return sum(gap.num_missing for gap in self.gaps)

    def quantiles(self) -> list[float]:
        """mm/h, of the wet pixels, at `QUANTILES`: to the width of a class, 26 %; NaN if none."""
        if not self.rates.sum():
            return [np.nan] * len(QUANTILES)
        shares = np.cumsum(self.rates) / self.rates.sum()
        return [float(np.interp(level, shares, RATE_EDGES[1:])) for level in QUANTILES]


@dataclass
class _Tally:
    """Sums over frames of one month."""

    num_seen: int = 0
    num_blank: int = 0
    num_pixels: int = 0
    num_valid: int = 0
    num_wet: int = 0
    total: float = 0.0
    highest: float = np.nan


class _Maps:
    """Sums over frames, for each pixel of a thinned domain, and the wettest frame."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.step = -(-max(shape) // _SIDE)
        self.num_seen = 0
        thin = self._thin(np.zeros(shape))
        self.num_valid, self.num_wet = thin, thin.copy()
        self.wettest, self.index, self.highest_mean = self.num_wet, 0, -1.0

    def add(self, index: int, frame: np.ndarray, mean: float) -> None:
        thin = self._thin(frame)
        self.num_seen += 1
        self.num_valid += ~np.isnan(thin)
        self.num_wet += is_wet(thin, WET_THRESHOLD)
        if mean > self.highest_mean:
            self.wettest, self.index, self.highest_mean = thin.copy(), index, mean

    def _thin(self, frame: np.ndarray) -> np.ndarray:
        return frame[:: self.step, :: self.step]


def look_at(rain: GriddedRain, minutes: int, frames: Iterable[int]) -> Overview:
    """The overview of a store, of which the frames of these indices are read.

    minutes: to whose grid times are rounded; the cadence is that of the times.
    """
    time = rounded_times(rain.time, minutes)
    months = time.astype("datetime64[M]")
    tallies = {month: _Tally() for month in np.unique(months)}
    maps, rates = _Maps(rain.shape[1:]), np.zeros(len(RATE_EDGES) - 1, np.int64)
    whole = slice(None)
    for index in frames:
        frame = rain.read(slice(index, index + 1), whole, whole)[0]
        mean = _add(frame, tallies[months[index]], rates)
        maps.add(index, frame, mean)
    cadence = cadence_seconds(time, minutes)
    steps, counts = np.unique(np.diff(time).astype(np.int64), return_counts=True)
    is_other = steps % cadence != 0
    return Overview(
        path=Path(rain.where),
        grid=rain.grid,
        shape=rain.shape[1:],
        minutes=cadence / 60,
        time=time,
        other_steps=dict(zip(steps[is_other].tolist(), counts[is_other].tolist(), strict=True)),
        months=_months(time, cadence, tallies),
        gaps=_gaps(time, cadence),
        rates=rates,
        valid=maps.num_valid / max(maps.num_seen, 1),
        wet=np.where(maps.num_valid > 0, maps.num_wet / np.maximum(maps.num_valid, 1), np.nan),
        wettest=maps.wettest,
        wettest_time=time[maps.index],
        step=maps.step,
    )


def spread(time: np.ndarray, num_frames: int) -> list[int]:
    """Indices of so many frames, or all, evenly over the archive."""
    if num_frames >= len(time):
        return list(range(len(time)))
    return np.unique(np.linspace(0, len(time) - 1, num_frames).round().astype(int)).tolist()


def _add(frame: np.ndarray, tally: _Tally, rates: np.ndarray) -> float:
    """Adds a frame (H, W) mm/h to the sums; its mean, 0 without data."""
    values = frame[~np.isnan(frame)]
    tally.num_seen += 1
    if not len(values):
        tally.num_blank += 1
        return 0.0
    wet = values[is_wet(values, WET_THRESHOLD)]
    tally.num_pixels += frame.size
    tally.num_valid += len(values)
    tally.num_wet += len(wet)
    tally.total += float(values.sum(dtype=np.float64))
    tally.highest = float(np.fmax(tally.highest, values.max()))
    rates += np.histogram(np.clip(wet, RATE_EDGES[0], RATE_EDGES[-1]), RATE_EDGES)[0]
    return float(values.mean())


def _months(time: np.ndarray, cadence: int, tallies: dict[np.datetime64, _Tally]) -> list[Month]:
    """All months from the first to the last, those without a frame, too."""
    step = np.timedelta64(cadence, "s")
    numbers = np.arange(time[0].astype("datetime64[M]"), time[-1].astype("datetime64[M]") + 1)
    edges = np.append(numbers, numbers[-1:] + 1).astype("datetime64[s]")
    found = np.diff(np.searchsorted(time, edges))
    # Points of the cadence before each edge, from the first frame to the last.
    points = np.clip(-((time[0] - edges) // step), 0, (time[-1] - time[0]) // step + 1)
    return [
        _month(month, int(num), int(expected), tallies.get(month, _Tally()))
        for month, num, expected in zip(numbers, found, np.diff(points), strict=True)
    ]


def _month(month: np.datetime64, num_frames: int, num_expected: int, of: _Tally) -> Month:
    has_data = of.num_valid > 0
    return Month(
        month=month,
        num_frames=num_frames,
        num_expected=num_expected,
        num_seen=of.num_seen,
        num_blank=of.num_blank,
        valid=of.num_valid / of.num_pixels if has_data else np.nan,
        wet=of.num_wet / of.num_valid if has_data else np.nan,
        mean=of.total / of.num_valid if has_data else np.nan,
        highest=of.highest,
    )


def _gaps(time: np.ndarray, cadence: int) -> list[Gap]:
    steps = np.diff(time) // np.timedelta64(cadence, "s")
    wide = np.flatnonzero(steps > 1)
    longest = wide[np.argsort(-steps[wide], kind="stable")]
    return [Gap(time[at], time[at + 1], int(steps[at]) - 1) for at in longest]
