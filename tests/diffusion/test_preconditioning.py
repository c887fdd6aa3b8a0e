"""Preconditioning: the best linear guess, and unit size on both sides of the network."""

import pytest
import torch
from torch import Tensor

from ldcast.diffusion import NoiseSchedule
from ldcast.diffusion.preconditioning import ChannelSizes, preconditioned_v

pytestmark = pytest.mark.core

SCHEDULE = NoiseSchedule.cosine()
DEVIATION = torch.tensor([4.0, 1.0, 0.1])


def draws(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z_noisy and v of many Gaussian cells (1, 3, 1, 200, 200), and the step (1,)."""
    generator = torch.Generator().manual_seed(step)
    z, noise = torch.randn(2, 1, 3, 1, 200, 200, generator=generator)
    z = z * DEVIATION[None, :, None, None, None]
    steps = torch.tensor([step])
    z_noisy = SCHEDULE.add_noise(z, noise, steps)
    return z_noisy, SCHEDULE.target("v", z, noise, steps), z, steps


def given(network, z_noisy: Tensor, steps: Tensor, deviation: Tensor = DEVIATION) -> Tensor:
    return preconditioned_v(network, SCHEDULE, ChannelSizes(deviation), z_noisy, steps)


@pytest.mark.parametrize("step", [0, 100, 500, 900, 999])
def test_the_network_sees_and_answers_unit_size(step) -> None:
    z_noisy, v, _, steps = draws(step)
    seen = []
    guess = given(lambda z_in: seen.append(z_in) or torch.zeros_like(z_in), z_noisy, steps)
    ones = torch.ones(3)
    torch.testing.assert_close(seen[0].std((0, 2, 3, 4)), ones, rtol=0.02, atol=0)
    scale = given(torch.ones_like, z_noisy, steps) - guess
    answer = (v - guess) / scale  # what a perfect network answers
    torch.testing.assert_close(answer.std((0, 2, 3, 4)), ones, rtol=0.02, atol=0)
    correlation = (answer * seen[0]).mean((0, 2, 3, 4))
    torch.testing.assert_close(correlation, torch.zeros(3), rtol=0, atol=0.02)
    torch.testing.assert_close(given(lambda _: answer, z_noisy, steps), v, rtol=0, atol=1e-4)


@pytest.mark.parametrize("step", [0, 500, 900])
def test_a_silent_network_shrinks_the_noise_as_a_wiener_filter(step) -> None:
    z_noisy, _, z, steps = draws(step)
    v = given(torch.zeros_like, z_noisy, steps)
    z_guess = SCHEDULE.predict("v", v, z_noisy, steps).z
    signal, sigma = SCHEDULE.signal[step], SCHEDULE.sigma[step]
    expected = sigma * DEVIATION / (signal**2 * DEVIATION**2 + sigma**2).sqrt()
    error = (z_guess - z).square().mean((0, 2, 3, 4)).sqrt()
    torch.testing.assert_close(error, expected.float(), rtol=0.02, atol=0)


def test_of_unit_deviation_the_network_answers_v_itself() -> None:
    z_noisy, _, _, steps = draws(500)
    torch.testing.assert_close(given(torch.sin, z_noisy, steps, torch.ones(3)), torch.sin(z_noisy))


def test_each_example_has_its_own_step() -> None:
    z_noisy = torch.cat([draws(100)[0], draws(900)[0]])
    together = given(torch.sin, z_noisy, torch.tensor([100, 900]))
    for k, step in enumerate((100, 900)):
        alone = given(torch.sin, z_noisy[k : k + 1], torch.tensor([step]))
        torch.testing.assert_close(together[k : k + 1], alone)
