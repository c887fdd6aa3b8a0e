"""DPM-Solver++ and its grid: known answers, order of convergence, ends of the schedule."""

import itertools
import math

import pytest
import torch
from gaussian_data import SHAPE, exact_gain, normal, of_gaussian
from torch import Tensor

from ldcast.diffusion import NoiseSchedule, Prediction
from ldcast.diffusion.dpm_solver import DPMSolverSampler
from ldcast.diffusion.registry import build_sampler
from ldcast.diffusion.schedule import CLEANEST, NOISIEST, SCHEDULES
from ldcast.errors import InputError
from ldcast.seeds import keyed_generators

pytestmark = pytest.mark.core


def gain(schedule: NoiseSchedule, deviation: float, num: int) -> float:
    """What a sample of Gaussian data is of its noise."""
    z = DPMSolverSampler(schedule, num)(of_gaussian(schedule, deviation), normal())
    ratio = z / normal()
    torch.testing.assert_close(ratio, ratio.mean().expand(SHAPE))
    return ratio.mean().item()


def gain_with_fresh_noise(monkeypatch, schedule, deviation: float, num: int, eta: float) -> float:
    """The deviation of samples of Gaussian data, which are a sum of independent draws.

    Example b is given 1 as its b-th draw and 0 as all others, so it ends as the weight of that one.
    """
    draws = torch.eye(num).double()
    calls = iter(draws.T[1:])
    monkeypatch.setattr("ldcast.diffusion.dpm_solver.draw_noise", lambda *_: next(calls))
    denoiser = of_gaussian(schedule, deviation)
    return DPMSolverSampler(schedule, num, eta)(denoiser, draws[0]).norm().item()


@pytest.mark.parametrize("deviation", [0.5, 1.0, 3.0])
def test_it_converges_at_second_order(deviation) -> None:
    schedule = NoiseSchedule.cosine(num=100_000)  # so that a grid's steps are where they should be
    exact = exact_gain(schedule, deviation, schedule.grid(20, "log_snr"))
    assert exact == pytest.approx(deviation, rel=2e-3)
    errors = [abs(gain(schedule, deviation, num) - exact) for num in (20, 40, 80)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.6 < math.log2(coarse / fine) < 2.6, errors


@pytest.mark.parametrize(
    ("deviation", "num", "tolerance"),
    [(0.5, 20, 0.02), (1, 20, 0.02), (3.7, 20, 0.02), (1, 12, 0.04), (3.7, 12, 0.04)],
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_few_steps_give_gaussian_data_their_deviation(name, deviation, num, tolerance) -> None:
    assert gain(SCHEDULES[name](), deviation, num) == pytest.approx(deviation, rel=tolerance)


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_fresh_noise_leaves_gaussian_data_their_deviation(monkeypatch, deviation, eta) -> None:
    schedule = NoiseSchedule.cosine(num=100_000)
    errors = [
        gain_with_fresh_noise(monkeypatch, schedule, deviation, num, eta) / deviation - 1
        for num in (25, 100, 400)
    ]
    assert abs(errors[-1]) < 0.004 < abs(errors[0]) < 0.2, errors
    assert abs(errors[1]) < abs(errors[0]) / 2.5, errors


def test_fresh_noise_is_of_the_member_alone() -> None:
    schedule = NoiseSchedule.cosine()
    sampler = DPMSolverSampler(schedule, 12, eta=1.0)
    denoiser = of_gaussian(schedule, 1.0)
    both = sampler(denoiser, normal(), keyed_generators(3, indices=range(2)))
    alone = sampler(denoiser, normal()[1:], keyed_generators(3, indices=[1]))
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=0)
    ratio = both / normal()
    assert ratio.std() > 0.1  # without it all latents are one multiple of their noise


def test_larger_fresh_noise_makes_members_differ_more() -> None:
    schedule = NoiseSchedule.cosine()
    denoiser = of_gaussian(schedule, 1.0)
    noise = torch.randn(1, 1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    generators = keyed_generators(3, indices=[0])
    deviations = [
        DPMSolverSampler(schedule, 25, 1.0, scale)(denoiser, noise, generators).std().item()
        for scale in (1.0, 1.1)
    ]
    assert deviations[0] == pytest.approx(1, abs=0.05)
    # All of the noise of the start is forgotten, so samples are a sum of fresh noise alone.
    assert deviations[1] / deviations[0] == pytest.approx(1.1, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": -0.1}, "got eta -0.1, expected 0"),
        ({"eta": math.nan}, "got eta nan, expected 0"),
        ({"eta": math.inf}, "got eta inf, expected 0"),
        ({"eta": 1.0, "fresh_noise_scale": 0.0}, "got fresh_noise_scale 0.0, expected more than 0"),
        ({"fresh_noise_scale": 1.1}, "with eta 0, which draws no fresh noise"),
    ],
)
def test_impossible_settings_of_fresh_noise_are_refused(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        build_sampler("dpm_solver", NoiseSchedule.cosine(), 12, settings)


@pytest.mark.parametrize("num", [1, 2, 5, 20, 1000])
def test_each_step_calls_the_denoiser_once_noisiest_first(num) -> None:
    schedule, asked = NoiseSchedule.cosine(), []
    sampler = DPMSolverSampler(schedule, num)
    sampler(of_gaussian(schedule, 1.0, asked), normal())
    assert len(asked) == sampler.num_denoiser_calls == num
    assert sorted(set(asked), reverse=True) == asked
    if num < 100:
        assert schedule.log_snr[asked[0]] / math.log(10) == pytest.approx(NOISIEST, abs=0.3)
    if 1 < num < 100:
        assert schedule.log_snr[asked[-1]] / math.log(10) == pytest.approx(CLEANEST, abs=0.1)


@pytest.mark.parametrize("num", [2, 8, 30])
def test_the_point_that_is_all_the_data_is_found_wherever_it_starts(num) -> None:
    """Also from a step without signal, where other samplers would divide by it."""
    point = torch.full(SHAPE, 2.5).double()
    last = torch.tensor([0.9, 0.5, 0.0]).double()
    for schedule in (NoiseSchedule(last, (1 - last**2).sqrt()), NoiseSchedule.straight()):

        def denoise(z_noisy: Tensor, _step: Tensor) -> Prediction:
            return Prediction(point, z_noisy, point)

        num_steps = min(num, schedule.num_diffusion_steps)
        for eta in (0.0, 1.0):
            sampler = DPMSolverSampler(schedule, num_steps, eta)
            torch.testing.assert_close(sampler(denoise, normal()), point)


@pytest.mark.parametrize("num", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(num) -> None:
    with pytest.raises(InputError, match=f"got {num} sampling steps, expected 1 to 1000"):
        DPMSolverSampler(NoiseSchedule.cosine(), num)


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_of_the_grid_are_even_in_the_logarithm_of_snr(name) -> None:
    schedule = SCHEDULES[name]()
    grid = schedule.log_snr_grid(9, -2.4, 2.4)
    log_snr = schedule.log_snr[grid] / math.log(10)
    wanted = torch.linspace(-2.4, 2.4, 9).double()
    torch.testing.assert_close(log_snr, wanted, rtol=0, atol=0.03)


@pytest.mark.parametrize("num", range(3, 16))
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_step_of_the_grid_is_much_longer_than_the_one_before(name: str, num: int) -> None:
    """Where a grid began beyond the schedule its steps crowded there, 999 and 998 before 793."""
    schedule = SCHEDULES[name]()
    lengths = schedule.log_snr[schedule.grid(num, "log_snr")].diff()
    assert lengths.max() < 1.5 * lengths.min()


def test_of_a_grid_beyond_the_schedule_the_steps_are_distinct() -> None:
    schedule = NoiseSchedule.sqrt_linear()  # reaches from -3.1 to 4
    for num in (3, 50, 999):
        grid = schedule.log_snr_grid(num, -9.0, 9.0)
        assert len(grid) == len(set(grid)) == num and grid[0] == 999 and grid[-1] == 0
        assert sorted(grid, reverse=True) == grid
