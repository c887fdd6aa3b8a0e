"""Following air along a motion field: where it was, and rain carried with it."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from ldcast.rain import valid_mask

MIN_WEIGHT = 0.5  # of the four pixels around a point, what must have data to know its rain
# From one motion to the other; chosen by the absolute error of rain carried over 5 to 100 minutes
# (docs/bundled-model.md).
FAR_MINUTES = (30, 60)


def positions_upstream(motion: Tensor, border: int = 0) -> Iterator[Tensor]:
    """Where the air of each pixel was 1, 2, ... frames before, without end: (2, H, W), rows first.

    motion: (2, H, W), down and right in pixels per frame, the same at all times; outside the domain
        it is that of the nearest pixel. With its sign changed: where the air will be.
    border: pixels on all sides whose air is not followed; then (2, H - 2 border, W - 2 border).
    """
    height, width = motion.shape[-2:]
    position = pixel_positions(height, width, motion)
    position = position[:, border : height - border, border : width - border]
    while True:
        row, column = position.round().long()
        position = position - motion[:, row.clamp(0, height - 1), column.clamp(0, width - 1)]
        yield position


def follow_upstream(
    motion: Tensor, far_motion: Tensor, num_frames: int, minutes: int, border: int = 0
) -> Tensor:
    """Where the air of each pixel was 1, 2, ... frames before, (num_frames, 2, h, w), rows first.

    Up to half an hour as `positions_upstream` of the motion says, from an hour on as that of the
    far motion does, and in between on the line between both.
    motion, far_motion, border: as there. minutes: between frames.
    """
    first, last = (of / minutes for of in FAR_MINUTES)
    ways = zip(*(positions_upstream(of, border) for of in (motion, far_motion)), strict=True)
    positions = [
        torch.lerp(near, far, min(max((frame - first) / (last - first), 0.0), 1.0))
        for frame, (near, far) in enumerate(islice(ways, num_frames), start=1)
    ]
    return torch.stack(positions)


def pixels_at(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pixel nearest to each position (2, H, W): row, column, whether it is in the domain."""
    height, width = position.shape[-2:]
    row, column = position.round().long()
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return row.clamp(0, height - 1), column.clamp(0, width - 1), is_inside


def carry(rain_rate: Tensor, motion: Tensor, num_frames: int) -> Tensor:
    """Rain (H, W) mm/h as it is `num_frames` later, or earlier if below 0, if it moves unchanged.

    rain_rate: (H, W) mm/h, NaN = no data. motion: as for `positions_upstream`.
    Returns float32; NaN where the air comes from outside the domain or from where there is no data.
    Source: semi-Lagrangian advection, Germann and Zawadzki 2002 (Monthly Weather Review 130); here
    between pixels by bilinear interpolation of the rain rate.
    """
    direction = 1 if num_frames > 0 else -1
    upstream = positions_upstream(motion * direction)
    for _ in range(abs(num_frames)):
        position = next(upstream)
    return rain_at(position[None], rain_rate)[0]


def carry_mirrored(rain_rate: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Rain (N, h, w) mm/h as it is carried, and the same with a guess where the air comes from
    beyond the data.

    There it has the rain that a mirror at the edges of the data would show, which is nearer to what
    comes in than none at all; NaN is left only where data within these edges are missing.
    rain_rate: (H, W) mm/h, NaN = no data; or (N, H, W), what each image is made of.
    positions: (N, 2, h, w), where the air of each image was, of `follow_upstream`.
    """
    carried = rain_at(positions, rain_rate)
    rows, columns = data_box(rain_rate)
    corner = positions.new_tensor([rows.start, columns.start])[:, None, None]
    mirrored = rain_at(positions - corner, rain_rate[..., rows, columns], padding="reflection")
    return carried, mirrored.where(carried.isnan(), carried)


def data_box(rain_rate: Tensor) -> tuple[slice, slice]:
    """Rows and columns between the first and the last that have data, in (..., H, W); all, where
    none has."""
    has_data = valid_mask(rain_rate).reshape(-1, *rain_rate.shape[-2:]).any(dim=0)
    return tuple(_extent(has_data.any(dim=axis)) for axis in (1, 0))


def _extent(lines: Tensor) -> slice:
    """From the first to the last of lines (N,) that are true; all, where none is."""
    found = lines.nonzero().flatten().tolist() or [0, len(lines) - 1]
    return slice(found[0], found[-1] + 1)


def rain_at(positions: Tensor, rain_rate: Tensor, padding: str = "zeros") -> Tensor:
    """(N, h, w) mm/h at positions (N, 2, h, w), rows first, of rain (H, W), or (N, H, W) of which
    each has its own; NaN where unknown.

    padding: "zeros": all beyond the edges is unknown. "reflection": they are mirrors.
    """
    is_valid = valid_mask(rain_rate)
    fields = torch.stack([rain_rate.float().nan_to_num(nan=0.0), is_valid.float()], dim=-3)
    fields = fields.expand(len(positions), -1, -1, -1)
    total, weight = fields_at_positions(positions, fields, padding).unbind(1)
    return torch.where(weight >= MIN_WEIGHT, total / weight.clamp(min=MIN_WEIGHT), torch.nan)


def fields_at_positions(positions: Tensor, fields: Tensor, padding: str = "zeros") -> Tensor:
    """(N, C, h, w) at positions (N, 2, h, w), rows first, of fields (N, C, H, W), linear between
    pixels. padding: what is beyond the edges, "zeros" or "reflection"."""
    height, width = fields.shape[-2:]
    last = positions.new_tensor([max(height - 1, 1), max(width - 1, 1)])[:, None, None]
    grid = (2 * positions / last - 1).flip(1).permute(0, 2, 3, 1)  # (N, h, w, 2): x, y in -1..1
    return nn.functional.grid_sample(
        fields, grid.float(), mode="bilinear", padding_mode=padding, align_corners=True
    )


def pixel_positions(height: int, width: int, like: Tensor) -> Tensor:
    """(2, height, width): row and column of each pixel, of the device and type of `like`."""
    axes = (torch.arange(size, device=like.device, dtype=like.dtype) for size in (height, width))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))
