"""The noise schedule: its tables, its grids, and the three things that a network may predict."""

import dataclasses
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from golden_arrays import assert_close, load

from ldcast.diffusion import NoiseSchedule
from ldcast.diffusion.schedule import PREDICTIONS, SCHEDULES

pytestmark = pytest.mark.core

TABLES = load("schedule")
UNITS = load("units")
PUBLISHED_NAME = {"sqrt_linear": "linear", "cosine": "cosine"}

each_schedule = pytest.mark.parametrize("name", list(PUBLISHED_NAME))


def beta_of(schedule: NoiseSchedule) -> torch.Tensor:
    """The share of variance that each diffusion step adds."""
    before = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alpha_bar[:-1]])
    return 1 - schedule.alpha_bar / before


@each_schedule
def test_tables_are_as_published(name):
    """Entry by entry, because the last ones are 1e-5 of the first."""
    schedule, published = SCHEDULES[name](), PUBLISHED_NAME[name]
    betas = TABLES[f"{published}.betas_float64"]
    # 1 minus a ratio near 1: float64 leaves 12 digits of a beta of 1e-4.
    torch.testing.assert_close(beta_of(schedule), betas, rtol=1e-11, atol=0)
    stored = TABLES[f"{published}.alphas_cumprod"]
    torch.testing.assert_close(schedule.alpha_bar.float(), stored, rtol=1e-6, atol=0)


@each_schedule
@pytest.mark.parametrize("num", [10, 20, 50, 100])
def test_grid_and_its_alpha_bar_are_as_published(name, num):
    schedule, published = SCHEDULES[name](), f"{PUBLISHED_NAME[name]}.S{num}.ddim_"
    grid = schedule.sampling_grid(num)[::-1]
    assert grid == TABLES[published + "timesteps"].tolist()
    for alphas, steps in (("alphas", grid), ("alphas_prev", [0, *grid[:-1]])):
        stored = TABLES[published + alphas].double()
        torch.testing.assert_close(schedule.alpha_bar[steps], stored, rtol=1e-6, atol=0)


def test_adding_noise_is_as_published():
    noisy = NoiseSchedule.sqrt_linear().add_noise(UNITS["q.x0"], UNITS["q.noise"], UNITS["q.t"])
    assert_close(noisy, UNITS["q.x_t"])


def test_alpha_bar_of_sqrt_linear_is_the_product_of_one_minus_beta():
    schedule = NoiseSchedule.sqrt_linear()
    beta = [(0.01 + (0.02**0.5 - 0.01) * k / 999) ** 2 for k in range(1000)]
    expected = np.exp(np.cumsum(np.log1p(-np.array(beta))))
    assert schedule.alpha_bar.dtype == torch.float64
    np.testing.assert_allclose(schedule.alpha_bar.numpy(), expected, rtol=1e-11)


def test_alpha_bar_of_cosine_is_the_squared_cosine():
    """Except at the last step, whose beta is cut at 0.999."""
    schedule = NoiseSchedule.cosine()
    progress = np.arange(1, 1001) / 1000
    expected = (
        np.cos((progress + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)
    ) ** 2
    np.testing.assert_allclose(schedule.alpha_bar[:-1].numpy(), expected[:-1], rtol=1e-9)
    assert beta_of(schedule)[-1] == pytest.approx(0.999, abs=1e-12)
    assert schedule.alpha_bar.dtype == torch.float64


@pytest.mark.parametrize("num", [100, 1000])
@each_schedule
def test_number_of_diffusion_steps_can_be_chosen(name, num):
    schedule = SCHEDULES[name](num=num)
    assert schedule.num_diffusion_steps == num == len(schedule.alpha_bar)
    assert len(set(schedule.sampling_grid(7))) == 7
    assert schedule.sampling_grid(num) == list(range(num - 1, -1, -1))


def test_grid_of_ten_and_more_steps_is_floor_plus_one():
    schedule = NoiseSchedule.sqrt_linear()
    for num in range(10, 1000):
        ascending = [math.floor(Fraction(1000 * k, num)) + 1 for k in range(num)]
        assert schedule.sampling_grid(num) == ascending[::-1], num


@pytest.mark.parametrize("num", range(2, 10))
def test_grid_of_few_steps_is_even_from_981_to_1(num):
    grid = NoiseSchedule.sqrt_linear().sampling_grid(num)
    assert len(grid) == num
    np.testing.assert_allclose(grid, np.linspace(981, 1, num), rtol=0, atol=1)
    assert (grid[0], grid[-1]) == (981, 1)


def test_full_range_starts_where_hardly_any_signal_is_left():
    schedule = NoiseSchedule.sqrt_linear()
    for num in range(1, 1001):
        grid = schedule.sampling_grid(num, "full_range")
        assert len(set(grid)) == num and grid == sorted(grid, reverse=True)
        assert schedule.alpha_bar[grid[0]].sqrt() < 0.044
        assert grid[0] >= 981 or num in (20, 25, 40), num
        assert grid == schedule.sampling_grid(num) or 10 <= num < 50
    assert schedule.sampling_grid(10, "full_range")[::9] == [981, 1]
    assert schedule.alpha_bar[schedule.sampling_grid(10)[0]].sqrt() > 0.06  # as published


def test_grids_of_one_step_and_of_all():
    schedule = NoiseSchedule.sqrt_linear()
    assert schedule.sampling_grid(1) == [981]
    assert schedule.sampling_grid(1000) == list(range(999, -1, -1))
    assert schedule.sampling_grid(50) == list(range(981, 0, -20))


def test_every_grid_has_as_many_steps_as_asked_for_noisiest_first():
    schedule = NoiseSchedule.sqrt_linear()
    for num in range(1, 1001):
        grid = schedule.sampling_grid(num)
        assert len(grid) == num
        assert all(step > after for step, after in pairwise(grid))
        assert grid[0] <= 999 and grid[-1] >= 0


@pytest.mark.parametrize("num", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(num):
    with pytest.raises(ValueError, match=f"got {num} sampling steps, expected 1 to 1000"):
        NoiseSchedule.sqrt_linear().sampling_grid(num)


# A division by a small coefficient magnifies float32's rounding of 6e-8 by that much.
ROUNDING = 1e-6


@each_schedule
@pytest.mark.parametrize("step", [0, 1, 10, 500, 981, 998])
def test_noise_clean_latent_and_velocity_turn_into_one_another(name, step):
    schedule = SCHEDULES[name]()
    alpha_bar = schedule.alpha_bar[step].item()
    signal, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 2, 3, 2, 4, 5, generator=generator)
    steps = torch.tensor([step, step])
    z_noisy = schedule.add_noise(z, noise, steps)
    assert_close(z_noisy, signal * z + sigma * noise, ROUNDING)
    v = signal * noise - sigma * z
    assert_close(schedule.z_from_noise(z_noisy, noise, steps), z, ROUNDING / signal)
    assert_close(schedule.noise_from_z(z_noisy, z, steps), noise, ROUNDING / sigma)
    assert_close(schedule.target("v", z, noise, steps), v, ROUNDING)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("step", [0, 500, 981, 998, 999])
def test_each_kind_of_output_implies_the_latent_and_the_noise(kind, name, step):
    schedule, steps = SCHEDULES[name](), torch.tensor([step, step])
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 2, 3, 2, 4, 5, generator=generator)
    z_noisy, output = schedule.add_noise(z, noise, steps), schedule.target(kind, z, noise, steps)
    found = schedule.predict(kind, output, z_noisy, steps)
    assert torch.equal(found.output, output)
    assert_close(found.noise, noise, ROUNDING)
    signal = schedule.signal[step].item()
    if kind != "noise":
        assert_close(found.z, z, ROUNDING)
    elif signal > 0:
        assert_close(found.z, z, ROUNDING / signal)


def test_of_straight_lines_no_signal_is_left_at_the_end():
    schedule = NoiseSchedule.straight()
    assert (schedule.signal[-1], schedule.sigma[-1]) == (0, 1)
    torch.testing.assert_close(schedule.signal + schedule.sigma, torch.ones(1000).double())


def test_each_example_has_its_own_diffusion_step():
    schedule = NoiseSchedule.sqrt_linear()
    z, noise = torch.zeros(2, 1, 1, 2, 2), torch.ones(2, 1, 1, 2, 2)
    noisy = schedule.add_noise(z, noise, torch.tensor([0, 999]))
    assert noisy.dtype == torch.float32
    expected = (1 - schedule.alpha_bar[[0, 999]]).sqrt().float()
    assert torch.equal(noisy[:, 0, 0, 0, 0], expected)


def test_schedule_is_frozen():
    schedule = NoiseSchedule.sqrt_linear()
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.signal = torch.ones(3)


@pytest.mark.parametrize("beta", [[0.0, 0.1], [0.1, 1.0], [0.1, float("nan")], [[0.1]]])
def test_impossible_betas_are_refused(beta):
    with pytest.raises(ValueError, match="between 0 and 1"):
        NoiseSchedule.from_beta(torch.tensor(beta))


@pytest.mark.parametrize(
    ("signal", "sigma"),
    [
        ([0.5, 0.9], [0.1, 0.2]),
        ([0.9, 0.5], [0.2, 0.1]),
        ([1.1, 0.5], [0.1, 0.2]),
        ([[0.9]], [[0.1]]),
    ],
)
def test_impossible_tables_are_refused(signal, sigma):
    with pytest.raises(ValueError, match="signal must be a vector that falls"):
        NoiseSchedule(torch.tensor(signal), torch.tensor(sigma))


def test_short_schedules_keep_their_grid_inside():
    for total in (2, 3, 20, 50):
        schedule = NoiseSchedule.sqrt_linear(num=total)
        for num in range(1, min(total, 9) + 1):
            grid = schedule.sampling_grid(num)
            assert len(set(grid)) == num
            assert max(grid) < total
            assert min(grid) >= 0
