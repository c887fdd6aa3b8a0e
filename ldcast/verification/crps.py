"""Continuous ranked probability score (CRPS) of an ensemble, per pixel or of means over blocks.

With members x_i, i = 1..E, and the observation y, the two forms are
    ensemble: mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 E^2)
    fair:     mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 E (E - 1))
The first scores the members as the whole forecast. The second is, on average over forecasts, what
the distribution that the members are drawn from would score, and so does not depend on E.
Source: Gneiting and Raftery 2007 (JASA 102), eq. 21; Ferro 2014 (QJRMS 140); Zamo and Naveau 2018
(Mathematical Geosciences 50), on the estimators.
"""

import einops
import torch
from torch import Tensor

from ldcast.nowcaster import pad_to_multiple


def crps_ensemble(members: Tensor, observation: Tensor) -> Tensor:
    """CRPS of the members themselves; 0 is perfect, with one member it is the absolute error.

    members: (E, ...), observation: (...), floating point, on one device, of one unit.
    Returns (...) in that unit, float32 or wider; NaN where the observation or any member is NaN.
    """
    num_members = len(members)
    error, pair_distance = _error_and_pair_distance(members, observation)
    return error - pair_distance / num_members**2


def fair_crps(members: Tensor, observation: Tensor) -> Tensor:
    """Estimate of the CRPS of infinitely many such members; arguments as for `crps_ensemble`.

    A single forecast's may be below 0. With one member it is the absolute error.
    """
    num_members = len(members)
    error, pair_distance = _error_and_pair_distance(members, observation)
    return error - pair_distance / max(num_members * (num_members - 1), 1)


def block_mean(rain_rate: Tensor, size: int) -> Tensor:
    """Means over blocks of size x size pixels, NaN where less than half of a block has data.

    rain_rate: (..., H, W), NaN = no data. Beyond the bottom and right edges there is no data.
    Returns (..., ceil(H / size), ceil(W / size)).
    """
    blocks = einops.rearrange(
        pad_to_multiple(rain_rate, size),
        "... (row y) (column x) -> ... row column (y x)",
        y=size,
        x=size,
    )
    has_data = 2 * (~blocks.isnan()).sum(dim=-1) >= size**2
    return blocks.nanmean(dim=-1).where(has_data, torch.nan)


def _error_and_pair_distance(members: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
    """Both (...): the mean of |x_i - y|, and the sum of |x_i - x_j| over the pairs i < j."""
    if members.dtype in (torch.float16, torch.bfloat16):
        members = members.float()
    error = (members - observation).abs().mean(dim=0)
    # The gap between the k-th and the next of E sorted members lies between k (E - k) pairs. Sums
    # of gaps cannot cancel, so equal members have no distance at all, to the last bit.
    num_members = len(members)
    gaps = members.sort(dim=0).values.diff(dim=0)  # (E - 1, ...)
    rank = torch.arange(1, num_members, device=members.device, dtype=members.dtype)
    return error, torch.tensordot(rank * (num_members - rank), gaps, dims=1)
