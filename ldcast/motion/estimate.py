"""The motion of a domain, which may have borders without data: blocks, refined by optical flow."""

import torch
from torch import Tensor, nn

from ldcast.motion.carrying import data_box
from ldcast.motion.field import motion_field
from ldcast.motion.optical_flow import refine_motion


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
    motion = refine_motion(known, motion)
    beyond = (columns.start, width - columns.stop, rows.start, height - rows.stop)
    return nn.functional.pad(motion[None], beyond, mode="replicate")[0]
