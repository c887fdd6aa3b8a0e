"""What an ensemble is reduced to: one map of rain, or of how likely rain is."""

import einops
import numpy as np
import torch
from torch import Tensor

from ldcast.rain import is_wet

THRESHOLDS = (0.1, 1.0, 10.0)  # mm/h; those that probabilities are judged and calibrated at


def exceedance_probability(members: Tensor, threshold: float) -> Tensor:
    """Share of the members with at least `threshold` mm/h.

    members: (E, ...) mm/h, NaN = no data.
    Returns (...) in 0..1, float32; NaN where any member is NaN.
    """
    share = is_wet(members, threshold).sum(dim=0, dtype=torch.float32) / len(members)
    # A sum keeps NaN, and takes a fraction of the time and memory of a mask for each member.
    return share.masked_fill(members.sum(dim=0).isnan(), torch.nan)


def probability_matched_mean(members: Tensor) -> Tensor:
    """The pattern of the ensemble mean with the rain rates of the members.

    A mean over members has the best places but smears out the amounts. Here the values of all
    members, sorted together, are cut into runs of E, one run for each pixel, and the middle of
    each run (of an even number the larger one of the two) goes to the pixel of the same rank in
    the ensemble mean. So the area with at least any amount is the members' mean area, rounded to
    whole pixels. Each frame is matched by itself; where the means are equal, later pixels in
    reading order count as larger. One member is its own matched mean.

    members: (E, ..., H, W) mm/h, float32 or wider. NaN marks pixels without data, the same ones in
        all members; they take no part.
    Returns (..., H, W) mm/h, NaN at those pixels.
    Source: Ebert 2001 (MWR 129), with the n/2-th value of each n kept, as its author describes it.
    """
    num_members, (height, width) = len(members), members.shape[-2:]
    mean = einops.rearrange(members.mean(dim=0), "... y x -> ... (y x)")
    # Sorting puts NaN last, in the pool and in the mean alike, so the runs keep their places.
    pool = _sort(einops.rearrange(members, "e ... y x -> ... (e y x)"))
    middles = pool[..., num_members // 2 :: num_members]  # (..., H * W), smallest first
    order = mean.argsort(dim=-1, stable=True)
    matched = torch.empty_like(mean).scatter(-1, order, middles)
    return einops.rearrange(matched, "... (y x) -> ... y x", y=height, x=width)


def _sort(values: Tensor) -> Tensor:
    """Sorted along the last axis, NaN last."""
    if values.device.type == "cpu":  # NumPy takes a thirtieth of the time of torch there
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values
