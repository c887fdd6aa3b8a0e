"""Noise schedule and samplers; knows nothing of networks, data or files."""

from ldcast.diffusion.ddpm import DDPMLoss
from ldcast.diffusion.dpm_solver import DPMSolverSampler
from ldcast.diffusion.plms import PLMSSampler, warn_of_few_steps
from ldcast.diffusion.sampler import Denoiser, Sampler, predict_at
from ldcast.diffusion.schedule import NoiseSchedule, Prediction

__all__ = [
    "DDPMLoss",
    "DPMSolverSampler",
    "Denoiser",
    "NoiseSchedule",
    "PLMSSampler",
    "Prediction",
    "Sampler",
    "predict_at",
    "warn_of_few_steps",
]
