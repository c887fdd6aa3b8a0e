"""Flow matching: the run says so, and the midpoint rule follows straight and bent flows."""

import json
from pathlib import Path

import numpy as np
import torch

from ldcast.diffusion import NoiseSchedule
from ldcast.diffusion.registry import SAMPLERS

diffusion = json.loads(Path("runs/flow/config.json").read_text())["model"]["diffusion"]
chosen = [diffusion[key] for key in ("schedule", "prediction", "sampler", "num_sampling_steps")]
assert chosen == ["straight", "flow", "midpoint", 10]
with np.load("flow.npz") as forecast:
    assert forecast["sampler"] == "midpoint" and np.isfinite(forecast["rain_rate"]).all()

schedule = NoiseSchedule.straight()
z, noise = torch.randn(2, 2, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0))


def of_one_example(z_noisy, step):
    return schedule.predict("flow", noise - z, z_noisy, step)


def of_a_gaussian(z_noisy, step):
    """Of data with deviation 0.5: the expected flow, whose lines are bent."""
    signal, sigma = schedule.coefficients(z_noisy, step)
    variance = 0.25 * signal**2 + sigma**2
    flow = sigma / variance * z_noisy - 0.25 * signal / variance * z_noisy
    return schedule.predict("flow", flow, z_noisy, step)


for num in (1, 3, 10, 500):
    sampler = SAMPLERS["midpoint"](schedule, num)
    torch.testing.assert_close(sampler(of_one_example, noise), z, rtol=1e-4, atol=1e-4)
    assert sampler.num_denoiser_calls == 2 * num
# Linear: what one is mapped to is the deviation. Euler's rule with 20 calls is off by 0.03.
made = SAMPLERS["midpoint"](schedule, 10)(of_a_gaussian, torch.ones(1, 1, 1, 1, 1))
assert abs(made.item() - 0.5) < 2e-3, made
