"""The loss of stage 2 in terms of forecasts: the CRPS of a few members, in mm/h.

Denoising teaches a network what latents are like, in units where all errors count alike. What a
forecast is judged by is this score, so networks that can denoise, or new ones, are trained further
by it.
Sources: Lang et al. 2024 (AIFS-CRPS, arXiv:2412.15832), section 2, for the score of few members;
Alet et al. 2025 (FGN, arXiv:2506.10772), for members that such a score makes from noise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldcast.config import CRPSLossConfig
from ldcast.inputs.known import Known
from ldcast.nowcast.ldcast import LDCast
from ldcast.rain import RainScale, from_model_units, to_model_units, undo_transform, valid_mask
from ldcast.verification.scores.crps import almost_fair_crps

# Of the fair CRPS; the rest is the ensemble's own. Alone, the fair one is content with a member
# that is anywhere, as long as the other one is right.
FAIRNESS = 0.95
DRY_SLOPE = 0.1  # of model units below dry, where all is the same rain but not the same gradient


class EnsembleLoss(nn.Module):
    """Almost fair CRPS of rain that the model's inference sampler makes, per example.

    Of each pixel and of the means over blocks of pixels, mm/h: pixels alone would let members
    differ by mere noise. Added to it are, by `transformed_weight`, that of rain in model units, to
    which light rain and its edges matter; by `latent_weight`, that of the latents, to whose fine
    channels noise matters that is hardly anything in mm/h (see `latents_loss`).
    model: whose conditioner and denoiser are trained; gradients pass through its decoder.
    """

    def __init__(self, model: LDCast, settings: CRPSLossConfig) -> None:
        super().__init__()
        self.nowcaster, self.autoencoder = model.latent_nowcaster, model.autoencoder
        self.rain_scale, self.settings = model.rain_scale, settings

    def forward(
        self,
        known: Known,
        rain_rate: Tensor,
        z_future: Tensor,
        weight: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Loss (B,).

        known: past latents and inputs. rain_rate: (B, 1, T, H, W) mm/h, what came, NaN = no data.
        z_future: (B, C, L, h, w), its latents. weight: (B, 1, L, h, w), each cell's share of pixels
        with data. generators: one per example, for all that its members draw.
        """
        z = self.nowcaster.draw_members(known, self.settings.num_members, generators).float()
        with torch.autocast(z.device.type, enabled=False):
            rain_norm = torch.stack([self.autoencoder.decode(of_one) for of_one in z])
            loss = members_loss(rain_norm, rain_rate, self.rain_scale, self.settings)
            if self.settings.latent_weight:
                sizes = self.nowcaster.sizes_of_channels(z_future)
                of_latents = latents_loss(z, z_future, weight, sizes)
                loss = loss + self.settings.latent_weight * of_latents
            return loss


def members_loss(
    rain_norm: Tensor, rain_rate: Tensor, scale: RainScale, settings: CRPSLossConfig
) -> Tensor:
    """Loss (B,) of members rain_norm (E, B, 1, T, H, W), model units; see `EnsembleLoss`.

    rain_rate: (B, 1, T, H, W) mm/h, NaN = no data; such pixels do not count, nor do blocks with
    data in less than half of them, nor what is left beside the last whole block.
    """
    is_valid = valid_mask(rain_rate)
    rain_rate = rain_rate.nan_to_num(nan=0.0)
    made = forecast_rain(rain_norm, scale)
    loss = 0.0
    for size in settings.block_sizes:
        share = _block_means(is_valid.float(), size)  # of each block's pixels
        mean_made, mean_fallen = (
            _block_means(rain * is_valid, size) / share.clamp(min=1e-6)
            for rain in (made, rain_rate)
        )
        loss = loss + _mean_score(mean_made, mean_fallen, share >= 0.5)
    if settings.transformed_weight:
        dry = to_model_units(rain_norm.new_zeros(1, 1), scale)
        bent = torch.where(rain_norm < dry, dry + DRY_SLOPE * (rain_norm - dry), rain_norm)
        score = _mean_score(bent, to_model_units(rain_rate, scale), is_valid)
        loss = loss + settings.transformed_weight * score
    return loss


def latents_loss(z: Tensor, z_future: Tensor, weight: Tensor, channel_sizes: Tensor) -> Tensor:
    """Loss (B,) of the members' latents z (E, B, C, L, h, w), each channel by itself.

    Cells with data in all of their pixels count (of lapped latents those beside no data as well,
    whose targets took it for dry). Where an edge or a peak may be is in the fine
    channels; a pixel's error is that of the coarse ones, so noise in fine ones that should be still
    costs next to nothing there.
    z_future: (B, C, L, h, w). weight: (B, 1, L, h, w). channel_sizes: (C,), of mean square 1.
    """
    sizes = channel_sizes[:, None, None, None]
    return _mean_score(z * sizes, z_future * sizes, (weight == 1).expand_as(z_future))


def forecast_rain(rain_norm: Tensor, scale: RainScale) -> Tensor:
    """`from_model_units`, with the gradient of rain that has not been cut off below 0.1 mm/h.

    So a member that is dry by little learns that it should have been wet (the straight-through
    estimator of Bengio et al. 2013, arXiv:1308.3432).
    """
    uncut = undo_transform(rain_norm, scale)
    return uncut + (from_model_units(rain_norm, scale) - uncut).detach()


def _mean_score(members: Tensor, observation: Tensor, counts: Tensor) -> Tensor:
    """(B,) of members (E, B, ...), observation and counts (B, ...); 0 where nothing counts."""
    score = almost_fair_crps(members, observation, FAIRNESS)
    counts = counts.to(score.dtype)
    return (score * counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)


def _block_means(values: Tensor, size: int) -> Tensor:
    """Means over whole blocks of size x size pixels, (..., H // size, W // size)."""
    if size == 1:
        return values
    planes = values.flatten(0, -3)[:, None]
    return nn.functional.avg_pool2d(planes, size)[:, 0].unflatten(0, values.shape[:-2])
