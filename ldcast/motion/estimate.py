"""The motion of a domain, which may have borders without data: blocks, refined by optical flow."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldcast.motion.carrying import data_box
from ldcast.motion.field import motion_field
from ldcast.motion.gaussian import gaussian_means
from ldcast.motion.optical_flow import refine_motion

FAR_WIDTH = 64.0  # pixels, standard deviation; chosen as optical_flow.py's settings are


def motion_of_known(past: Tensor, minutes: int) -> Tensor:
    """Motion (2, H, W) in pixels per frame of past (T, H, W), as if it ended where its data do.

    So it is the same whether a domain is padded, or a margin not known, or not. Zero where nothing
    can be followed: such rain stands still.
    """
    height, width = past.shape[1:]
    rows, columns = data_box(past)
    known = past[:, rows, columns]
    motion = motion_field(known, minutes)
    if motion is None:
        return torch.zeros(2, height, width, device=past.device)
    if min(known.shape[1:]) > 1:  # of one line there is no gradient
        motion = refine_motion(known, motion)
    return _spread_beyond(motion, rows, columns, (height, width))


def far_motion(past: Tensor, motion: Tensor) -> Tensor:
    """Motion (2, H, W) for a way of an hour and more: the mean of wide surroundings.

    What differs from place to place does not last, and errors of the motion add up along the way.
    Training crops know less of their surroundings than a whole domain does (`Input.margin`).
    past, motion: as `motion_of_known` has them. It, too, is as if the domain ended where data do.
    """
    rows, columns = data_box(past)
    smoothed = gaussian_means(motion[:, rows, columns], FAR_WIDTH)
    return _spread_beyond(smoothed, rows, columns, past.shape[1:])


def _spread_beyond(motion: Tensor, rows: slice, columns: slice, size: Sequence[int]) -> Tensor:
    """Motion of a part, these rows and columns, for all of a domain of that size (H, W): beyond,
    it is that of the nearest pixel."""
    height, width = size
    beyond = (columns.start, width - columns.stop, rows.start, height - rows.stop)
    return nn.functional.pad(motion[None], beyond, mode="replicate")[0]
