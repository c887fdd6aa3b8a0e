"""The training loss and PLMS: as published, and on denoisers whose answers are known exactly."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from golden_arrays import (
    assert_close,
    assert_norms_close,
    below,
    gradient_norms,
    load,
    load_denoiser,
    notes,
    nowcaster,
)
from torch import Tensor

from ldcast.config import DiffusionTraining
from ldcast.diffusion import (
    DDPMLoss,
    Denoiser,
    NoiseSchedule,
    PLMSSampler,
    Prediction,
    warn_of_few_steps,
)
from ldcast.diffusion.schedule import PREDICTIONS, SCHEDULES, SPACINGS
from ldcast.inputs.known import Known
from ldcast.nowcast.ldcast import build
from ldcast.published.names import conditioner_name, denoiser_name
from ldcast.seeds import keyed_generators

pytestmark = pytest.mark.core

PLMS = load("plms")
UNITS = load("units")
SCHEDULE = NoiseSchedule.sqrt_linear()
SHAPE = (2, 3, 2, 4, 6)  # (B, C, L, h, w)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise_denoiser(answer: Callable[[Tensor, Tensor], Tensor]) -> Denoiser:
    """A denoiser of a function (z_noisy, diffusion_step) that answers with noise."""
    return lambda z_noisy, step: SCHEDULE.predict("noise", answer(z_noisy, step), z_noisy, step)


def answer_zero(z_noisy: Tensor, _diffusion_step: Tensor) -> Tensor:
    return torch.zeros_like(z_noisy)


class Recorder:
    """A denoiser that keeps what it was asked and what it answered."""

    def __init__(self, denoiser: Denoiser | None = None) -> None:
        denoiser = denoiser or noise_denoiser(answer_zero)
        self.denoiser, self.asked, self.answers, self.steps = denoiser, [], [], []

    def __call__(self, z_noisy: Tensor, diffusion_step: Tensor) -> Tensor:
        assert len(set(diffusion_step.tolist())) == 1 and len(diffusion_step) == len(z_noisy)
        self.steps.append(int(diffusion_step[0]))
        self.asked.append(z_noisy.clone())
        self.answers.append(self.denoiser(z_noisy, diffusion_step))
        return self.answers[-1]


class RecordingSchedule(NoiseSchedule):
    """Keeps every estimate of the clean latent."""

    def z_from_noise(self, z_noisy: Tensor, noise: Tensor, diffusion_step: Tensor) -> Tensor:
        z_clean = super().z_from_noise(z_noisy, noise, diffusion_step)
        self.signal.estimates.append(z_clean)  # the schedule is frozen, its tensor is not
        return z_clean


@pytest.mark.parametrize("num", [10, 50])
@torch.no_grad()
def test_plms_is_as_published(num, monkeypatch):
    """The final latents, and on the way every stored state, estimate and noise of the first one."""
    signal = SCHEDULE.signal.clone()
    signal.estimates = []
    schedule = RecordingSchedule(signal, SCHEDULE.sigma)
    context = [PLMS[f"context.{size}"] for size in ("8x8", "4x4", "2x2")]
    network = nowcaster().latent_nowcaster
    monkeypatch.setattr(network.conditioner, "forward", lambda z_past: context)
    denoiser = Recorder(network.denoiser_given(Known(PLMS["x_T"][:, :, :1])))
    z = PLMSSampler(schedule, num)(denoiser, PLMS["x_T"])

    stored = below(PLMS, f"S{num}.")
    assert denoiser.steps == stored["call_timesteps"].tolist()
    assert_close(z, stored["sample"])
    for call in (0, 1):
        assert_close(denoiser.answers[call].noise[:1], stored[f"eps_call{call}"])
    states = [*denoiser.asked[2:], z]  # after each step; the first one asks twice
    estimates = signal.estimates[1:]
    for step in stored["kept_steps"].tolist():
        assert_close(states[step][:1], stored[f"x_prev.{step}"])
        assert_close(estimates[step][:1], stored[f"pred_x0.{step}"])


def test_training_loss_and_its_gradients_are_as_published():
    """With the raw weights of the denoiser, which training uses."""
    model = build(nowcaster().config)
    model.load_state_dict(nowcaster().state_dict())
    state = below(load("forecast_e2e"), "ldm.")
    network = model.latent_nowcaster
    load_denoiser(network.denoiser, below(state, "model."))
    with torch.no_grad():
        z_past, _ = model.autoencoder.encode(UNITS["ddpm.x"])
        z_future, _ = model.autoencoder.encode(UNITS["ddpm.y"])
    assert_close(z_future, UNITS["ddpm.z"])

    denoiser = network.denoiser_given(Known(z_past))
    loss = DDPMLoss(SCHEDULE).at(denoiser, z_future, UNITS["ddpm.noise"], UNITS["ddpm.t"]).mean()
    loss.backward()
    assert_close(loss, UNITS["ddpm.loss"])

    def name_of(name: str) -> str:
        part, _, below_part = name.partition(".")
        if part == "denoiser":
            return "model." + denoiser_name(below_part, network.denoiser.config)
        return "context_encoder." + conditioner_name(below_part)

    names = notes("units")["ddpm_gradnorm_names"]
    assert_norms_close(gradient_norms(names, network, name_of), UNITS["ddpm.gradnorm"])


@pytest.mark.parametrize("num", [1, 2, 3, 9, 10, 30, 365, 1000])
def test_plms_calls_the_denoiser_once_per_step_and_twice_in_the_first(num):
    denoiser = Recorder()
    sampler = PLMSSampler(SCHEDULE, num)
    z = sampler(denoiser, normal(1, 1, 1, 2, 2))
    grid = SCHEDULE.sampling_grid(num)
    assert denoiser.steps == [grid[0], [*grid, 0][1], *grid[1:]]
    assert len(denoiser.steps) == sampler.num_denoiser_calls == num + 1
    assert torch.isfinite(z).all()


# One step divides by the smallest signal and, in its second call, by the smallest noise: together
# they magnify float32's rounding 10,000 times.
@pytest.mark.parametrize(("num", "tolerance"), [(1, 1e-2), (4, 1e-4), (50, 1e-4)])
@pytest.mark.parametrize("name", ["sqrt_linear", "cosine"])
def test_plms_finds_the_point_that_is_all_the_data(name, num, tolerance):
    """All data are one point: the noise is the same all the way, so any number of steps is exact.

    The last diffusion step, 0, has a little noise left.
    """
    schedule = SCHEDULES[name]()
    point, z_start = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)

    def denoiser(z_noisy: Tensor, diffusion_step: Tensor) -> Prediction:
        noise = schedule.noise_from_z(z_noisy, point, diffusion_step)
        return schedule.predict("noise", noise, z_noisy, diffusion_step)

    z = PLMSSampler(schedule, num)(denoiser, z_start)
    first, last = (torch.full((2,), step) for step in (schedule.sampling_grid(num)[0], 0))
    noise = schedule.noise_from_z(z_start, point, first)
    assert_close(z, schedule.add_noise(point, noise, last), tolerance)
    assert (z - point).abs().max() < 0.05


def gaussian_error(num: int, deviation: float) -> float:
    """Relative error of the deviation that PLMS gives Gaussian data; the exact flow is linear."""

    def variance(step: int) -> float:
        alpha_bar = SCHEDULE.alpha_bar[step].item()
        return alpha_bar * deviation**2 + 1 - alpha_bar

    def denoiser(z_noisy: Tensor, diffusion_step: Tensor) -> Tensor:
        step = int(diffusion_step[0])
        return z_noisy * (1 - SCHEDULE.alpha_bar[step].item()) ** 0.5 / variance(step)

    z_start = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    z = PLMSSampler(SCHEDULE, num)(noise_denoiser(denoiser), z_start).item()
    first = SCHEDULE.sampling_grid(num)[0]
    return abs(z / (variance(0) / variance(first)) ** 0.5 - 1)


@pytest.mark.parametrize("deviation", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(("num", "tolerance"), [(10, 0.2), (50, 0.01), (250, 0.002)])
def test_plms_gives_gaussian_data_their_deviation(deviation, num, tolerance):
    assert gaussian_error(num, deviation) < tolerance


@pytest.mark.parametrize("spacing", list(SPACINGS))
@pytest.mark.parametrize("num", [*range(1, 13), 15, 19, 20, 50])
def test_plms_is_not_carried_away_by_what_is_predicted_where_no_noise_is_left(num, spacing):
    """Noise that cannot be known where little of it is left: any guess, here 0.5, must not matter.

    Where the noise is, this denoiser knows that all data are 0.
    """

    def denoiser(z_noisy: Tensor, diffusion_step: Tensor) -> Tensor:
        sigma = (1 - SCHEDULE.alpha_bar[int(diffusion_step[0])].item()) ** 0.5
        return z_noisy / sigma if sigma > 0.05 else torch.full_like(z_noisy, 0.5)

    z = PLMSSampler(SCHEDULE, num, spacing)(noise_denoiser(denoiser), normal(*SHAPE))
    assert z.abs().max() < 0.3  # 48 with one step where the two noises are averaged


@pytest.mark.parametrize("num", range(3, 10))
def test_few_steps_of_plms_give_gaussian_data_most_of_their_deviation(num):
    assert gaussian_error(num, 1.0) < (0.3 if num == 3 else 0.05)


def test_unknown_spacings_are_refused():
    with pytest.raises(ValueError, match="got spacing 'wide', expected one of"):
        PLMSSampler(SCHEDULE, 4, "wide")


def test_few_steps_are_warned_of():
    assert [len(warn_of_few_steps("plms", num)) for num in (1, 9, 10, 50)] == [1, 1, 0, 0]
    assert warn_of_few_steps("dpm_solver", 1) == []


def test_plms_keeps_nothing_between_calls():
    def denoiser(z_noisy: Tensor, diffusion_step: Tensor) -> Tensor:
        return torch.sin(z_noisy + diffusion_step.reshape(-1, 1, 1, 1, 1))

    sampler, z_start = PLMSSampler(SCHEDULE, 6), normal(*SHAPE)
    first = sampler(noise_denoiser(denoiser), z_start)
    sampler(noise_denoiser(denoiser), -z_start)
    assert torch.equal(sampler(noise_denoiser(denoiser), z_start), first)
    assert torch.equal(z_start, normal(*SHAPE))  # and leaves its input alone
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.num_sampling_steps = 7


@pytest.mark.parametrize("num", [0, 1001])
def test_plms_refuses_impossible_numbers_when_built(num):
    with pytest.raises(ValueError, match="expected 1 to 1000"):
        PLMSSampler(SCHEDULE, num)


STEPS = torch.tensor([20, 800])


def loss_at(target: str = "noise", norm: str = "l2", weight: Tensor | None = None, **changes):
    """Loss per example where the noise that the network's output implies is off by `error`."""
    z, noise = normal(*SHAPE, seed=3), normal(*SHAPE, seed=4)
    error = changes.get("error", normal(*SHAPE, seed=5))
    loss = DDPMLoss(SCHEDULE, norm, target)

    def denoiser(z_noisy: Tensor, step: Tensor) -> Prediction:
        z_wrong = SCHEDULE.z_from_noise(z_noisy, noise + error, step)
        output = SCHEDULE.target(target, z_wrong, noise + error, step)
        return SCHEDULE.predict(target, output, z_noisy, step)

    return loss.at(denoiser, z, noise, STEPS, weight)


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_loss_is_the_mean_power_of_the_error(norm, power):
    expected = normal(*SHAPE, seed=5).abs().pow(power).mean((1, 2, 3, 4))
    assert_close(loss_at(norm=norm), expected, 1e-6)


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_velocity_target_weighs_noisy_steps_more(norm, power):
    """The velocity's error is the noise's over the signal, sqrt(alpha_bar)."""
    signal = SCHEDULE.alpha_bar[STEPS].sqrt().float()
    ratio = loss_at("v", norm) / loss_at("noise", norm)
    torch.testing.assert_close(ratio, signal.pow(-power), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("schedule", [make() for make in SCHEDULES.values()], ids=list(SCHEDULES))
def test_the_loss_compares_the_networks_own_output_with_its_target(kind, schedule):
    """Also where no signal, or hardly any noise, is left."""
    z, noise, error = (normal(*SHAPE, seed=seed) for seed in (3, 4, 5))
    steps = torch.tensor([0, 999])
    target = schedule.target(kind, z, noise, steps)

    def denoiser(z_noisy: Tensor, step: Tensor) -> Prediction:
        return schedule.predict(kind, target + error, z_noisy, step)

    loss = DDPMLoss(schedule, target=kind).at(denoiser, z, noise, steps)
    assert_close(loss, error.square().mean((1, 2, 3, 4)), 1e-6)


@pytest.mark.parametrize("name", ["norm", "target"])
def test_loss_refuses_unknown_choices(name):
    with pytest.raises(ValueError, match=f"got {name} 'l3'"):
        DDPMLoss(SCHEDULE, **{name: "l3"})


def test_cells_without_weight_have_no_influence():
    weight = (normal(2, 1, 2, 4, 6, seed=6) > 0).float()
    error = normal(*SHAPE, seed=5)
    loss = loss_at(weight=weight, error=error)
    assert torch.equal(loss_at(weight=weight, error=torch.where(weight == 0, 1e6, error)), loss)
    kept = [error[b].square().mean(0)[weight[b, 0] == 1].mean() for b in range(2)]
    torch.testing.assert_close(loss, torch.stack(kept))


def test_weights_between_zero_and_one_make_a_weighted_mean():
    weight = torch.rand(2, 1, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    cell_error = normal(*SHAPE, seed=5).square().mean(1, keepdim=True)
    expected = (cell_error * weight).sum((1, 2, 3, 4)) / weight.sum((1, 2, 3, 4))
    torch.testing.assert_close(loss_at(weight=weight), expected)
    torch.testing.assert_close(loss_at(weight=weight / 1000), expected)  # less than 1 in all
    torch.testing.assert_close(loss_at(weight=torch.ones_like(weight)), loss_at())


def test_an_example_without_weight_has_no_loss():
    weight = torch.ones(2, 1, 2, 4, 6)
    weight[1] = 0
    loss = loss_at(weight=weight)
    assert loss[1] == 0 and loss[0] > 0


def answer_by_step(z_noisy: Tensor, diffusion_step: Tensor) -> Tensor:
    return z_noisy * (diffusion_step / 1000).reshape(-1, 1, 1, 1, 1)


def test_an_example_draws_the_same_step_and_noise_in_any_batch():
    loss, z = DDPMLoss(SCHEDULE), normal(3, 2, 2, 4, 6)
    denoiser = noise_denoiser(answer_by_step)
    together = loss(denoiser, z, keyed_generators(7, indices=range(3)))
    alone = loss(denoiser, z[2:], keyed_generators(7, indices=[2]))
    torch.testing.assert_close(together[2:], alone)
    assert len(set(together.tolist())) == 3


def test_without_generators_the_global_one_draws():
    loss, z = DDPMLoss(SCHEDULE), normal(2, 2, 2, 4, 6)

    def with_seed(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return loss(noise_denoiser(answer_by_step), z)

    assert torch.equal(with_seed(1), with_seed(1))
    assert not torch.equal(with_seed(1), with_seed(2))


def test_diffusion_steps_are_drawn_from_the_whole_schedule():
    drawn = []

    def denoiser(z_noisy: Tensor, diffusion_step: Tensor) -> Tensor:
        drawn.extend(diffusion_step.tolist())
        return torch.zeros_like(z_noisy)

    num = 4000
    generators = keyed_generators(0, indices=range(num))
    DDPMLoss(SCHEDULE)(noise_denoiser(denoiser), torch.zeros(num, 1, 1, 1, 1), generators)
    assert 0 <= min(drawn) < 10 and 989 < max(drawn) <= 999
    assert abs(sum(drawn) / num - 499.5) < 20


@pytest.mark.parametrize("name", ["sqrt_linear", "cosine", "straight"])
def test_noise_levels_are_drawn_as_asked(name):
    schedule, drawn = SCHEDULES[name](), []

    def denoiser(z_noisy: Tensor, diffusion_step: Tensor) -> Tensor:
        drawn.extend(diffusion_step.tolist())
        return Prediction(z_noisy, z_noisy, z_noisy)

    num = 4000
    loss = DDPMLoss(schedule, noise_levels=(-1.0, 0.8))
    loss(denoiser, torch.zeros(num, 1, 1, 1, 1), keyed_generators(0, indices=range(num)))
    log_snr = schedule.log_snr[drawn]
    assert abs(log_snr.mean() + 1.0) < 0.05 and abs(log_snr.std() - 0.8) < 0.05
    extreme = DDPMLoss(schedule, noise_levels=(-60.0, 1.0))
    assert extreme(denoiser, torch.zeros(1, 1, 1, 1, 1)).shape == (1,)
    assert drawn[-1] == schedule.num_diffusion_steps - 1


@pytest.mark.parametrize("levels", [(1.0,), (0.0, 0.0), (0.0, -1.0)])
def test_noise_levels_need_a_deviation(levels):
    with pytest.raises(ValueError, match="expected a mean and a deviation above 0"):
        DDPMLoss(SCHEDULE, noise_levels=levels)
    with pytest.raises(ValueError, match="expected a mean and a deviation above 0"):
        DiffusionTraining(noise_levels=levels)
