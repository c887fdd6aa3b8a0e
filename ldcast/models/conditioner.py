"""The conditioner: past latents -> a forecast-like context at the resolutions of the denoiser."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.models.blocks import (
    AFNOBlock,
    Conv3d,
    Linear,
    ResBlock3d,
    sinusoids,
    store_channels_last,
)
from ldcast.settings import Settings, setting


@dataclass(frozen=True)
class ConditionerConfig(Settings):
    """Sizes of the conditioner; the defaults are the published ones."""

    channels: int = setting(128, "width at full latent resolution", low=1)
    num_analysis_blocks: int = setting(4, "AFNO blocks on the past", low=1)
    num_forecast_blocks: int = setting(4, "AFNO blocks on the future", low=1)
    num_cascade_levels: int = setting(3, "resolutions of the context", low=1)
    num_afno_blocks: int = setting(8, "channel groups of the AFNO filter", low=1)
    num_heads: int = setting(8, "heads of the temporal attention", low=1)
    head_channels: int = setting(32, "channels per attention head", low=1)
    drop_wide_modes: bool = setting(False, "lose Fourier modes on wide grids, as published")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % 2:
            raise InputError(f"channels: got {self.channels}, expected an even number")

    @property
    def context_channels(self) -> tuple[int, ...]:
        """Channels of the context per resolution, finest first; each level doubles them."""
        return tuple(self.channels * 2**level for level in range(self.num_cascade_levels))


class AFNOConditioner(nn.Module):
    """Past latents in, one context map per denoiser level out.

    Projection -> AFNO analysis of the past -> temporal transformer to the future latent frames ->
    AFNO forecast -> cascade of coarser resolutions.
    input_channels: of further inputs that follow the past latents' channels.
    Source: Leinonen et al. 2023, section 3 and figure 2.
    """

    def __init__(
        self,
        config: ConditionerConfig | None = None,
        latent_channels: int = 32,
        num_future_latent_frames: int = 5,
        frames_per_latent: int = 4,
        input_channels: int = 0,
    ) -> None:
        super().__init__()
        self.frames_per_latent = frames_per_latent
        self.config = config = config or ConditionerConfig()
        self.num_future_latent_frames = num_future_latent_frames
        channels = config.channels

        def afno_blocks(num: int) -> nn.Sequential:
            args = (channels, config.num_afno_blocks, config.drop_wide_modes)
            return nn.Sequential(*(AFNOBlock(*args) for _ in range(num)))

        self.proj = Conv3d(latent_channels + input_channels, channels, kernel_size=1)
        self.analysis = afno_blocks(config.num_analysis_blocks)
        self.temporal_transformer = TemporalTransformer(
            channels, config.num_heads, config.head_channels
        )
        self.forecast = afno_blocks(config.num_forecast_blocks)
        widths = config.context_channels
        self.cascade = nn.ModuleList(
            ResBlock3d(fine, coarse, kernel_size=(1, 3, 3), use_norm=False)
            for fine, coarse in pairwise(widths)
        )
        self.pool = nn.AvgPool3d((1, 2, 2))
        store_channels_last(self)

    def forward(self, z_past: Tensor) -> tuple[Tensor, ...]:
        """Context maps, finest first: (B, channels * 2^k, L_future, h / 2^k, w / 2^k).

        z_past: (B, C + input_channels, L_past, h, w), oldest first.
        Raises InputError where h or w cannot be halved.
        """
        multiple = 2 ** (self.config.num_cascade_levels - 1)
        _check_latent_grid(z_past, multiple, self.frames_per_latent * multiple)
        x = rearrange(self.proj(z_past), "b c l h w -> b l h w c")
        x = self.analysis(x)
        x = x + self._encode_position(_past_position(z_past, self.frames_per_latent))[:, None, None]
        future = torch.arange(1, self.num_future_latent_frames + 1, device=z_past.device)
        query = self._encode_position(future)[None, :, None, None]  # the same at every pixel
        x = self.temporal_transformer(query, x)  # (B, L_future, h, w, C)
        x = self.forecast(x)
        x = rearrange(x, "b l h w c -> b c l h w")
        context = [x]
        for block in self.cascade:
            context.append(block(self.pool(context[-1])))
        return tuple(context)

    def _encode_position(self, position: Tensor) -> Tensor:
        """[sin | cos] of positions (L,) -> (L, C)."""
        return torch.cat(sinusoids(position, self.config.channels // 2), dim=-1)


def _past_position(z_past: Tensor, frames_per_latent: int) -> Tensor:
    """Mean time (L,) of each past latent frame's radar frames, in frames before the newest (0).

    Parity: past positions count radar frames while future ones count latent frames from 1.
    """
    num_frames = frames_per_latent * z_past.shape[2]
    frame = torch.arange(1 - num_frames, 1, device=z_past.device, dtype=torch.float32)
    return frame.reshape(-1, frames_per_latent).mean(1)


def _check_latent_grid(z: Tensor, multiple: int, rain_multiple: int) -> None:
    if z.ndim != 5 or z.shape[3] % multiple or z.shape[4] % multiple:
        raise InputError(
            f"got latents of shape {tuple(z.shape)}, expected (B, C, L, h, w) with h and w "
            f"multiples of {multiple}: rain of H and W multiples of {rain_multiple}"
        )


class TemporalTransformer(nn.Module):
    """From past to future latent frames, each pixel by itself.

    Self-attention among the queries, cross-attention to the past, an MLP, each with a skip and a
    LayerNorm on the queries only.
    x: (B, L_query, h, w, C) or with h = w = 1 where queries are the same at every pixel.
    context: (B, L_past, h, w, C). Returns (B, L_query, h, w, C).
    With one past latent frame the cross-attention has one key: its softmax is 1, so `attn2.query`,
    the key half of `attn2.key_value` and `norm2` get no gradient. The published file has them too.
    """

    def __init__(self, channels: int, num_heads: int, head_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = TemporalAttention(channels, num_heads, head_channels)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = TemporalAttention(channels, num_heads, head_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(Linear(channels, channels), nn.SiLU(), Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        query = self.norm1(x)
        x = x + self.attn1(query, query)
        x = x.expand(context.shape[0], -1, *context.shape[2:])
        x = x + self.attn2(self.norm2(x), context)
        return x + self.mlp(self.norm3(x))


class TemporalAttention(nn.Module):
    """Multi-head attention over the latent frames of each pixel.

    x: (B, L_query, h, w, C), context: (B, L_key, h, w, C). Returns (B, L_query, h, w, C).
    """

    def __init__(self, channels: int, num_heads: int, head_channels: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_channels
        self.query = Linear(channels, inner)
        self.key_value = Linear(channels, 2 * inner)
        self.proj = Linear(inner, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        query = self._split_heads(self.query(x))
        key, value = (self._split_heads(t) for t in self.key_value(context).chunk(2, dim=-1))
        # Written out: sequences are a few frames long, but there is one at each of B h w pixels,
        # more than the grids of fused attention kernels take.
        scores = torch.einsum("bqhwnc,bkhwnc->bhwnqk", query, key) / query.shape[-1] ** 0.5
        y = torch.einsum("bhwnqk,bkhwnc->bqhwnc", scores.softmax(dim=-1), value)
        return self.proj(y.flatten(-2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l h w (n c) -> b l h w n c", n=self.num_heads)
