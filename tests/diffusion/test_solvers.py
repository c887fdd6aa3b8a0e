"""DDIM, UniPC, the flow's rules and ancestral sampling, on data whose denoiser is known exactly."""

import itertools
import math

import pytest
import torch
from gaussian_data import SHAPE, exact_gain, normal, of_gaussian
from torch import Tensor

from ldcast.diffusion import NoiseSchedule, Prediction, Sampler
from ldcast.diffusion.ancestral import AncestralSampler
from ldcast.diffusion.ddim import DDIMSampler
from ldcast.diffusion.dpm_solver import DPMSolverSampler
from ldcast.diffusion.flow_ode import FlowSampler
from ldcast.diffusion.registry import build_sampler
from ldcast.diffusion.schedule import GRIDS
from ldcast.diffusion.unipc import UniPCSampler
from ldcast.errors import InputError
from ldcast.seeds import keyed_generators

pytestmark = pytest.mark.core

FINE = {  # so that a grid's steps are where they should be
    "cosine": NoiseSchedule.cosine(num=400_000),
    "straight": NoiseSchedule(*(
        getattr(NoiseSchedule.straight(num=400_000), table) for table in ("signal", "sigma")
    ), "straight"),
}  # fmt: skip


def gain(sampler: Sampler, deviation: float) -> float:
    """What a sample of Gaussian data is of its noise."""
    ratio = sampler(of_gaussian(sampler.schedule, deviation), normal()) / normal()
    torch.testing.assert_close(ratio, ratio.mean().expand(SHAPE))
    return ratio.mean().item()


@pytest.mark.parametrize("deviation", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    ("name", "settings", "order"),
    [
        ("ddim", {"spacing": "log_snr"}, 1),
        ("dpm_solver", {}, 2),
        ("unipc", {"order": 1}, 2),
        ("unipc", {"order": 2}, 3),
        ("unipc", {"order": 3}, 4),
        ("flow", {"rule": "euler"}, 1),
        ("flow", {"rule": "heun"}, 2),
    ],
)
def test_each_converges_at_its_order(name, settings, order, deviation) -> None:
    schedule = FINE["straight" if name == "flow" else "cosine"]
    exact = deviation
    if name != "flow":
        exact = exact_gain(schedule, deviation, schedule.grid(20, "log_snr"))
    errors = [
        abs(gain(build_sampler(name, schedule, num, settings), deviation) - exact)
        for num in (40, 80, 160)
    ]
    slope = math.log2(errors[0] / errors[-1]) / 2
    assert order - 0.5 < slope < order + 0.3, errors


def test_three_earlier_answers_are_worth_more_than_two_and_two_than_one() -> None:
    schedule = FINE["cosine"]
    exact = exact_gain(schedule, 1.0, schedule.grid(20, "log_snr"))
    samplers = (
        DDIMSampler(schedule, 20, 0.0, "log_snr"),
        DPMSolverSampler(schedule, 20),
        UniPCSampler(schedule, 20, 2),
        UniPCSampler(schedule, 20, 3),
    )
    errors = [abs(gain(sampler, 1.0) - exact) for sampler in samplers]
    assert errors == sorted(errors, reverse=True) and errors[0] > 100 * errors[-1]


def test_ancestral_sampling_is_ddim_with_all_its_noise_and_all_steps() -> None:
    schedule = NoiseSchedule.cosine(num=50)
    denoiser = of_gaussian(schedule, 0.7)
    generators = [keyed_generators(3, indices=range(2)) for _ in range(2)]
    slow = AncestralSampler(schedule, 50)(denoiser, normal(), generators[0])
    same = DDIMSampler(schedule, 50, eta=1.0)(denoiser, normal(), generators[1])
    torch.testing.assert_close(slow, same, rtol=1e-6, atol=1e-6)


def test_ancestral_samples_have_the_deviation_of_the_data() -> None:
    schedule = NoiseSchedule.sqrt_linear()
    noise = torch.randn(1, 1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    generators = keyed_generators(3, indices=[0])
    denoiser = of_gaussian(schedule, 2.0, mean=1.0)
    z = AncestralSampler(schedule)(denoiser, noise, generators)
    assert z.std().item() == pytest.approx(2.0, rel=0.03)
    assert z.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_fresh_noise_leaves_gaussian_data_their_deviation(eta: float) -> None:
    schedule = NoiseSchedule.cosine()
    noise = torch.randn(1, 1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    sampler = DDIMSampler(schedule, 200, eta, "log_snr")
    z = sampler(of_gaussian(schedule, 1.5), noise, keyed_generators(5, indices=[0]))
    assert z.std().item() == pytest.approx(1.5, rel=0.03)
    share = torch.corrcoef(torch.stack([z.flatten(), noise.flatten()]))[0, 1]
    lowest, highest = {0.0: (0.99, 1.0), 0.5: (0.05, 0.9), 1.0: (-0.05, 0.05)}[eta]
    assert lowest <= share <= highest


def test_fresh_noise_is_of_the_member_alone() -> None:
    schedule = NoiseSchedule.cosine()
    for sampler in (DDIMSampler(schedule, 10, eta=1.0), AncestralSampler(schedule)):
        denoiser = of_gaussian(schedule, 1.0)
        both = sampler(denoiser, normal(), keyed_generators(3, indices=range(2)))
        alone = sampler(denoiser, normal()[1:], keyed_generators(3, indices=[1]))
        torch.testing.assert_close(both[1:], alone, rtol=0, atol=0)


FEW = [
    ("ddim", {}, "sqrt_linear"),
    ("ddim", {"eta": 1.0}, "cosine"),
    ("ddim", {"spacing": "quadratic"}, "cosine"),
    ("ddim", {}, "straight"),
    ("dpm_solver", {}, "cosine"),
    ("dpm_solver", {"eta": 1.0}, "cosine"),
    ("unipc", {}, "cosine"),
    ("unipc", {"order": 3}, "sqrt_linear"),
    ("unipc", {"order": 3}, "straight"),
    ("flow", {"rule": "euler"}, "straight"),
    ("flow", {"rule": "heun"}, "straight"),
]


@pytest.mark.parametrize(("name", "settings", "schedule"), FEW)
def test_few_steps_bring_no_rain_where_all_is_dry(name, settings, schedule) -> None:
    """Of a dry past all futures are alike: latents near -3, of deviation 0.05."""
    schedules = {"sqrt_linear": NoiseSchedule.sqrt_linear, "cosine": NoiseSchedule.cosine,
                 "straight": NoiseSchedule.straight}  # fmt: skip
    schedule = schedules[schedule]()
    denoiser = of_gaussian(schedule, 0.05, mean=-3.0)

    def furthest(num: int) -> float:
        sampler = build_sampler(name, schedule, num, settings)
        z = sampler(denoiser, normal(), keyed_generators(2, indices=range(2)))
        return (z + 3.0).abs().max().item()

    many = furthest(100)
    assert many < 0.25
    for num in range(1, 9):
        assert furthest(num) <= 1.2 * many, num


@pytest.mark.parametrize(("name", "settings", "schedule"), FEW)
def test_the_denoiser_is_called_as_often_as_is_said(name, settings, schedule) -> None:
    schedules = {"sqrt_linear": NoiseSchedule.sqrt_linear, "cosine": NoiseSchedule.cosine,
                 "straight": NoiseSchedule.straight}  # fmt: skip
    for num in (1, 2, 7):
        asked: list[int] = []
        sampler = build_sampler(name, schedules[schedule](), num, settings)
        denoiser = of_gaussian(sampler.schedule, 1.0, asked)
        sampler(denoiser, normal(), keyed_generators(2, indices=range(2)))
        assert len(asked) == sampler.num_denoiser_calls
        assert sorted(asked, reverse=True) == asked


@pytest.mark.parametrize("num", [2, 8, 30])
def test_the_point_that_is_all_the_data_is_found_also_from_no_signal(num: int) -> None:
    point = torch.full(SHAPE, 2.5).double()
    schedule = NoiseSchedule.straight()

    def denoise(z_noisy: Tensor, step: Tensor) -> Prediction:
        signal, sigma = schedule.signal[int(step[0])], schedule.sigma[int(step[0])]
        return Prediction(point, (z_noisy - signal * point) / sigma, point)

    samplers = (
        DDIMSampler(schedule, num, 0.0, "quadratic"),
        UniPCSampler(schedule, num, 3),
        FlowSampler(schedule, num, "heun"),
    )
    for sampler in samplers:
        torch.testing.assert_close(sampler(denoise, normal()), point)


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("num", [1, 3, 12, 50, 1000])
def test_grids_have_as_many_steps_as_asked_for_noisiest_first(spacing: str, num: int) -> None:
    grid = NoiseSchedule.cosine().grid(num, spacing)
    assert len(grid) == len(set(grid)) == num
    assert sorted(grid, reverse=True) == grid and 0 <= grid[-1] <= grid[0] <= 999
    if num == 12:
        ends = {"published": (917, 1), "full_range": (981, 1), "quadratic": (999, 6)}
        if spacing in ends:
            assert (grid[0], grid[-1]) == ends[spacing]


def test_a_quadratic_grid_is_even_in_the_root_of_the_step() -> None:
    grid = NoiseSchedule.cosine().grid(10, "quadratic")
    roots = torch.tensor(grid).double().sqrt()
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(9), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("name", "num", "settings", "message"),
    [
        ("ddim", 12, {"eta": 1.5}, "got eta 1.5, expected 0"),
        ("ddim", 12, {"spacing": "even"}, "got spacing 'even', expected one of"),
        ("ddim", 0, {}, "got 0 sampling steps, expected 1 to 1000"),
        ("unipc", 12, {"order": 4}, "got order 4, expected one of"),
        ("unipc", 1001, {}, "got 1001 sampling steps, expected 1 to 1000"),
        ("flow", 12, {}, "12 sampling steps on the schedule cosine, expected .* straight"),
        ("flow", 12, {"rule": "midpoint"}, "got rule 'midpoint', expected one of"),
        ("ancestral", 50, {}, "got 50 sampling steps, expected 1000: .* ddim with eta 1"),
    ],
)
def test_impossible_settings_are_refused(name, num, settings, message) -> None:
    with pytest.raises(InputError, match=message):
        build_sampler(name, NoiseSchedule.cosine(), num, settings)
    with pytest.raises(InputError, match="got the schedule straight, expected one that preserves"):
        build_sampler("ancestral", NoiseSchedule.straight(), 1000)


def test_neighbours_of_the_last_place_are_few_and_distinct() -> None:
    for first, second in itertools.pairwise(NoiseSchedule.cosine().grid(999, "quadratic")):
        assert first > second
