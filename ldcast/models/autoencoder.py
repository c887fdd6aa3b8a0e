"""The variational autoencoder between rain in model units and the latent space of the diffusion."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.models.blocks import Conv3d, ResBlock3d, store_channels_last
from ldcast.settings import Settings, setting


@dataclass(frozen=True)
class AutoencoderConfig(Settings):
    """Sizes of the autoencoder; the defaults are the published ones."""

    channels: int = setting(64, "width of the finer resolution", low=1)
    latent_channels: int = setting(32, "channels of the latent z", low=1)
    coarse_channels: int = setting(0, "width of the coarser resolution; 0: the same", low=0)
    kl_weight: float = setting(0.01, "weight of the KL term in the loss", low=0)
    kind: str = setting("kl", "which autoencoder, of ldcast/models/registry.py")
    rain_weight: float = setting(0.0, "weight of the error in mm/h in the loss", low=0)

    @property
    def level_channels(self) -> tuple[int, int]:
        """Width of each resolution, finer first."""
        return self.channels, self.coarse_channels or self.channels


class Autoencoder(Protocol):
    """What the rest needs of an autoencoder; any module that has it will do.

    config: its settings. compression: in time, height and width. latent_channels: C.
    channels: of the widest activation at full resolution, which decides from what size on a field
        is cut into slices.
    latent_scale: only where latents are standardised by a `LatentScale`, which stage 1 measures
        before it trains.
    """

    config: AutoencoderConfig
    compression: int
    latent_channels: int
    channels: int

    def encode(self, rain_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent (B, C, L, h, w) of rain_norm (B, 1, T, H, W)."""

    def decode(self, z: Tensor, **inputs: Any) -> Tensor:
        """rain_norm (B, 1, T, H, W) from z (B, C, L, h, w), and further inputs where it has any."""


class AutoencoderKL(nn.Module):
    """Autoencoder with a Gaussian latent, 4 x 4 x 4 times coarser than the rain.

    GroupNorm spans all frames and pixels, so a sequence must be encoded in one piece: twenty frames
    at once differ from five times four.
    Source: Leinonen et al. 2023, section 3; Kingma and Welling 2014 for the loss.
    """

    Config = AutoencoderConfig
    compression = 4  # in time, height and width

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or AutoencoderConfig()
        (fine, coarse), latent_channels = self.config.level_channels, self.config.latent_channels
        self.encoder = nn.Sequential(
            ResBlock3d(1, fine, kernel_size=(3, 3, 3)),
            Conv3d(fine, fine, kernel_size=2, stride=2),
            ResBlock3d(fine, coarse, kernel_size=(1, 3, 3)),
            Conv3d(coarse, coarse, kernel_size=2, stride=2),
        )
        self.to_moments = Conv3d(coarse, 2 * latent_channels, kernel_size=1)
        self.to_decoder = Conv3d(latent_channels, coarse, kernel_size=1)
        self.decoder = nn.Sequential(
            nn.ConvTranspose3d(coarse, coarse, kernel_size=2, stride=2),
            ResBlock3d(coarse, fine, kernel_size=(1, 3, 3)),
            nn.ConvTranspose3d(fine, fine, kernel_size=2, stride=2),
            ResBlock3d(fine, 1, kernel_size=(3, 3, 3)),
        )
        store_channels_last(self)

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def channels(self) -> int:
        return self.config.channels

    def encode(self, rain_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, each (B, C, L, h, w).

        rain_norm: (B, 1, T, H, W) model units; T, H and W multiples of 4.
        Raises InputError for another number of channels or sizes that do not divide.
        """
        check_rain_shape(rain_norm, self.compression)
        moments = self.to_moments(self.encoder(rain_norm))
        z_mean, z_log_var = moments.chunk(2, dim=1)
        return z_mean, z_log_var

    def decode(self, z: Tensor) -> Tensor:
        """rain_norm (B, 1, 4L, 4h, 4w) from z (B, C, L, h, w)."""
        return self.decoder(self.to_decoder(z))

    def forward(self, rain_norm: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """Reconstruction (B, 1, T, H, W), z_mean and z_log_var (B, C, L, h, w).

        noise: like z_mean, standard normal: decodes a draw from the latent distribution, as in
            training. None decodes the mean.
        """
        z_mean, z_log_var = self.encode(rain_norm)
        z = z_mean if noise is None else z_mean + torch.exp(0.5 * z_log_var) * noise
        return self.decode(z), z_mean, z_log_var


def check_rain_shape(rain_norm: Tensor, multiple: int) -> None:
    """Raises InputError unless it is (B, 1, T, H, W) with T, H and W such multiples."""
    is_fitting = (
        rain_norm.ndim == 5
        and rain_norm.shape[1] == 1
        and not any(size % multiple for size in rain_norm.shape[2:])
    )
    if not is_fitting:
        raise InputError(
            f"got rain of shape {tuple(rain_norm.shape)}, expected (B, 1, T, H, W) with T, H and W "
            f"multiples of {multiple}: pad or crop it first"
        )


def autoencoder_loss(
    rain_norm: Tensor,
    reconstruction: Tensor,
    z_mean: Tensor,
    z_log_var: Tensor,
    kl_weight: float = 0.01,
    is_valid: Tensor | None = None,
) -> Tensor:
    """Loss per example (B,): mean absolute error plus `kl_weight` times the KL divergence.

    rain_norm, reconstruction: (B, 1, T, H, W), model units. z_mean, z_log_var: (B, C, L, h, w).
    is_valid: (B, 1, T, H, W) bool; pixels that are False carry no reconstruction loss. An example
        without a valid pixel has none at all.
    Source: Leinonen et al. 2023, section 3.
    """
    reconstruction_loss = mean_absolute_error(rain_norm, reconstruction, is_valid)
    return reconstruction_loss + kl_weight * kl_divergence(z_mean, z_log_var)


def mean_absolute_error(truth: Tensor, made: Tensor, is_valid: Tensor | None = None) -> Tensor:
    """Mean absolute error (B,) of each example (B, 1, T, H, W), in its own unit.

    is_valid: as for `autoencoder_loss`.
    """
    error = (truth.float() - made.float()).abs()
    if is_valid is None:
        return error.flatten(1).mean(1)
    num_valid = is_valid.flatten(1).sum(1)
    return error.masked_fill(~is_valid, 0.0).flatten(1).sum(1) / num_valid.clamp(min=1)


def kl_divergence(z_mean: Tensor, z_log_var: Tensor) -> Tensor:
    """KL divergence (B,) of the latent from a standard normal, averaged over cells and channels.

    Kingma and Welling 2014, appendix B, with mu = z_mean and sigma^2 = exp(z_log_var).
    """
    z_mean, z_log_var = z_mean.float(), z_log_var.float()
    kl = 0.5 * (z_mean.square() + z_log_var.exp() - 1.0 - z_log_var)
    return kl.flatten(1).mean(1)
