"""An autoencoder whose latents are cosines of small patches; only its decoder is learnt.

A linear decoder is as good as a residual one where networks are trained by the rain that they
forecast (`--loss crps`), since they know what it does to their latents, and costs nothing.

Nothing has to be trained to encode. A latent is as predictable as the rain that it stands for, and
the encoded crop is the crop of the encoded field, exactly (if lapped, but for the outermost cells).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.models.autoencoder import AutoencoderConfig, check_rain_shape
from ldcast.models.blocks import Conv3d, ResBlock3d, store_channels_last
from ldcast.settings import setting

ACROSS = 1.6  # as in the source


@dataclass(frozen=True)
class CosineAutoencoderConfig(AutoencoderConfig):
    """Number of cosines, sizes of the decoder and weights of its loss."""

    channels: int = setting(8, "width of a residual decoder at full resolution", low=1)
    latent_channels: int = setting(24, "channels of the latent z: cosines that are kept", low=1)
    coarse_channels: int = setting(64, "width of a residual decoder on the latent grid", low=1)
    kl_weight: float = setting(0.0, "0: the encoder is not trained", low=0)
    kind: str = setting("cosine", "which autoencoder, of ldcast/models/registry.py")
    rain_weight: float = setting(0.3, "weight of the error in mm/h in the loss", low=0)
    decoder: str = setting("residual", "what is learnt", choices=("residual", "linear"))
    num_decoder_blocks: int = setting(2, "residual blocks of the decoder, coarse", low=0)
    lapped: bool = setting(
        False, "cosines end smoothly in the next patches, so that the edges of patches do not show"
    )
    noise: float = setting(0.1, "deviation of the latent's noise in training, model units", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        num_cosines = CosineAutoencoder.compression**3
        if self.latent_channels > num_cosines:
            raise InputError(
                f"latent_channels: got {self.latent_channels}, expected at most {num_cosines}"
            )
        if self.kl_weight:
            raise InputError(
                f"kl_weight: got {self.kl_weight}, expected 0: the cosines are not trained"
            )
        if self.lapped and self.decoder != "linear":
            raise InputError(f"lapped: got true with decoder {self.decoder}, expected linear")
        if self.decoder == "linear":
            self._refuse("channels", "coarse_channels", "num_decoder_blocks")

    def _refuse(self, *names: str) -> None:
        """Raises InputError where settings of a residual decoder are given for a linear one."""
        for name in names:
            default, got = getattr(type(self), name), getattr(self, name)
            if got != default:
                raise InputError(f"{name}: got {got} with a linear decoder, which has none")


class CosineAutoencoder(nn.Module):
    """The lowest cosines of patches of 4 x 4 x 4 pixels, and a decoder that adds what they lack.

    Encoding is the discrete cosine transform of each patch (Ahmed et al. 1974), cut off: 64 numbers
    become C. `latent_scale` standardises them and knows how large each was. Decoding starts as the
    inverse transform. A linear decoder has weights of that form, a residual one adds a network of
    local convolutions; those on the latent grid see one latent frame each, so that the number of
    frames does not matter.
    Trained on noisy latents, so that small errors of a forecast latent are not amplified.
    A lapped transform mixes the pixels on both sides of each edge before, and separates them after:
    patches of which each is a little wrong then still meet.
    The transforms are computed in the type of their weights, whatever autocast says: half precision
    would save next to no time, take more memory and round the rain. The network of a residual
    decoder follows autocast.
    """

    Config = CosineAutoencoderConfig
    compression = 4  # in time, height and width

    def __init__(self, config: CosineAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or CosineAutoencoderConfig()
        fine, coarse = self.config.level_channels
        latent, size = self.config.latent_channels, self.compression
        # On the CPU also where a model is only laid out: sums of a meta tensor load the compiler.
        with torch.device("cpu"):
            cosines = patch_cosines(size)[:latent, None]  # (C, 1, 4, 4, 4)
            mixing = edge_mixing(size)
        self.register_buffer("cosines", cosines)
        self.latent_scale = LatentScale(latent)
        if self.config.lapped:
            self.register_buffer("edge_mixing", mixing)
            self.register_buffer("edge_separating", torch.linalg.inv(mixing))
        self.inverse = self.details = self.finish = None
        if self.config.decoder == "linear":
            self.inverse = nn.ConvTranspose3d(latent, 1, kernel_size=size, stride=size)
            with torch.no_grad():
                self.inverse.weight.copy_(cosines)
                self.inverse.bias.zero_()
            return
        self.details = nn.Sequential(
            Conv3d(latent, coarse, kernel_size=1),
            *(ResBlock3d(coarse, coarse, (1, 3, 3), use_norm=False)
              for _ in range(self.config.num_decoder_blocks)),
            nn.ConvTranspose3d(coarse, fine, kernel_size=size, stride=size),
        )  # fmt: skip
        self.finish = nn.Sequential(
            Conv3d(fine + 1, fine, kernel_size=1),
            ResBlock3d(fine, fine, (3, 3, 3), use_norm=False),  # smooths the seams between patches
            Conv3d(fine, 1, kernel_size=1),
        )
        nn.init.zeros_(self.finish[-1].weight)  # starts as the inverse transform alone
        nn.init.zeros_(self.finish[-1].bias)
        store_channels_last(self)

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def channels(self) -> int:
        return self.config.channels

    def encode(self, rain_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the standardised latent, each (B, C, L, h, w).

        rain_norm: (B, 1, T, H, W) model units; T, H and W multiples of 4.
        Raises InputError for another number of channels or sizes that do not divide.
        """
        check_rain_shape(rain_norm, self.compression)
        if self.config.lapped:
            rain_norm = at_edges(self.edge_mixing, rain_norm)
        with torch.autocast(rain_norm.device.type, enabled=False):
            z = nn.functional.conv3d(
                rain_norm.to(self.cosines), self.cosines, stride=self.compression
            )
        log_var = 2 * (self.config.noise / self.latent_scale.deviation).clamp(min=1e-6).log()
        z = self.latent_scale(z)
        return z, log_var[:, None, None, None].expand(z.shape)

    def decode(self, z: Tensor) -> Tensor:
        """rain_norm (B, 1, 4L, 4h, 4w) from z (B, C, L, h, w), standardised."""
        coefficients, size = self.latent_scale.undo(z).to(self.cosines), self.compression
        with torch.autocast(z.device.type, enabled=False):
            if self.inverse is not None:
                return self._separated(self.inverse(coefficients))
            plain = nn.functional.conv_transpose3d(coefficients, self.cosines, stride=size)
        return plain + self.finish(torch.cat([plain, self.details(z)], dim=1))

    def _separated(self, rain_norm: Tensor) -> Tensor:
        return at_edges(self.edge_separating, rain_norm) if self.config.lapped else rain_norm

    def forward(self, rain_norm: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """Reconstruction (B, 1, T, H, W), z_mean and z_log_var (B, C, L, h, w).

        noise: like z_mean, standard normal: decodes a noisy latent, as in training. None decodes
            the mean.
        """
        z_mean, z_log_var = self.encode(rain_norm)
        z = z_mean if noise is None else z_mean + torch.exp(0.5 * z_log_var) * noise
        return self.decode(z), z_mean, z_log_var


class LatentScale(nn.Module):
    """Mean and deviation of each latent channel over training data; 0 and 1 until measured."""

    LOWEST = 0.01  # model units, of the deviation: rain that never changes has channels without any

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("deviation", torch.ones(latent_channels))

    def forward(self, z: Tensor) -> Tensor:
        """Standardised z (B, C, L, h, w), from z as the encoder gives it."""
        return (z - _per_channel(self.mean)) / _per_channel(self.deviation)

    def undo(self, z: Tensor) -> Tensor:
        """z (B, C, L, h, w) as the encoder gives it, from the standardised one."""
        return z * _per_channel(self.deviation) + _per_channel(self.mean)

    def measure(self, z: Tensor) -> None:
        """Takes mean and deviation of latents (C, latent cells) of training data."""
        self.mean.copy_(z.mean(1))
        self.deviation.copy_(z.std(1).clamp(min=self.LOWEST))

    def sizes(self) -> Tensor:
        """(C,) deviations of the channels, of mean square 1 over all of them."""
        return self.deviation / self.deviation.square().mean().sqrt()


def _per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None, None]


def patch_cosines(size: int) -> Tensor:
    """Orthonormal cosines of a patch (size^3, size, size, size), lowest frequencies first.

    For rain the transform is close to principal components, and needs no data. Rain varies more in
    five minutes than in a kilometre, so a frequency in time counts half.
    """
    index = torch.arange(size, dtype=torch.float64)
    line = torch.cos(math.pi * (index + 0.5) * index[:, None] / size)
    line = line / line.norm(dim=1, keepdim=True)
    cosines = torch.einsum("at,by,cx->abctyx", line, line, line).flatten(0, 2)
    square = index.square()
    frequency = (square[:, None, None] / 4 + square[:, None] + square).sqrt().flatten()
    return cosines[frequency.argsort(stable=True)].float()


def edge_mixing(size: int) -> Tensor:
    """What a lapped transform does to the `size` pixels around an edge of patches: (size, size).

    Half of them are on either side. Sums of opposite pixels stay; differences are turned among
    themselves, those across the edge raised by `ACROSS`.
    Source: Tran et al. 2003 (IEEE Transactions on Signal Processing 51), the pre-filter of their
    lapped transform, which is biorthogonal.
    """
    half = size // 2
    index = torch.arange(half, dtype=torch.float64)
    type_2 = torch.cos(math.pi * index[:, None] * (index + 0.5) / half)
    type_2 = type_2 / type_2.norm(dim=1, keepdim=True)
    type_4 = torch.cos(math.pi * (index[:, None] + 0.5) * (index + 0.5) / half)
    type_4 = type_4 / type_4.norm(dim=1, keepdim=True)
    across = torch.ones(half, dtype=torch.float64)
    across[0] = ACROSS
    turn = (type_2.T @ (across[:, None] * type_4)).flip(0, 1)
    same = torch.eye(half, dtype=torch.float64)
    mirror = same.flip(0)
    butterfly = torch.cat([torch.cat([same, mirror], 1), torch.cat([mirror, -same], 1)])
    return (butterfly @ torch.block_diag(same, turn) @ butterfly / 2).float()


def at_edges(matrix: Tensor, rain_norm: Tensor) -> Tensor:
    """The pixels of rain_norm (B, 1, T, H, W) around each edge of patches, down and right, times
    matrix.

    Pixels at the ends of the field, outside its first and last edge, stay. In float32, whatever
    autocast says. Without gradients frame by frame, since it takes several copies.
    """
    frames = rain_norm.unbind(2)
    with torch.autocast(frames[0].device.type, enabled=False):
        if torch.is_grad_enabled():
            return torch.stack([_frame_at_edges(matrix, frame) for frame in frames], dim=2)
        result = frames[0].new_empty(rain_norm.shape)
        for index, frame in enumerate(frames):
            result[:, :, index] = _frame_at_edges(matrix, frame)
        return result


def _frame_at_edges(matrix: Tensor, frame: Tensor) -> Tensor:
    pixels, half = frame.float(), len(matrix) // 2
    for axis in (-2, -1):
        pixels = pixels.movedim(axis, -1)
        around = pixels[..., half:-half].unflatten(-1, (-1, len(matrix))) @ matrix.float().T
        parts = pixels[..., :half], around.flatten(-2), pixels[..., -half:]
        pixels = torch.cat(parts, dim=-1).movedim(-1, axis)
    return pixels.to(frame.dtype)
