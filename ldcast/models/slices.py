"""The autoencoder applied a few columns at a time: the same result in a fraction of the memory.

At full resolution one activation of the published decoder takes 13.7 GB for twenty frames of 1440 x
1856 pixels, and several live at once. Its convolutions see their neighbours only, so slices with a
margin give the same; but each GroupNorm spans the whole field. So every norm takes two passes: one
for mean and variance, slice by slice, and one that applies them. What is large is computed again in
each pass, what is small is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldcast.models.autoencoder import AutoencoderKL
from ldcast.models.blocks import ResBlock3d

# Float32 bytes of the largest activation. In one piece up to WHOLE_BYTES: on two CPU cores slices
# take 1.5 times as long (decoding 640 x 704 pixels, `small`); of 8 to 128 MiB, 16 are quickest.
WHOLE_BYTES = 256 * 2**20
SLICE_BYTES = 16 * 2**20


def encode_in_slices(
    autoencoder: AutoencoderKL,
    rain_norm: Tensor,
    whole_bytes: int = WHOLE_BYTES,
    slice_bytes: int = SLICE_BYTES,
) -> Tensor:
    """z_mean of `AutoencoderKL.encode`, to rounding; (B, C, L, h, w).

    rain_norm: (B, 1, T, H, W) model units; T, H and W multiples of 4.
    """
    column_bytes = _column_bytes(rain_norm.shape, autoencoder)
    if column_bytes * rain_norm.shape[4] <= whole_bytes:
        return autoencoder.encode(rain_norm)[0]
    num_columns = max(slice_bytes // column_bytes, 2)
    block1, down1, block2, down2 = autoencoder.encoder
    x = _res_block(block1, _stored(rain_norm), num_columns)
    x = _keep(_downsample(down1, x), num_columns // 2)
    x = _res_block(block2, x, num_columns)
    moments = _map(autoencoder.to_moments, _downsample(down2, x))
    return _collect(moments, num_columns // 2).chunk(2, dim=1)[0]


def decode_in_slices(
    autoencoder: AutoencoderKL,
    z: Tensor,
    whole_bytes: int = WHOLE_BYTES,
    slice_bytes: int = SLICE_BYTES,
) -> Tensor:
    """rain_norm (B, 1, 4L, 4h, 4w) of `AutoencoderKL.decode`, to rounding; z: (B, C, L, h, w)."""
    shape = (len(z), 1, *(size * autoencoder.COMPRESSION for size in z.shape[2:]))
    column_bytes = _column_bytes(shape, autoencoder)
    if column_bytes * shape[4] <= whole_bytes:
        return autoencoder.decode(z)
    num_columns = max(slice_bytes // column_bytes, 2)
    up1, block1, up2, block2 = autoencoder.decoder
    x = _stored(up1(autoencoder.to_decoder(z)))
    x = _keep(_res_block(block1, x, num_columns), num_columns)
    x = _res_block(block2, _upsample(up2, x), num_columns)
    return _collect(x, num_columns)


def _column_bytes(rain_shape: tuple[int, ...], autoencoder: AutoencoderKL) -> int:
    """Of the widest activation at full resolution, for one column of pixels."""
    batch, _, num_frames, height, _ = rain_shape
    return 4 * batch * autoencoder.config.channels * num_frames * height


# ---- fields that are computed when asked for -----------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """A field (B, C, T, H, W) of which columns are computed when asked for, and not kept.

    at: (start, stop) -> (B, C, T, H, stop - start).
    """

    width: int
    at: Callable[[int, int], Tensor]


def _stored(x: Tensor) -> _Columns:
    return _Columns(x.shape[4], lambda start, stop: x[..., start:stop])


def _slices(x: _Columns, num_columns: int) -> list[tuple[int, int]]:
    return [(low, min(low + num_columns, x.width)) for low in range(0, x.width, num_columns)]


def _collect(x: _Columns, num_columns: int) -> Tensor:
    """The whole field, computed slice by slice."""
    result = None
    for start, stop in _slices(x, num_columns):
        columns = x.at(start, stop)
        if result is None:
            result = columns.new_empty((*columns.shape[:4], x.width))
        result[..., start:stop] = columns
    return result


def _keep(x: _Columns, num_columns: int) -> _Columns:
    return _stored(_collect(x, num_columns))


def _map(function: Callable[[Tensor], Tensor], x: _Columns) -> _Columns:
    """A function of each pixel by itself."""
    return _Columns(x.width, lambda start, stop: function(x.at(start, stop)))


def _convolve(conv: nn.Conv3d, x: _Columns) -> _Columns:
    """Stride 1, as many columns out as in, zeros beyond the field's own border only."""
    margin = conv.padding[2]

    def at(start: int, stop: int) -> Tensor:
        low, high = max(start - margin, 0), min(stop + margin, x.width)
        return conv(x.at(low, high))[..., start - low : stop - low]

    return _Columns(x.width, at)


def _downsample(conv: nn.Conv3d, x: _Columns) -> _Columns:
    """Kernel 2, stride 2: a column of two."""
    return _Columns(x.width // 2, lambda start, stop: conv(x.at(2 * start, 2 * stop)))


def _upsample(conv: nn.ConvTranspose3d, x: _Columns) -> _Columns:
    """Kernel 2, stride 2: two columns of each."""

    def at(start: int, stop: int) -> Tensor:
        low = start // 2
        return conv(x.at(low, -(-stop // 2)))[..., start - 2 * low : stop - 2 * low]

    return _Columns(2 * x.width, at)


def _res_block(block: ResBlock3d, x: _Columns, num_columns: int) -> _Columns:
    """`ResBlock3d.forward`; fewer channels inside than at its entry are kept."""
    is_narrow = block.conv1.out_channels < block.conv1.in_channels
    y = _convolve(block.conv1, _activate(block, block.norm1, x, num_columns))
    skip = _map(block.proj, x)
    if is_narrow:
        y, skip = _keep(y, num_columns), _keep(skip, num_columns)
    y = _convolve(block.conv2, _activate(block, block.norm2, y, num_columns))
    return _Columns(x.width, lambda start, stop: y.at(start, stop) + skip.at(start, stop))


def _activate(block: ResBlock3d, norm: nn.GroupNorm, x: _Columns, num_columns: int) -> _Columns:
    """GroupNorm with one group, its statistics from a pass over the field, then SiLU."""
    mean, variance = _moments(x, num_columns)
    scale = norm.weight / (variance + norm.eps).sqrt()[:, None]  # (B, C)
    offset = norm.bias - mean[:, None] * scale
    scale, offset = scale[..., None, None, None], offset[..., None, None, None]
    return _map(lambda columns: block.activation(torch.addcmul(offset, columns.float(), scale)), x)


def _moments(x: _Columns, num_columns: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (B,) over all but the first axis.

    Slices are joined in float64 by the formula of Chan et al. 1983 (American Statistician 37), so
    that no large sums of squares are subtracted.
    """
    count, mean, deviation = 0, 0.0, 0.0  # deviation: sum of squares about the mean
    for start, stop in _slices(x, num_columns):
        columns = x.at(start, stop).float()
        num = columns[0].numel()
        variance, columns_mean = torch.var_mean(columns, dim=(1, 2, 3, 4), correction=0)
        delta = columns_mean.double() - mean
        total = count + num
        mean = mean + delta * (num / total)
        deviation = deviation + variance.double() * num + delta.square() * (count * num / total)
        count = total
    return mean.float(), (deviation / count).float()
