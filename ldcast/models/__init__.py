"""The three networks; they know nothing of diffusion, data or files."""

from ldcast.models.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    AutoencoderKL,
    autoencoder_loss,
    mean_absolute_error,
)
from ldcast.models.conditioner import AFNOConditioner, ConditionerConfig
from ldcast.models.unet import DenoiserConfig, DenoiserUNet

__all__ = [
    "AFNOConditioner",
    "Autoencoder",
    "AutoencoderConfig",
    "AutoencoderKL",
    "ConditionerConfig",
    "DenoiserConfig",
    "DenoiserUNet",
    "autoencoder_loss",
    "mean_absolute_error",
]
