"""The denoiser: a 3-D UNet that sees the context through AFNO cross-attention."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from einops import rearrange
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.models.blocks import (
    MLP,
    AFNOFilter,
    Conv3d,
    Linear,
    cell_averages,
    conv3d,
    linear,
    sinusoids,
    spread_out,
    store_channels_last,
)
from ldcast.settings import Settings, setting


@dataclass(frozen=True)
class DenoiserConfig(Settings):
    """Sizes of the denoiser; the defaults are the published ones."""

    channels: int = setting(256, "width at full latent resolution", low=2)
    channel_multipliers: tuple[int, ...] = setting(
        (1, 2, 4), "width of each level / channels", low=1
    )
    num_res_blocks: int = setting(2, "residual blocks per level", low=1)
    attention_levels: tuple[int, ...] = setting((0, 1), "levels with cross-attention", low=0)
    num_afno_blocks: int = setting(8, "channel groups of the AFNO filter", low=1)
    drop_wide_modes: bool = setting(False, "lose Fourier modes on wide grids, as published")
    use_linear_path: bool = setting(False, "a linear path from what it sees to its answer")
    linear_path_scales: tuple[int, ...] = setting(
        (), "latent cells over which further such paths see averages, such as 4,16", low=2
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.linear_path_scales and not self.use_linear_path:
            raise InputError(
                f"linear_path_scales: got {self.linear_path_scales} without use_linear_path; "
                "expected none, or use_linear_path true"
            )
        num_levels = len(self.channel_multipliers)
        if not num_levels:
            raise InputError("channel_multipliers: got none, expected one for each level")
        if any(level >= num_levels for level in self.attention_levels):
            raise InputError(
                f"attention_levels: got {self.attention_levels}, expected levels below {num_levels}"
            )

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Width of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def step_channels(self) -> int:
        """Width of the diffusion step's embedding."""
        return 4 * self.channels

    def rain_multiple(self, compression: int) -> int:
        """Height and width of rain are multiples of so many pixels: 16 as published.

        compression: pixels along a latent cell, which each level but the last halves again.
        """
        return compression * 2 ** (len(self.channel_multipliers) - 1)


class DenoiserUNet(nn.Module):
    """Noisy future latents -> what is needed to denoise them (noise or v: the model's config says).

    Levels differ in space only: each holds all latent frames. There is no normalisation anywhere.
    input_channels: of further inputs that follow the noisy latents' channels.
    `enter[k]` leads into level k on the way down, `leave[k]` out of the k-th level on the way up.
    `linear_path` goes from what it sees to its answer: the blocks need not carry through their
    width what is merely to be weighted, such as the noise itself. `coarse_paths` do so for averages
    over many cells: where noise hides each cell, it is they that say where there is more rain.
    Source: Leinonen et al. 2023, section 3; the UNet of Rombach et al. 2022 in 3-D.
    """

    def __init__(
        self,
        config: DenoiserConfig | None = None,
        latent_channels: int = 32,
        context_channels: Sequence[int] = (128, 256, 512),
        input_channels: int = 0,
    ) -> None:
        super().__init__()
        self.config = config = config or DenoiserConfig()
        widths = config.level_channels
        if config.channels % 2:
            raise InputError(f"channels: got {config.channels}, expected an even number")
        if len(context_channels) != len(widths):
            raise InputError(
                f"got {len(context_channels)} context resolutions for {len(widths)} levels: "
                "num_cascade_levels must be the number of channel_multipliers"
            )
        self.step_embedding = nn.Sequential(
            nn.Linear(config.channels, config.step_channels),
            nn.SiLU(),
            nn.Linear(config.step_channels, config.step_channels),
        )
        level_context = [
            channels if level in config.attention_levels else None
            for level, channels in enumerate(context_channels)
        ]
        self.enter, self.down = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            is_finest = level == 0
            before = widths[max(level - 1, 0)]
            entering = latent_channels + input_channels
            self.enter.append(Entrance(entering, width) if is_finest else downsample(before))
            inputs = [before] + [width] * (config.num_res_blocks - 1)
            self.down.append(res_blocks(inputs, width, level_context[level], config))

        coarsest = widths[-1]
        self.middle = nn.ModuleList(
            [
                ContextResBlock(coarsest, coarsest, context_channels[-1], config),
                ContextResBlock(coarsest, coarsest, None, config),
            ]
        )

        self.up, self.leave = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            width = widths[level]
            coarser, finer = widths[min(level + 1, len(widths) - 1)], widths[max(level - 1, 0)]
            num = config.num_res_blocks
            arriving, skipped = [coarser, *[width] * num], [*[width] * num, finer]
            inputs = [a + b for a, b in zip(arriving, skipped, strict=True)]
            self.up.append(res_blocks(inputs, width, level_context[level], config))
            is_finest = level == 0
            self.leave.append(output(width, latent_channels) if is_finest else Upsample(width))
        self.linear_path, self.coarse_paths = None, nn.ModuleList()
        if config.use_linear_path:
            seen = latent_channels + input_channels
            self.linear_path = LinearPath(seen, latent_channels, config)
            self.coarse_paths.extend(
                LinearPath(seen, latent_channels, config) for _ in config.linear_path_scales
            )
        store_channels_last(self)

    def forward(
        self,
        z_noisy: Tensor,
        diffusion_step: Tensor,
        context: Sequence[Tensor],
        inputs: Tensor | None = None,
    ) -> Tensor:
        """Prediction (B, C, L, h, w) for z_noisy of the same shape.

        diffusion_step: (B or 1,) integer, larger is noisier.
        context: a map per level, finest first, (B or 1, context_channels[k], L, h / 2^k, w / 2^k).
        inputs: (B or 1, input_channels, L, h, w), what else is known of the future; None where the
            network takes none.
        What is of one example counts for all. What hangs on nothing else is then computed once.
        Raises ValueError for steps and inputs that do not fit z_noisy.
        """
        self._check_fit(z_noisy, diffusion_step, inputs)
        if diffusion_step.stride() == (0,):  # one value, expanded: see `predict_at`
            diffusion_step = diffusion_step[:1]
        sine, cosine = sinusoids(diffusion_step, self.config.channels // 2)
        embedding = self.step_embedding(torch.cat([cosine, sine], dim=-1))  # (B or 1, ...)
        seen = [z_noisy] if inputs is None else [z_noisy, inputs]
        x, skips = seen, []
        for enter, blocks, level_context in zip(self.enter, self.down, context, strict=True):
            x = enter(x)
            skips.append(x)
            for block in blocks:
                x = block(x, embedding, level_context)
                skips.append(x)
        for block in self.middle:
            x = block(x, embedding, context[-1])
        for blocks, leave, level_context in zip(self.up, self.leave, context[::-1], strict=True):
            for block in blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), embedding, level_context)
            x = leave(x)
        if self.linear_path is not None:
            x = x + self.linear_path(seen, embedding)
        for scale, path in zip(self.config.linear_path_scales, self.coarse_paths, strict=True):
            x = x + coarse(path, seen, embedding, scale)
        return x

    def _check_fit(self, z_noisy: Tensor, diffusion_step: Tensor, inputs: Tensor | None) -> None:
        """Sums would broadcast what does not fit, without a word."""
        batch, latent_channels, *grid = z_noisy.shape
        if len(diffusion_step) not in (1, batch):
            raise ValueError(
                f"got {len(diffusion_step)} diffusion steps for {batch} examples, expected 1 or "
                f"{batch}"
            )
        num_channels = self.enter[0].in_channels - latent_channels
        got = None if inputs is None else tuple(inputs.shape)
        fitting = (
            [(size, num_channels, *grid) for size in sorted({1, batch})] if num_channels else [None]
        )
        if got not in fitting:
            raise ValueError(
                f"got inputs {got} for latents {tuple(z_noisy.shape)}, expected one of {fitting}"
            )


class Entrance(Conv3d):
    """A convolution of 3 x 3 x 3 of parts whose channels are joined, as if they were one tensor.

    Each part meets the weights of its own channels, so what is the same for all examples, such as
    the carried rain for all members of a forecast, is convolved once.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """(B, out_channels, L, h, w) of parts (B or 1, c, L, h, w), all channels in their order."""
        weights = self.weight.split([part.shape[1] for part in parts], dim=1)
        weights = [weight.contiguous(memory_format=torch.channels_last_3d) for weight in weights]
        biases, ones = _bias_of_each_part(self.bias, len(parts)), (1, 1, 1)
        answers = [
            conv3d(part, weight, bias, ones, ones, ones, 1)
            for part, weight, bias in zip(parts, weights, biases, strict=True)
        ]
        return reduce(torch.add, answers)


def _bias_of_each_part(bias: Tensor, num_parts: int) -> list[Tensor | None]:
    """Of a sum over parts: the first has it, the others none."""
    return [bias, *[None] * (num_parts - 1)]


class LinearPath(nn.Module):
    """A weighted sum over the channels of each latent cell, zero at first.

    The weights of what it sees depend on the diffusion step and the latent frame: the carried rain,
    for one, is worth less the further ahead it is.
    """

    def __init__(self, in_channels: int, out_channels: int, config: DenoiserConfig) -> None:
        super().__init__()
        self.num_sinusoids = config.channels // 2
        self.frame_embedding = nn.Linear(config.channels, config.step_channels)
        self.to_gains = nn.Linear(config.step_channels, in_channels)
        self.proj = Linear(in_channels, out_channels)
        for layer in (self.to_gains, self.proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, seen: Sequence[Tensor], embedding: Tensor) -> Tensor:
        """(B, out_channels, L, h, w) from what is seen, parts as `Entrance` takes them.

        embedding: (B or 1, step_channels) of the diffusion step.
        """
        frames = torch.arange(seen[0].shape[2], device=seen[0].device)
        frame_embedding = self.frame_embedding(torch.cat(sinusoids(frames, self.num_sinusoids), -1))
        mixed = nn.functional.silu(
            embedding[:, None] + frame_embedding
        )  # (B or 1, L, step_channels)
        gains = 1 + self.to_gains(mixed)[:, :, None, None]  # (B or 1, L, 1, 1, in_channels)
        widths = [part.shape[1] for part in seen]
        biases = _bias_of_each_part(self.proj.bias, len(seen))
        gains, weights = gains.split(widths, -1), self.proj.weight.split(widths, 1)
        answers = [
            linear(gain * rearrange(part, "b c l h w -> b l h w c"), weight, bias)
            for part, gain, weight, bias in zip(seen, gains, weights, biases, strict=True)
        ]
        return rearrange(reduce(torch.add, answers), "b l h w c -> b c l h w")


def coarse(path: LinearPath, seen: Sequence[Tensor], embedding: Tensor, scale: int) -> Tensor:
    """The answer of a path that sees averages over `scale` x `scale` cells, (B, C, L, h, w).

    Of such averages noise has the size 1 / scale and rain about 1; both are brought nearer to 1.
    """
    averages = [math.sqrt(scale) * cell_averages(part, scale) for part in seen]
    return spread_out(path(averages, embedding), scale, seen[0].shape[3:])


def conv(in_channels: int, out_channels: int) -> Conv3d:
    return Conv3d(in_channels, out_channels, kernel_size=3, padding=1)


def downsample(channels: int) -> Conv3d:
    """Halves height and width."""
    return Conv3d(channels, channels, kernel_size=3, stride=(1, 2, 2), padding=1)


class Upsample(nn.Sequential):
    """Doubles height and width: each cell becomes 2 x 2, then a convolution of 3 x 3 x 3.

    Of the three rows that a kernel meets two are the same cell, and so of columns. Their weights
    are added first, so that four convolutions of 3 x 2 x 2 on the coarse cells, one for each corner
    of a cell, give the same to rounding with 4/9 of the operations (sub-pixel convolution, Shi et
    al. 2016, arXiv:1609.07009).
    x: (B, C, L, h, w). Returns (B, C, L, 2h, 2w).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=(1, 2, 2), mode="nearest"), conv(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        _, layer = self
        height, width = x.shape[3:]
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        result = None
        for down, of_row in enumerate(_halves(layer.weight, 3)):
            for right, weight in enumerate(_halves(of_row, 4)):
                cells = padded[:, :, :, down : down + height + 1, right : right + width + 1]
                weight = weight.contiguous(memory_format=torch.channels_last_3d)
                corner = conv3d(cells, weight, layer.bias, (1, 1, 1), (1, 0, 0), (1, 1, 1), 1)
                if result is None:
                    shape = (*corner.shape[:3], 2 * height, 2 * width)
                    result = corner.new_empty(shape).to(memory_format=torch.channels_last_3d)
                result[:, :, :, down::2, right::2] = corner
        return result


def _halves(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Weights along an axis of three as the first and the second half of a cell meet the cells."""
    before, same, after = weight.unbind(dim)
    return torch.stack([before, same + after], dim), torch.stack([before + same, after], dim)


def output(channels: int, latent_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), start_at_zero(conv(channels, latent_channels)))


def start_at_zero(layer: Conv3d) -> Conv3d:
    """The layer with zero weights and bias, so that its branch is silent at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def res_blocks(
    in_channels: Sequence[int], width: int, context_channels: int | None, config: DenoiserConfig
) -> nn.ModuleList:
    """The residual blocks of a level, one per entry of in_channels."""
    return nn.ModuleList(ContextResBlock(n, width, context_channels, config) for n in in_channels)


class ContextResBlock(nn.Module):
    """Residual block that adds the diffusion step's embedding, then looks at the context.

    context_channels: None leaves the look at the context out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        context_channels: int | None,
        config: DenoiserConfig,
    ) -> None:
        super().__init__()
        self.activation = nn.SiLU()
        self.conv1 = conv(in_channels, out_channels)
        self.step_proj = nn.Linear(config.step_channels, out_channels)
        self.conv2 = start_at_zero(conv(out_channels, out_channels))
        is_same_width = in_channels == out_channels
        self.proj = nn.Identity() if is_same_width else Conv3d(in_channels, out_channels, 1)
        self.attention = None
        if context_channels is not None:
            self.attention = AFNOCrossAttention(
                out_channels, context_channels, config.num_afno_blocks, config.drop_wide_modes
            )

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        """(B, out_channels, L, h, w) from x (B, in_channels, L, h, w).

        embedding: (B or 1, step_channels) of the diffusion step. context: (B or 1, ...).
        """
        y = self.conv1(self.activation(x))
        y = y + self.step_proj(self.activation(embedding))[:, :, None, None, None]
        y = self.conv2(self.activation(y)) + self.proj(x)
        return y if self.attention is None else self.attention(y, context)


class AFNOCrossAttention(nn.Module):
    """Mixes x with the context of its size: linear, AFNO filter and MLP over their joined channels.

    x: (B, C, L, h, w), context: (B or 1, K, L, h, w). Returns (B, C, L, h, w).
    Source: Leinonen et al. 2023, section 3.
    """

    MLP_RATIO = 2

    def __init__(
        self, channels: int, context_channels: int, num_afno_blocks: int, drop_wide_modes: bool
    ) -> None:
        super().__init__()
        joined = channels + context_channels
        self.pre_proj = Linear(joined, joined)
        self.filter = AFNOFilter(joined, num_afno_blocks, drop_wide_modes)
        self.mlp = MLP(joined, self.MLP_RATIO * joined, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = rearrange(x, "b c l h w -> b l h w c")
        context = rearrange(context, "b c l h w -> b l h w c").expand(len(x), -1, -1, -1, -1)
        xy = torch.cat([x, context], dim=-1)
        xy = xy + self.pre_proj(xy)
        xy = xy + self.filter(xy)  # Parity: the filter adds its input too, so xy counts twice
        return rearrange(x + self.mlp(xy), "b l h w c -> b c l h w")
