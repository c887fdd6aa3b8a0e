"""Building blocks that two or more networks share."""

import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from ldcast.errors import InputError

CHUNK = 2**14  # positions; as quick as a whole field at once, on two CPU cores


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` with the same parameters and result, by `conv3d`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(x)
        settings = self.stride, self.padding, self.dilation, self.groups
        return conv3d(x, self.weight, self.bias, *settings)


class Linear(nn.Linear):
    """`nn.Linear` with the same parameters and result, by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, num_groups: int = 1) -> Tensor:
    """`nn.functional.linear` of each group of channels: (..., D) from x (..., C).

    weight: (D, C / num_groups), the matrix of each group below the one before. bias: (D,); None for
        none, of one group.
    PyTorch leaves matrix products on a CPU to another library than convolutions, which on AMD's is
    half as quick as oneDNN. So where no gradients are wanted, which oneDNN is slow at, they are
    convolutions of kernel 1.
    """
    if torch.is_grad_enabled() or not x.numel() or not _is_for_onednn(x, weight):
        if num_groups == 1:
            return nn.functional.linear(x, weight, bias)
        groups = x.reshape(-1, num_groups, weight.shape[1]).transpose(0, 1)
        matrices = weight.unflatten(0, (num_groups, -1)).mT
        y = torch.baddbmm(bias.unflatten(0, (num_groups, 1, -1)), groups, matrices)
        return y.transpose(0, 1).reshape(*x.shape[:-1], len(bias))
    rows = x.reshape(1, 1, 1, -1, x.shape[-1]).movedim(-1, 1)  # (1, C, 1, 1, M), as it lies
    kernel = weight[:, :, None, None, None]
    ones, zeros = (1, 1, 1), (0, 0, 0)
    y = torch.mkldnn_convolution(rows, kernel, bias, zeros, ones, ones, num_groups)
    return y.movedim(1, -1).reshape(*x.shape[:-1], -1)


def cell_averages(values: Tensor, scale: int) -> Tensor:
    """Means over scale x scale cells, of fewer at the bottom and right ends.

    values: (B, c, L, h, w) -> (B, c, L, ceil(h / scale), ceil(w / scale)).
    """
    planes = rearrange(values, "b c l h w -> b (c l) h w")
    means = nn.functional.avg_pool2d(planes, scale, ceil_mode=True, count_include_pad=False)
    return rearrange(means, "b (c l) h w -> b c l h w", l=values.shape[2])


def spread_out(averages: Tensor, scale: int, size: Sequence[int]) -> Tensor:
    """What `cell_averages` gives, interpolated linearly to the cells (h, w) `size` it was of."""
    height, width = size
    planes = rearrange(averages, "b c l h w -> b (c l) h w")
    planes = nn.functional.interpolate(planes, scale_factor=scale, mode="bilinear")
    planes = planes[..., :height, :width]
    return rearrange(planes, "b (c l) h w -> b c l h w", l=averages.shape[2])


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    dilation: tuple[int, int, int],
    groups: int,
) -> Tensor:
    """`nn.functional.conv3d`, frugal on a CPU with fields of any shape.

    For one float32 example PyTorch 2.13 takes oneDNN only where channels x frames x rows are more
    than 20480; columns do not count. Otherwise it unfolds the input: for a kernel of 3x3x3 that
    takes 27 times its memory, and ten times as long. So oneDNN is called here.
    """
    if x.ndim != 5 or not _is_for_onednn(x, weight):
        return nn.functional.conv3d(x, weight, bias, stride, padding, dilation, groups)
    return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether nothing but the shape may speak against oneDNN."""
    return (
        type(x) is Tensor  # one with content
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # which knows PyTorch's own convolution only
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


class ResBlock3d(nn.Module):
    """Residual block: (norm, SiLU, convolution) twice, around a skip.

    The norm is GroupNorm with one group: its statistics span all channels, frames and pixels.
    The skip is a 1x1x1 convolution where the number of channels changes.
    x: (B, in_channels, T, H, W). Returns (B, out_channels, T, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int] = (3, 3, 3),
        use_norm: bool = True,
    ) -> None:
        super().__init__()
        padding = tuple(k // 2 for k in kernel_size)
        self.norm1 = nn.GroupNorm(1, in_channels) if use_norm else nn.Identity()
        self.conv1 = Conv3d(in_channels, out_channels, kernel_size, padding=padding)
        self.norm2 = nn.GroupNorm(1, out_channels) if use_norm else nn.Identity()
        self.conv2 = Conv3d(out_channels, out_channels, kernel_size, padding=padding)
        self.activation = nn.SiLU()
        is_same_width = in_channels == out_channels
        self.proj = nn.Identity() if is_same_width else Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.activation(self.norm1(x)))
        y = self.conv2(self.activation(self.norm2(y)))
        return y + self.proj(x)


def each_position(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of x (..., C), for a function that treats each position by itself: (..., D).

    Without gradients, what is wider inside the function exists for `CHUNK` positions at a time.
    """
    if torch.is_grad_enabled():
        return function(x)
    chunks = x.flatten(0, -2).split(CHUNK)
    first = function(chunks[0])
    y = first.new_empty(*x.shape[:-1], first.shape[-1])
    parts = y.flatten(0, -2).split(CHUNK)
    parts[0].copy_(first)
    for chunk, part in zip(chunks[1:], parts[1:], strict=True):
        part.copy_(function(chunk))
    return y


def each_example(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of x (B, ...), for a function that treats each example by itself.

    Without gradients it sees one at a time: Fourier transforms and matrix products round otherwise
    in larger batches, and a member of a forecast is to be the same in any.
    """
    if torch.is_grad_enabled():
        return function(x)
    return torch.cat([function(example) for example in x.split(1)])


class MLP(nn.Module):
    """Two linear layers with an exact GELU between, on the last axis.

    Parity: the tanh form of GELU differs by up to 1e-4 of the output.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc1 = Linear(in_channels, hidden_channels)
        self.fc2 = Linear(hidden_channels, out_channels)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return each_position(self._map, x)

    def _map(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class AFNOFilter(nn.Module):
    """Adaptive Fourier neural operator: a small network applied to every Fourier mode.

    The field is transformed over (L, h, w); the C channels of a mode form `num_blocks` groups, each
    with its own two-layer complex network, the same for all modes; soft shrinkage drops weak modes;
    the inverse transform is added to the input.

    drop_wide_modes: Parity: the published code keeps the first h//2+1 of the w//2+1 columns of
        modes and so loses the finest on grids wider than tall. True repeats this, for its weights.

    x: (B, L, h, w, C), channels last. Returns the same shape. Computed in float32, whatever the
    autocast mode: half-precision FFTs lose the small modes and need sizes that are powers of two.
    Source: Guibas et al. 2022 (AFNO), section 4; Leinonen et al. 2023 for the 3-D form.
    """

    INIT_SCALE = 0.02
    SHRINKAGE = 0.01

    def __init__(self, channels: int, num_blocks: int = 8, drop_wide_modes: bool = False) -> None:
        super().__init__()
        if channels % num_blocks:
            raise InputError(
                f"got {channels} channels for {num_blocks} AFNO blocks, expected a multiple: "
                "change channels or num_afno_blocks"
            )
        self.num_blocks = num_blocks
        self.drop_wide_modes = drop_wide_modes
        width = channels // num_blocks
        # The leading axis of each parameter holds the real and the imaginary part.
        self.w1 = self._drawn(2, num_blocks, width, width)
        self.b1 = self._drawn(2, num_blocks, width)
        self.w2 = self._drawn(2, num_blocks, width, width)
        self.b2 = self._drawn(2, num_blocks, width)

    def _drawn(self, *shape: int) -> nn.Parameter:
        values = torch.empty(shape)
        if not values.is_meta:  # of a model that is only laid out, it would load the compiler
            values.normal_(std=self.INIT_SCALE)
        return nn.Parameter(values)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self._filter(x.float()).to(x.dtype) + x

    def _filter(self, x: Tensor) -> Tensor:
        _, _, height, width, _ = x.shape
        modes = each_example(_real_fft, x)  # (B, L, h, w//2+1, C)
        num_columns = modes.shape[3]
        if self.drop_wide_modes:
            modes = modes[:, :, :, : height // 2 + 1]
        modes = each_position(self._mix_channels, modes)
        if modes.shape[3] < num_columns:
            missing = num_columns - modes.shape[3]
            modes = nn.functional.pad(modes, (0, 0, 0, missing))
        return each_example(lambda modes: inverse_real_fft(modes, width), modes)

    def _mix_channels(self, modes: Tensor) -> Tensor:
        """The two-layer complex network of each block; modes (..., C) complex."""
        z = torch.view_as_real(modes).flatten(-2)  # (..., 2 C), real parts before imaginary ones
        # ReLU and shrinkage treat real and imaginary parts apart; shrinkage follows the bias.
        z = linear(z, _as_real_matrix(self.w1), _as_real_vector(self.b1), self.num_blocks).relu_()
        z = linear(z, _as_real_matrix(self.w2), _as_real_vector(self.b2), self.num_blocks)
        z = nn.functional.softshrink(z, self.SHRINKAGE)
        return torch.view_as_complex(z.unflatten(-1, (-1, 2)))


def _as_real_vector(bias: Tensor) -> Tensor:
    """(2, n, c) complex bias -> (2nc,), each real part before its imaginary part."""
    return rearrange(bias, "r n c -> (n c r)")


def _as_real_matrix(weight: Tensor) -> Tensor:
    """(2, n, c, d) complex matrices, one below the other, as a real one of `linear`, (2nd, 2c).

    z (a + ib) in real parts: [re z, im z] times [[a, b], [-b, a]].
    """
    a, b = weight
    rows = torch.stack([torch.stack([a, b], dim=-1), torch.stack([-b, a], dim=-1)], dim=2)
    return rearrange(rows, "n c r d s -> (n d s) (c r)")


def _real_fft(x: Tensor) -> Tensor:
    """Half the spectrum (B, L, h, w//2+1, C) of a real field (B, L, h, w, C), orthonormal."""
    return torch.fft.rfftn(x, dim=(1, 2, 3), norm="ortho")


def inverse_real_fft(modes: Tensor, width: int) -> Tensor:
    """Real field (B, L, h, w, C) from half its spectrum (B, L, h, w//2+1, C), orthonormal.

    After a nonlinear filter the spectrum is not Hermitian, and what a library's irfftn makes of it
    is not defined. Parity: these are the steps of the CPU library, written out so that every device
    does the same: a complex inverse over (L, h); the imaginary part of the first and the Nyquist
    column is dropped; then a real inverse over w.
    """
    lines = torch.fft.ifftn(modes, dim=(1, 2), norm="ortho")
    self_conjugate = [0, width // 2] if width % 2 == 0 else [0]
    torch.view_as_real(lines)[:, :, :, self_conjugate, :, 1] = 0
    return torch.fft.irfft(lines, n=width, dim=3, norm="ortho")


class AFNOBlock(nn.Module):
    """Spectral mixing of positions, then an MLP on channels, each behind a LayerNorm and a skip.

    The filter has a skip of its own inside; this one is around it and its norm.
    x: (B, L, h, w, C), channels last. Returns the same shape.
    """

    MLP_RATIO = 4

    def __init__(self, channels: int, num_blocks: int = 8, drop_wide_modes: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.filter = AFNOFilter(channels, num_blocks, drop_wide_modes)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, self.MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.filter(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def sinusoids(position: Tensor, num_frequencies: int) -> tuple[Tensor, Tensor]:
    """Sine and cosine of `position` at frequencies from 1 down to nearly 1/10000.

    position: any shape, integer or float. Returns two tensors (*position.shape, num_frequencies).
    Source: Vaswani et al. 2017, section 3.5; the exponent is divided by the number of frequencies,
    so 1/10000 itself is not reached.
    """
    index = torch.arange(num_frequencies, dtype=torch.float32, device=position.device)
    frequency = torch.exp(-math.log(10000.0) * index / num_frequencies)
    angle = position.float()[..., None] * frequency
    return angle.sin(), angle.cos()


def store_channels_last(module: nn.Module) -> None:
    """Keeps the weights of 3-D convolutions with channels as the innermost axis in memory.

    Values and shapes are unchanged; activations follow the weights. On two CPU cores this halves
    the autoencoder's training step, and the AFNO blocks, which work channels last, need no copies.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
            weight = layer.weight.data
            layer.weight.data = weight.contiguous(memory_format=torch.channels_last_3d)
