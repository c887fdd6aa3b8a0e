"""Precipitation nowcasting with latent diffusion, in plain PyTorch."""

from ldcast.diffusion import DDPMLoss, NoiseSchedule, PLMSSampler, Sampler
from ldcast.machine.code_version import VERSION as __version__
from ldcast.models import AFNOConditioner, AutoencoderKL, DenoiserUNet
from ldcast.nowcast.latent_nowcaster import LatentNowcaster
from ldcast.nowcast.ldcast import LDCast

__all__ = [
    "AFNOConditioner",
    "AutoencoderKL",
    "DDPMLoss",
    "DenoiserUNet",
    "LDCast",
    "LatentNowcaster",
    "NoiseSchedule",
    "PLMSSampler",
    "Sampler",
    "__version__",
]
