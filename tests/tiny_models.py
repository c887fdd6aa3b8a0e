"""Whole systems small enough to forecast in a blink, with weights that are not trivial."""

import torch
from torch import Tensor

from ldcast.config import TINY_AUTOENCODER, TINY_DIFFUSION, DiffusionConfig, ModelConfig
from ldcast.frames import FrameConfig
from ldcast.nowcast.ldcast import LDCast, build
from ldcast.rain import RainScale

NUM_STEPS = 4  # sampling steps of the tiny model
NUM_CALLS = NUM_STEPS + 1  # of its denoiser


def tiny_config(frames: FrameConfig | None = None, **diffusion) -> ModelConfig:
    """The preset's networks; velocity by default: untrained, it keeps latents near one."""
    diffusion = {"prediction": "v", "num_sampling_steps": NUM_STEPS} | diffusion
    return ModelConfig(
        frames=frames or FrameConfig(),
        rain=RainScale(),
        autoencoder=TINY_AUTOENCODER.autoencoder,
        conditioner=TINY_DIFFUSION.conditioner,
        denoiser=TINY_DIFFUSION.denoiser,
        diffusion=DiffusionConfig(**diffusion),
    )


def tiny_model(seed: int = 0, frames: FrameConfig | None = None, **diffusion) -> LDCast:
    """Random weights; the last convolutions, which start at zero, are filled as well."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(tiny_config(frames, **diffusion))
        for parameter in model.latent_nowcaster.denoiser.parameters():
            if not parameter.any():
                parameter.data = 0.1 * torch.randn_like(parameter)
    return model.eval()


def rain(height: int = 32, width: int = 48, seed: int = 0) -> Tensor:
    """Past rain (4, H, W) mm/h from drizzle to downpour, a third of it dry."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(4, height, width, generator=generator)
    return torch.where(field > -0.4, 10.0**field, 0.0)
