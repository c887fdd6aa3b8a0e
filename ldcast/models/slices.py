"""An autoencoder applied a few columns at a time: the same result in a fraction of the memory.

At full resolution one activation of the published decoder takes 13.7 GB for twenty frames of 1440 x
1856 pixels, and several live at once. Its convolutions see their neighbours only, so slices with a
margin give the same; but each GroupNorm spans the whole field. So every norm takes two passes: one
for mean and variance, slice by slice, and one that applies them. What is large is computed again in
each pass, what is small is kept.

Nothing of a network is written again here: its own code runs, on `Columns` in place of a tensor.
What they do not know (another norm, another layer) is computed in one piece, which takes memory,
but is right.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from ldcast.models.autoencoder import Autoencoder
from ldcast.models.blocks import conv3d

# Float32 bytes of the largest activation. In one piece up to WHOLE_BYTES: on two CPU cores slices
# take 1.5 times as long (640 x 704 pixels, 24 channels); of 8 to 128 MiB, 16 are quickest.
WHOLE_BYTES = 256 * 2**20
SLICE_BYTES = 16 * 2**20

# Functions of each pixel by itself.
POINTWISE = (
    *(F.silu, F.relu, F.gelu, F.elu, F.leaky_relu, F.softplus),
    *(torch.sigmoid, torch.tanh, torch.neg),
)
ARITHMETIC = (torch.add, torch.sub, torch.mul, torch.div)


def encode_in_slices(
    autoencoder: Autoencoder,
    rain_norm: Tensor,
    whole_bytes: int = WHOLE_BYTES,
    slice_bytes: int = SLICE_BYTES,
) -> Tensor:
    """z_mean of `autoencoder.encode`, to rounding; (B, C, L, h, w).

    rain_norm: (B, 1, T, H, W) model units; T, H and W multiples of the compression.
    """
    column_bytes = _column_bytes(rain_norm.shape, autoencoder)
    if column_bytes * rain_norm.shape[4] <= whole_bytes:
        return autoencoder.encode(rain_norm)[0]
    num_columns = max(slice_bytes // column_bytes, 2)
    return whole(autoencoder.encode(stored(rain_norm, num_columns))[0])


def decode_in_slices(
    autoencoder: Autoencoder,
    z: Tensor,
    whole_bytes: int = WHOLE_BYTES,
    slice_bytes: int = SLICE_BYTES,
    **inputs: Any,
) -> Tensor:
    """rain_norm (B, 1, T, H, W) of `autoencoder.decode`, to rounding; z: (B, C, L, h, w).

    inputs: further ones of `decode`.
    """
    shape = (len(z), 1, *(size * autoencoder.compression for size in z.shape[2:]))
    column_bytes = _column_bytes(shape, autoencoder)
    if column_bytes * shape[4] <= whole_bytes:
        return autoencoder.decode(z, **inputs)
    num_columns = max(slice_bytes // column_bytes, 2)
    return whole(autoencoder.decode(stored(z, num_columns), **inputs))


def _column_bytes(rain_shape: tuple[int, ...], autoencoder: Autoencoder) -> int:
    """Of the widest activation at full resolution, for one column of pixels."""
    batch, _, num_frames, height, _ = rain_shape
    return 4 * batch * autoencoder.channels * num_frames * height


# ---- fields that are computed when asked for -----------------------------------------------------


class Columns:
    """A field (B, C, T, H, W) of which columns are computed when asked for, and not kept.

    To the code of a network it looks like a tensor: convolutions, norms and activations of it are
    again such fields. Whatever else is done with it is done with the whole tensor.

    shape: of the whole. at: (start, stop) -> (B, C, T, H, stop - start), a tensor.
    num_columns: of a slice, where the whole is computed.
    """

    def __init__(
        self, shape: tuple[int, ...], at: Callable[[int, int], Tensor], num_columns: int
    ) -> None:
        self.shape, self.at, self.num_columns = torch.Size(shape), at, num_columns
        self.ndim, self.width = len(shape), shape[-1]

    def slices(self) -> list[tuple[int, int]]:
        step = self.num_columns
        return [(low, min(low + step, self.width)) for low in range(0, self.width, step)]

    def __add__(self, other: Any) -> "Columns":
        return torch.add(self, other)

    def __sub__(self, other: Any) -> "Columns":
        return torch.sub(self, other)

    def __rsub__(self, other: Any) -> "Columns":
        return torch.sub(other, self) if isinstance(other, Tensor) else -self + other

    def __mul__(self, other: Any) -> "Columns":
        return torch.mul(self, other)

    def __truediv__(self, other: Any) -> "Columns":
        return torch.div(self, other)

    def __neg__(self) -> "Columns":
        return torch.neg(self)

    __radd__, __rmul__ = __add__, __mul__

    def __getattr__(self, name: str) -> Any:
        return getattr(whole(self), name)

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = _KNOWN.get(function)
        result = NotImplemented if known is None else known(*args, **kwargs)
        return _in_one_piece(function, args, kwargs) if result is NotImplemented else result


def stored(x: Tensor, num_columns: int) -> Columns:
    """A tensor as such a field."""
    return Columns(x.shape, lambda start, stop: x[..., start:stop], num_columns)


def whole(x: Columns | Tensor) -> Tensor:
    """The whole field, computed slice by slice."""
    if isinstance(x, Tensor):
        return x
    result = None
    for start, stop in x.slices():
        columns = x.at(start, stop)
        if result is None:
            result = columns.new_empty((*columns.shape[:4], x.width))
        result[..., start:stop] = columns
    return result


def _kept(x: Columns) -> Columns:
    return stored(whole(x), x.num_columns)


def _in_one_piece(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A function that is not known here, of whole tensors; a field where a tensor of 5 axes is."""
    fields = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Columns)]
    num_columns = fields[0].num_columns if fields else 1

    def to_tensor(x: Any) -> Any:
        return whole(x) if isinstance(x, Columns) else x

    result = function(*tree_map(to_tensor, args), **tree_map(to_tensor, kwargs))
    is_field = isinstance(result, Tensor) and result.ndim == 5
    return stored(result, num_columns) if is_field else result


# ---- what is known of tensors, of columns; NotImplemented where it is not ------------------------


def _pointwise(function: Callable) -> Callable:
    def of_columns(x: Columns, *args: Any, **kwargs: Any) -> Columns:
        return Columns(
            x.shape, lambda start, stop: function(x.at(start, stop), *args, **kwargs), x.num_columns
        )

    return of_columns


def _cat(fields: Any, dim: int = 0) -> Columns:
    """Fields of one width beside each other, along their channels."""
    if dim != 1 or not all(isinstance(field, Columns) for field in fields):
        return NotImplemented
    first = fields[0]
    if any((*x.shape[:1], *x.shape[2:]) != (*first.shape[:1], *first.shape[2:]) for x in fields):
        return NotImplemented
    shape = (first.shape[0], sum(x.shape[1] for x in fields), *first.shape[2:])

    def at(start: int, stop: int) -> Tensor:
        return torch.cat([field.at(start, stop) for field in fields], dim=1)

    return Columns(shape, at, min(field.num_columns for field in fields))


def _of_two(function: Callable) -> Callable:
    """A function of two fields of one shape, or of a field and a number, pixel by pixel."""

    def of_columns(x: Any, other: Any) -> Columns:
        fields = [field for field in (x, other) if isinstance(field, Columns)]
        numbers = [number for number in (x, other) if isinstance(number, (int, float))]
        if len(fields) + len(numbers) < 2 or fields[0].shape != fields[-1].shape:
            return NotImplemented

        def at(start: int, stop: int) -> Tensor:
            parts = (p.at(start, stop) if isinstance(p, Columns) else p for p in (x, other))
            return function(*parts)

        return Columns(fields[0].shape, at, min(field.num_columns for field in fields))

    return of_columns


def _conv3d(
    x: Columns,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Columns:
    """Kernels of stride 1 that leave the width as it is, and those that step by their own width."""
    if not isinstance(x, Columns) or isinstance(padding, str):
        return NotImplemented
    settings = tuple(_triple(number) for number in (stride, padding, dilation))
    (*_, step), (*_, margin), (*_, spread) = settings
    reach = spread * (weight.shape[4] - 1)

    def convolve(columns: Tensor) -> Tensor:
        return conv3d(columns, weight, bias, *settings, groups)

    def beside_neighbours(start: int, stop: int) -> Tensor:
        low, high = max(start - margin, 0), min(stop + margin, x.width)
        return convolve(x.at(low, high))[..., start - low : stop - low]

    def each_by_itself(start: int, stop: int) -> Tensor:
        return convolve(x.at(step * start, step * stop))

    if step == 1 and 2 * margin == reach:
        at, width, num_columns = beside_neighbours, x.width, x.num_columns
    elif margin == 0 and reach == step - 1 and x.width % step == 0:
        at, width, num_columns = each_by_itself, x.width // step, max(x.num_columns // step, 1)
    else:
        return NotImplemented
    shape = (*_shape_after(x.shape, weight, settings), width)
    result = Columns(shape, at, num_columns)
    # A field that is smaller than what it is made of takes less memory to keep than to make again.
    return _kept(result) if result.shape.numel() < x.shape.numel() else result


def _conv_transpose3d(
    x: Columns,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Columns:
    """Kernels that step by their own width: each column becomes so many."""
    steps = _triple(stride)
    plain = (_triple(padding), _triple(output_padding), _triple(dilation))
    is_plain = plain == ((0, 0, 0), (0, 0, 0), (1, 1, 1)) and steps == tuple(weight.shape[2:])
    if not isinstance(x, Columns) or not is_plain:
        return NotImplemented
    step, kept = steps[2], _kept(x)  # its result is larger, and asked for several times

    def at(start: int, stop: int) -> Tensor:
        low = start // step
        columns = F.conv_transpose3d(
            kept.at(low, -(-stop // step)), weight, bias, stride, groups=groups
        )
        return columns[..., start - step * low : stop - step * low]

    batch, _, *sizes = x.shape
    sizes = [size * factor for size, factor in zip(sizes, steps, strict=True)]
    return Columns((batch, weight.shape[1] * groups, *sizes), at, x.num_columns)


def _group_norm(
    x: Columns,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Columns:
    """Of one group, its statistics from a pass over the field."""
    if not isinstance(x, Columns) or num_groups != 1 or weight is None or bias is None:
        return NotImplemented
    mean, variance = _moments(x)
    scale = weight / (variance + eps).sqrt()[:, None]  # (B, C)
    offset = bias - mean[:, None] * scale
    scale, offset = scale[..., None, None, None], offset[..., None, None, None]
    return _pointwise(lambda columns: torch.addcmul(offset, columns.float(), scale))(x)


def _moments(x: Columns) -> tuple[Tensor, Tensor]:
    """Mean and variance (B,) over all but the first axis.

    Slices are joined in float64 by the formula of Chan et al. 1983 (American Statistician 37), so
    that no large sums of squares are subtracted.
    """
    count, mean, deviation = 0, 0.0, 0.0  # deviation: sum of squares about the mean
    for start, stop in x.slices():
        columns = x.at(start, stop).float()
        num = columns[0].numel()
        variance, columns_mean = torch.var_mean(columns, dim=(1, 2, 3, 4), correction=0)
        delta = columns_mean.double() - mean
        total = count + num
        mean = mean + delta * (num / total)
        deviation = deviation + variance.double() * num + delta.square() * (count * num / total)
        count = total
    return mean.float(), (deviation / count).float()


def _triple(number: Any) -> tuple[int, int, int]:
    return (number,) * 3 if isinstance(number, int) else tuple(number)


def _shape_after(
    shape: tuple[int, ...], weight: Tensor, settings: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    """(B, C, T, H) of a convolution's result; settings: stride, padding and dilation."""
    sizes = [
        (size + 2 * margin - spread * (kernel - 1) - 1) // step + 1
        for size, kernel, step, margin, spread in zip(
            shape[2:4], weight.shape[2:4], *(numbers[:2] for numbers in settings), strict=True
        )
    ]
    return (shape[0], weight.shape[0], *sizes)


_KNOWN: dict[Callable, Callable] = {
    torch.conv3d: _conv3d,
    torch.conv_transpose3d: _conv_transpose3d,
    F.group_norm: _group_norm,
    torch.cat: _cat,
    **{function: _pointwise(function) for function in POINTWISE},
    **{function: _of_two(function) for function in ARITHMETIC},
}
