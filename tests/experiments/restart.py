"""Restart sampling: reaches what a perfect denoiser knows, and draws each member's own noise."""

import itertools

import numpy as np
import torch
from tiny_models import rain, tiny_model

from ldcast.diffusion import NoiseSchedule
from ldcast.diffusion.registry import SAMPLERS

with np.load("restart.npz") as forecast:
    assert forecast["sampler"] == "restart" and forecast["num_sampling_steps"] == 20
    assert np.isfinite(forecast["rain_rate"]).all()

schedule = NoiseSchedule.sqrt_linear()
z, noise = torch.randn(2, 2, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
steps = []


def perfect(z_noisy, step):
    steps.append(step[0].item())
    return schedule.predict("noise", schedule.noise_from_z(z_noisy, z, step), z_noisy, step)


sampler = SAMPLERS["restart"](schedule, num_restarts=2)
torch.testing.assert_close(sampler(perfect, noise), z, rtol=1e-4, atol=1e-4)
assert len(steps) == sampler.num_denoiser_calls == 20 + 2 * 8 - 2
assert sum(later > earlier for earlier, later in itertools.pairwise(steps)) == 2

# Where nothing is known but noise, its size at each step is what the schedule says.
sizes = []


def ignorant(z_noisy, step):
    sizes.append(z_noisy.std().item() / schedule.sigma[step[0]].item())
    return schedule.predict("noise", z_noisy / schedule.sigma[step[0]].float(), z_noisy, step)


sampler(ignorant, torch.randn(1, 1, 1, 300, 300, generator=torch.Generator().manual_seed(1)))
assert np.allclose(sizes[1:], 1, atol=0.02), sizes

model = tiny_model()
model.use_sampler("restart")
together = model.predict(rain(), num_members=3, seed=4)
assert torch.equal(model.predict(rain(), num_members=3, seed=4), together)
alone = model.predict(rain(), num_members=1, seed=4, first_member=2)
torch.testing.assert_close(alone[0], together[2], rtol=1e-3, atol=1e-3)
members = model.predict(rain(), num_members=2, noise=torch.zeros(2, 4, 5, 8, 12))
assert not torch.allclose(members[0], members[1], atol=0.1)
