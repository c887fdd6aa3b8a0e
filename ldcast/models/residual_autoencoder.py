"""An autoencoder without norms: linear patches along its skips, residual blocks beside them.

What it makes of a pixel depends on what is near it alone. So a crop of an encoded field is the
encoded crop, but for a margin; slices are exact; latents may be computed once for a whole event.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldcast.models.autoencoder import AutoencoderConfig, check_rain_shape
from ldcast.models.blocks import Conv3d, ResBlock3d, store_channels_last
from ldcast.settings import setting

START_SCALE = 2.0  # of the lowest frequency at the start, beside noise of deviation 1


@dataclass(frozen=True)
class ResidualAutoencoderConfig(AutoencoderConfig):
    """Sizes of the residual autoencoder and weights of its loss."""

    channels: int = setting(8, "width at full resolution", low=1)
    latent_channels: int = setting(16, "channels of the latent z", low=1)
    coarse_channels: int = setting(64, "width on the latent grid", low=1)
    kl_weight: float = setting(0.001, "weight of the KL term in the loss", low=0)
    kind: str = setting("residual", "which autoencoder, of ldcast/models/registry.py")
    rain_weight: float = setting(0.3, "weight of the error in mm/h in the loss", low=0)
    num_encoder_blocks: int = setting(2, "residual blocks of the encoder", low=0)
    num_decoder_blocks: int = setting(2, "residual blocks of the decoder, coarse", low=0)


class ResidualAutoencoder(nn.Module):
    """Autoencoder of patches of 4 x 4 x 4 pixels, with residual blocks mostly on the latent grid.

    The skips alone are linear: they start as the lowest cosines of each patch, and back.
    The encoder's blocks see one latent frame each, so the past is encoded alike with and without
    the future; the decoder's see their neighbours in time.
    The latent is regularised by noise of deviation 1, in training and in its units: the KL term is
    half the square of the mean, which keeps the latent from outgrowing the noise. So errors of a
    forecast latent that are small beside the noise decode into nothing worse than the noise did.
    Outside training the latent is standardised per channel, by `latent_scale`.
    Source: residual autoencoding of Chen et al. 2025 (DC-AE); no norms as in Lim et al. 2017
    (EDSR); Kingma and Welling 2014 for the loss.
    """

    Config = ResidualAutoencoderConfig
    compression = 4  # in time, height and width

    def __init__(self, config: ResidualAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or ResidualAutoencoderConfig()
        fine, coarse = self.config.level_channels
        latent, size = self.config.latent_channels, self.compression
        self.encoder = nn.Sequential(
            Conv3d(1, coarse, kernel_size=size, stride=size),
            *(_block(coarse, (1, 3, 3)) for _ in range(self.config.num_encoder_blocks)),
            Conv3d(coarse, latent, kernel_size=1),
        )
        self.decoder = nn.Sequential(
            Conv3d(latent, coarse, kernel_size=1),
            *(_block(coarse, (3, 3, 3)) for _ in range(self.config.num_decoder_blocks)),
            nn.ConvTranspose3d(coarse, fine, kernel_size=size, stride=size),
            _block(fine, (3, 3, 3)),  # smooths the seams between patches
            Conv3d(fine, 1, kernel_size=1),
        )
        self.latent_scale = LatentScale(latent)
        self._start_from_cosines()
        store_channels_last(self)

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def channels(self) -> int:
        return self.config.channels

    @torch.no_grad()
    def _start_from_cosines(self) -> None:
        cosines, frequency = patch_cosines(self.compression)
        to_patches, to_latent = self.encoder[0], self.encoder[-1]
        from_latent, to_pixels, to_rain = self.decoder[0], self.decoder[-3], self.decoder[-1]
        for layer in (to_patches, to_latent, from_latent, to_pixels, to_rain):
            nn.init.zeros_(layer.bias)
        for layer in (to_latent, from_latent, to_rain):
            nn.init.dirac_(layer.weight)  # channel k of one is channel k of the other
        num = min(self.config.coarse_channels, len(cosines))
        scale = START_SCALE * (1 + 2 * frequency)[:, None, None, None]  # nearly all above the noise
        to_patches.weight[:num, 0] = (scale * cosines)[:num]
        to_pixels.weight[:num, 0] = (cosines / scale)[:num]

    def encode(self, rain_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the standardised latent, each (B, C, L, h, w).

        rain_norm: (B, 1, T, H, W) model units; T, H and W multiples of 4.
        Raises InputError for another number of channels or sizes that do not divide.
        """
        z_mean = self.latent_scale(self._encode(rain_norm))
        return z_mean, self.latent_scale.noise_log_var().expand(z_mean.shape)

    def decode(self, z: Tensor) -> Tensor:
        """rain_norm (B, 1, 4L, 4h, 4w) from z (B, C, L, h, w), standardised."""
        return self.decoder(self.latent_scale.undo(z))

    def forward(self, rain_norm: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """Reconstruction (B, 1, T, H, W), z_mean and z_log_var (B, C, L, h, w), as in training.

        The latent is that of training, before it is standardised.
        noise: like z_mean, standard normal: decodes a draw from the latent distribution. None
            decodes the mean.
        """
        z_mean = self._encode(rain_norm)
        z = z_mean if noise is None else z_mean + noise
        return self.decoder(z), z_mean, torch.zeros_like(z_mean)

    def _encode(self, rain_norm: Tensor) -> Tensor:
        check_rain_shape(rain_norm, self.compression)
        return self.encoder(rain_norm)


class LatentScale(nn.Module):
    """Mean and deviation of each latent channel over the training data; 0 and 1 until measured."""

    LOWEST = 0.05  # of the largest deviation; a channel that is hardly used is not blown up

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("deviation", torch.ones(latent_channels))

    def forward(self, z: Tensor) -> Tensor:
        """Standardised z (B, C, L, h, w), from z as the encoder gives it."""
        return (z - _per_channel(self.mean)) / _per_channel(self.deviation)

    def undo(self, z: Tensor) -> Tensor:
        """z (B, C, L, h, w) as the decoder takes it, from the standardised one."""
        return z * _per_channel(self.deviation) + _per_channel(self.mean)

    def noise_log_var(self) -> Tensor:
        """Log-variance (1, C, 1, 1, 1), standardised, of noise that had deviation 1 before."""
        return -2 * _per_channel(self.deviation.log())

    @contextlib.contextmanager
    def measured(self, mean: Tensor, deviation: Tensor) -> Iterator[None]:
        """Within this context it is that of latents with this mean and deviation, (C,) each.

        Training goes on with what was there before.
        """
        before = self.mean.clone(), self.deviation.clone()
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=self.LOWEST * deviation.max()))
        try:
            yield
        finally:
            self.mean.copy_(before[0])
            self.deviation.copy_(before[1])


def _per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None, None]


def _block(channels: int, kernel_size: tuple[int, int, int]) -> ResBlock3d:
    """A residual block without norms that starts as its skip."""
    block = ResBlock3d(channels, channels, kernel_size, use_norm=False)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    return block


def patch_cosines(size: int) -> tuple[Tensor, Tensor]:
    """Orthonormal cosines of a patch (size^3, size, size, size), and their frequencies (size^3,).

    The discrete cosine transform (Ahmed et al. 1974) in time, height and width, lowest frequencies
    first; for rain it is close to principal components, and needs no data. Rain varies more in five
    minutes than in a kilometre, so a frequency in time counts half.
    """
    index = torch.arange(size, dtype=torch.float64)
    line = torch.cos(math.pi * (index + 0.5) * index[:, None] / size)
    line = line / line.norm(dim=1, keepdim=True)
    cosines = torch.einsum("at,by,cx->abctyx", line, line, line).flatten(0, 2)
    square = index.square()
    frequency = (square[:, None, None] / 4 + square[:, None] + square).sqrt().flatten()
    frequency, order = frequency.sort(stable=True)
    return cosines[order].float(), frequency.float()
