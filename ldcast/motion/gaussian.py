"""Gaussian means of fields, narrow and wide."""

import torch
from torch import Tensor, nn

CELL = 4  # pixels along which wide means are taken at once


def gaussian_means(fields: Tensor, deviation: float) -> Tensor:
    """Of (N, H, W), with a Gaussian of that many pixels; beyond the border is what is at it.

    Wide ones are taken of cells, and of their means linearly between them, which are means over a
    few pixels themselves.
    """
    if deviation < CELL:
        return _all_pixels(fields, deviation)
    size = fields.shape[1:]
    cells = nn.functional.adaptive_avg_pool2d(fields, [-(-pixels // CELL) for pixels in size])
    left = (deviation**2 - CELL**2 / 4) ** 0.5  # cells and lines between them have the rest
    means = _all_pixels(cells, left / CELL)
    return nn.functional.interpolate(means[None], size, mode="bilinear")[0]


def _all_pixels(fields: Tensor, deviation: float) -> Tensor:
    reach = round(3 * deviation) + 1
    offset = torch.arange(-reach, reach + 1, device=fields.device)
    line = torch.exp(-0.5 * (offset / deviation).square())
    line = (line / line.sum())[None, None]  # (1, 1, 2 reach + 1)
    padded = nn.functional.pad(fields[:, None], (reach,) * 4, mode="replicate")
    columns = nn.functional.conv2d(padded, line[..., None, :])
    return nn.functional.conv2d(columns, line[..., None])[:, 0]
