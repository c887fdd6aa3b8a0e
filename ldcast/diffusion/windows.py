"""A field too large for the networks, denoised in overlapping windows, step by step together.

Every denoiser call of the sampler becomes one for each window, and the predictions are blended with
weights that fall to zero towards the windows' edges. So the windows never drift apart: each step
starts from one common noisy field, and no border shows at the end.
Source: Bar-Tal et al. 2023 (MultiDiffusion), section 4, with smooth weights in place of equal ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldcast.diffusion.sampler import Denoiser
from ldcast.diffusion.schedule import Prediction

OVERLAP = 1 / 4  # of a window, that it shares with the next one at least


@dataclass(frozen=True)
class LatentWindow:
    """A part of a latent field, and how much its prediction counts there.

    rows, columns: of the field. weight: (rows, columns), at each cell of the field all windows'
    weights add up to 1.
    """

    rows: slice
    columns: slice
    weight: Tensor

    def cut(self, field: Tensor) -> Tensor:
        """This part of (..., h, w)."""
        return field[..., self.rows, self.columns]


def cover(height: int, width: int, size: int) -> list[LatentWindow]:
    """Windows of `size` x `size` cells (or the whole axis, where it is shorter) over a field."""
    rows, columns = _cover_axis(height, size), _cover_axis(width, size)
    return [
        LatentWindow(row, column, row_weight[:, None] * column_weight)
        for row, row_weight in rows
        for column, column_weight in columns
    ]


def denoise_together(groups: Sequence[tuple[Sequence[LatentWindow], Denoiser]]) -> Denoiser:
    """One denoiser of the whole field of one member, from those of its windows.

    groups: windows that go through the networks as one batch, and the denoiser of that batch.
    """

    def predict(z_noisy: Tensor, diffusion_step: Tensor) -> Prediction:
        assert len(z_noisy) == 1, f"{len(z_noisy)} members at once, not 1"
        whole = Prediction(*(torch.zeros_like(z_noisy) for _ in Prediction._fields))
        for windows, denoiser in groups:
            parts = torch.cat([window.cut(z_noisy) for window in windows])
            predictions = denoiser(parts, diffusion_step.expand(len(windows)))
            for blended, of_windows in zip(whole, predictions, strict=True):
                for window, part in zip(windows, of_windows, strict=True):
                    window.cut(blended).add_(part * window.weight.to(part))
        return whole

    return predict


def _cover_axis(length: int, size: int) -> list[tuple[slice, Tensor]]:
    """Evenly spaced pieces of an axis, each with its weights (size,)."""
    size = min(size, length)
    shared = int(size * OVERLAP)
    num = -(-(length - shared) // (size - shared))
    starts = [round(index * (length - size) / max(num - 1, 1)) for index in range(num)]
    # A tent over each piece: 1 in the middle, falling towards the edges, never quite 0.
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / (size / 2)
    ramp = (tent / (2 * OVERLAP)).clamp(max=1)
    total = torch.zeros(length)
    for start in starts:
        total[start : start + size] += ramp
    pieces = [slice(start, start + size) for start in starts]
    return [(piece, ramp / total[piece]) for piece in pieces]
