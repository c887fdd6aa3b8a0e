"""Baselines: simple forecasts that a model has to beat.

past: (past_frames, H, W) mm/h, oldest first, NaN = no data. num_lead: future frames.
Each returns one member, (1, num_lead, H, W) mm/h.
"""

import torch
from torch import Tensor


def persistence(past: Tensor, num_lead: int) -> Tensor:
    """The newest frame, unchanged; NaN where it is NaN."""
    return past[-1].repeat(1, num_lead, 1, 1)


def dry(past: Tensor, num_lead: int) -> Tensor:
    """No rain anywhere."""
    return torch.zeros_like(past[-1]).repeat(1, num_lead, 1, 1)
