"""Continuous ranked probability score (CRPS) of an ensemble, per pixel or of means over blocks.

With members x_i, i = 1..E, and the observation y, the two forms are
    ensemble: mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 E^2)
    fair:     mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 E (E - 1))
The first scores the members as the whole forecast. The second is, on average over forecasts, what
the distribution that the members are drawn from would score, and so does not depend on E.
Source: Gneiting and Raftery 2007 (JASA 102), eq. 21; Ferro 2014 (QJRMS 140); Zamo and Naveau 2018
(Mathematical Geosciences 50), on the estimators.
"""

from dataclasses import dataclass
from functools import cache

import einops
import numpy as np
import torch
from torch import Tensor

from ldcast.rain import RainScale, is_wet, pad_to_multiple, valid_mask

SCALE = RainScale()


@dataclass(frozen=True)
class CRPSScore:
    """Both forms of the CRPS of rain (mm/h) and of log rain (log10 mm/h), means over blocks.

    block_size: pixels; 1 scores each pixel. Blocks with data in less than half of their pixels are
        not counted.
    """

    block_size: int

    def statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Sums over the blocks of the four scores, and the number of blocks; see `Score`."""
        observation = block_mean(observation, self.block_size)
        fields = _sort_members(block_mean(members, self.block_size))
        log_fields = [log_rain(field) for field in fields]  # still sorted
        scores = [
            *_both_forms(fields, observation),
            *_both_forms(log_fields, log_rain(observation)),
        ]
        totals = [score.nansum(dtype=torch.float64) for score in scores]
        return torch.stack([*totals, valid_mask(observation).sum().double()])

    def values(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """crps, fair_crps, crps_log_rain and fair_crps_log_rain, each (...); see `Score`."""
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing was scored
            means = sums[..., :-1] / sums[..., -1:]
        names = ("crps", "fair_crps", "crps_log_rain", "fair_crps_log_rain")
        return {f"{name}_{self.block_size}px": means[..., k] for k, name in enumerate(names)}


def crps_ensemble(members: Tensor, observation: Tensor) -> Tensor:
    """CRPS of the members themselves; 0 is perfect, with one member it is the absolute error.

    members: (E, ...), observation: (...), floating point, on one device, of one unit.
    Returns (...) in that unit, float32 or wider; NaN where the observation or any member is NaN.
    """
    return _both_forms(_sort_members(members), observation)[0]


def fair_crps(members: Tensor, observation: Tensor) -> Tensor:
    """Estimate of the CRPS of infinitely many such members; arguments as for `crps_ensemble`.

    A single forecast's may be below 0. With one member it is the absolute error.
    """
    return _both_forms(_sort_members(members), observation)[1]


def almost_fair_crps(members: Tensor, observation: Tensor, fairness: float) -> Tensor:
    """`fair_crps` by the share `fairness`, the rest `crps_ensemble`: for training.

    Source: Lang et al. 2024 (AIFS-CRPS, arXiv:2412.15832), section 2.
    """
    own, fair = _both_forms(_sort_members(members), observation)
    return fairness * fair + (1 - fairness) * own


def block_mean(rain_rate: Tensor, size: int) -> Tensor:
    """Means over blocks of size x size pixels, NaN where less than half of a block has data.

    rain_rate: (..., H, W), NaN = no data. Beyond the bottom and right edges there is no data.
    Returns (..., ceil(H / size), ceil(W / size)), of the same type; with size 1, rain_rate itself.
    """
    if size == 1:
        return rain_rate
    blocks = pad_to_multiple(rain_rate, size)
    count = _block_sum(valid_mask(blocks), size, torch.int16)
    # Float64 adds up float32 rain of 0.01 to 1000 mm/h in blocks of up to 64 pixels without any
    # rounding, so equal rain has equal means to the last bit, in any order and on any device.
    mean = _block_sum(blocks, size, torch.float64) / count
    return mean.where(2 * count >= size**2, torch.nan).to(rain_rate.dtype)


def log_rain(rain_rate: Tensor) -> Tensor:
    """log10 of mm/h, same shape; less than 0.1 mm/h counts as the dry value, NaN stays NaN."""
    is_kept = is_wet(rain_rate, SCALE.wet_threshold) | rain_rate.isnan()
    return rain_rate.where(is_kept, SCALE.dry_value).log10()


def _block_sum(field_2d: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Sums over blocks, without NaN, in dtype; down the columns first: several times faster."""
    strips = einops.rearrange(field_2d, "... (row y) width -> ... row y width", y=size)
    sums = strips.nansum(dim=-2, dtype=dtype)
    return einops.rearrange(sums, "... row (column x) -> ... row column x", x=size).sum(dim=-1)


def _both_forms(fields: list[Tensor], observation: Tensor) -> tuple[Tensor, Tensor]:
    """The ensemble and the fair CRPS, both (...), of sorted members, E times (...)."""
    num_members = len(fields)
    error = sum((field - observation).abs() for field in fields) / num_members
    # The gap between the k-th and the next of E sorted members lies between k (E - k) pairs. Sums
    # of gaps cannot cancel, so equal members have no distance at all, to the last bit.
    pair_distance = sum(
        (fields[k] - fields[k - 1]) * (k * (num_members - k)) for k in range(1, num_members)
    )
    fair = error - pair_distance / max(num_members * (num_members - 1), 1)
    return error - pair_distance / num_members**2, fair


def _sort_members(members: Tensor) -> list[Tensor]:
    """Members (E, ...) in rising order at every pixel, float32 or wider; NaN spreads.

    Whole fields pass through a sorting network: for 32 members on a CPU over ten times as fast as
    `Tensor.sort`, which gathers the members of one pixel after the other. They stay a list, since
    one field fits a CPU's cache and their stack does not.
    """
    if members.dtype in (torch.float16, torch.bfloat16):
        members = members.float()
    fields = list(members)
    for low, high in _comparators(len(fields)):
        first, second = fields[low], fields[high]
        fields[low], fields[high] = torch.minimum(first, second), torch.maximum(first, second)
    return fields


@cache
def _comparators(num: int) -> list[tuple[int, int]]:
    """Pairs of places to compare, one after the other, the lesser value going to the first.

    Sorted runs of 1, 2, 4, ... places are merged two by two; a last run may be incomplete.
    Source: Batcher 1968 (AFIPS Spring Joint Computer Conference 32), odd-even merging.
    """
    pairs = []
    run = 1
    while run < num:
        distance = run
        while distance >= 1:
            for low in range(num - distance):
                is_low = low // distance % 2 == (0 if distance == run else 1)
                if is_low and low // (2 * run) == (low + distance) // (2 * run):
                    pairs.append((low, low + distance))
            distance //= 2
        run *= 2
    return pairs
