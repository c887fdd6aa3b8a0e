"""The statistics of an ensemble that a forecast file can hold beside the members."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ldcast.errors import InputError
from ldcast.products.ensemble import exceedance_probability, probability_matched_mean


@dataclass(frozen=True)
class Statistics:
    """What the members of a forecast were reduced to; each None where it was not asked for.

    exceedance_threshold: (K,) mm/h; exceedance_probability: (K, T, H, W) float32 in 0..1, the
        chance of at least each threshold.
    quantile_level: (Q,) in 0..1; quantile: (Q, T, H, W) float32 mm/h.
    ensemble_mean, probability_matched_mean: (T, H, W) float32 mm/h.
    NaN = no forecast. A field has the name of its entry in the forecast file.
    """

    exceedance_threshold: np.ndarray | None = None
    exceedance_probability: np.ndarray | None = None
    quantile_level: np.ndarray | None = None
    quantile: np.ndarray | None = None
    ensemble_mean: np.ndarray | None = None
    probability_matched_mean: np.ndarray | None = None

    def __post_init__(self) -> None:
        for axis, values in STATISTICS_AXES.items():
            points, maps = getattr(self, axis), getattr(self, values)
            assert (points is None) == (maps is None), f"only one of {axis} and {values} is given"
            if maps is not None:
                assert len(points) == len(maps), (axis, len(points), len(maps))

    def entries(self) -> dict[str, np.ndarray]:
        """Those that are there, by their names."""
        values = {name: getattr(self, name) for name in STATISTICS_ENTRIES}
        return {name: value for name, value in values.items() if value is not None}

    def maps(self) -> dict[str, np.ndarray]:
        """Those that are there and have the axes (..., T, H, W)."""
        return {
            name: value for name, value in self.entries().items() if name not in STATISTICS_AXES
        }


STATISTICS_ENTRIES = tuple(field.name for field in fields(Statistics))
# What the first axis of a statistic stands for: both entries are there, or neither.
STATISTICS_AXES = {
    "exceedance_threshold": "exceedance_probability",
    "quantile_level": "quantile",
}


def check_statistics(
    thresholds: Sequence[float] = (), quantile_levels: Sequence[float] = ()
) -> None:
    """Raises InputError for what `ensemble_statistics` cannot reduce to; call before the work.

    thresholds: mm/h, finite and above 0. quantile_levels: 0..1. Both in rising order, each once.
    """
    check_thresholds(thresholds, "rain rates above 0 mm/h", "0.1 1 5 10")
    if not _is_rising(quantile_levels, low=0, high=1):
        raise InputError(
            f"got quantile levels {_listed(quantile_levels)}, expected numbers from 0 to 1 in "
            "rising order, each once, such as 0.1 0.5 0.9"
        )


def check_thresholds(thresholds: Sequence[float], expected: str, example: str) -> None:
    """Raises InputError for thresholds of probabilities that are not what is expected."""
    if not _is_rising(thresholds, low=np.nextafter(0, 1), high=np.finfo(np.float32).max):
        raise InputError(
            f"got thresholds {_listed(thresholds)} for probabilities, expected {expected} in "
            f"rising order, each once, such as {example}"
        )


def ensemble_statistics(
    rain_rate: np.ndarray,
    thresholds: Sequence[float] = (),
    quantile_levels: Sequence[float] = (),
    use_means: bool = False,
) -> Statistics:
    """The statistics asked for; none for no threshold, no level and no means.

    rain_rate: (E, T, H, W) float32 mm/h, NaN = no forecast. A pixel where any member has none is
        NaN in all statistics, and takes no part in the probability-matched mean.
    thresholds: mm/h. Probabilities are the shares of members with at least each of them.
    quantile_levels: 0 is the lowest member, 1 the highest; between two members linear, so level p
        is at p (E - 1) of the sorted ones, counted from 0 (NumPy's default; Hyndman and Fan 1996,
        type 7).
    use_means: the ensemble mean and the probability-matched mean.
    Lead times are reduced one by one: beyond the result, memory holds a few copies of the members
    of one lead time.
    Raises InputError as `check_statistics`.
    """
    check_statistics(thresholds, quantile_levels)
    shape = rain_rate.shape[1:]  # (T, H, W)
    result = Statistics(
        **_room("exceedance_threshold", thresholds, shape),
        **_room("quantile_level", quantile_levels, shape),
        ensemble_mean=np.empty(shape, np.float32) if use_means else None,
        probability_matched_mean=np.empty(shape, np.float32) if use_means else None,
    )
    for frame in range(shape[0]):
        members = _drop_partial_data(torch.from_numpy(rain_rate[:, frame]))  # (E, H, W)
        for index, threshold in enumerate(thresholds):
            chance = exceedance_probability(members, threshold)
            result.exceedance_probability[index, frame] = chance.numpy()
        if len(quantile_levels):
            result.quantile[:, frame] = np.quantile(members.numpy(), quantile_levels, axis=0)
        if use_means:
            result.ensemble_mean[frame] = members.mean(dim=0).numpy()
            matched = probability_matched_mean(members)
            result.probability_matched_mean[frame] = matched.numpy()
    return result


def _room(
    axis: str, points: Sequence[float], shape: tuple[int, int, int]
) -> dict[str, np.ndarray | None]:
    """`axis` and an array to be filled with what belongs to it; nothing without points."""
    if not len(points):
        return {}
    maps = np.empty((len(points), *shape), np.float32)
    return {axis: np.array(points, np.float64), STATISTICS_AXES[axis]: maps}


def _drop_partial_data(members: Tensor) -> Tensor:
    """(E, ...) with NaN in all members where any has it; the same tensor if that changes nothing.

    Else the pool of the probability-matched mean would have other pixels than the mean.
    """
    is_missing = members.isnan()
    any_missing = is_missing.any(dim=0)
    if is_missing.sum() == len(members) * any_missing.sum():
        return members
    return members.masked_fill(any_missing, torch.nan)


def _is_rising(values: Sequence[float], low: float, high: float) -> bool:
    array = np.array(values, np.float64)
    # Comparisons with NaN are false.
    return bool(((low <= array) & (array <= high)).all() and (np.diff(array) > 0).all())


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
