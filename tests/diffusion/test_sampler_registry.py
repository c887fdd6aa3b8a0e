"""A new sampler is a file and a line: registered, it is drawn with, saved, named and repeated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_models import rain, tiny_config, tiny_model
from torch import Tensor

import infer
from ldcast import LDCast
from ldcast.config import DiffusionConfig
from ldcast.diffusion import Denoiser, NoiseSchedule, Prediction, predict_at
from ldcast.diffusion.registry import ONE_CALL, SAMPLERS, build_sampler
from ldcast.errors import InputError, run_script
from ldcast.inputs.known import Known
from ldcast.nowcast.ldcast import build
from ldcast.seeds import draw_noise
from ldcast.settings import override
from ldcast.verification.forecasters import model_forecaster


@dataclass(frozen=True)
class Restless:
    """From one grid point to the next with fresh noise: as stochastic as a sampler can be.

    share: of the noise at each step that is drawn anew.
    """

    schedule: NoiseSchedule
    num_sampling_steps: int = 5
    share: float = 0.5

    @property
    def num_denoiser_calls(self) -> int:
        return self.num_sampling_steps

    def __call__(
        self, denoiser: Denoiser, z: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        grid = self.schedule.sampling_grid(self.num_sampling_steps)
        for step, next_step in zip(grid, [*grid[1:], 0], strict=True):
            prediction = predict_at(denoiser, z, step)
            fresh = draw_noise(z.shape, generators, z.device)
            kept = (1 - self.share**2) ** 0.5
            noise = kept * prediction.noise + self.share * fresh
            z = self.schedule.add_noise(prediction.z, noise, torch.full((len(z),), next_step))
        return z


@dataclass(frozen=True)
class Euler:
    """Straight steps along a flow, from pure noise to the clean latent."""

    schedule: NoiseSchedule
    num_sampling_steps: int = 5

    @property
    def num_denoiser_calls(self) -> int:
        return self.num_sampling_steps

    def __call__(
        self, denoiser: Denoiser, z: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        total, num = self.schedule.num_diffusion_steps, self.num_sampling_steps
        grid = [total - 1 - k * total // num for k in range(num)]
        for step, next_step in zip(grid, [*grid[1:], None], strict=True):
            prediction = predict_at(denoiser, z, step)
            if next_step is None:
                return prediction.z
            there = torch.full((len(z),), next_step)
            z = self.schedule.add_noise(prediction.z, prediction.noise, there)


@pytest.mark.core
@pytest.mark.parametrize("num", [1, 4, 10])
def test_flow_matching_is_a_schedule_and_a_sampler(monkeypatch, num) -> None:
    """It begins where no signal is left, at which noise alone would say nothing of the latent."""
    monkeypatch.setitem(SAMPLERS, "euler", Euler)
    settings = {"schedule": "straight", "prediction": "flow", "sampler": "euler"}
    model = tiny_model(**settings, num_sampling_steps=num)
    assert torch.isfinite(model.predict(rain(), 2)).all()

    schedule = model.latent_nowcaster.inference_sampler.schedule
    z, noise = torch.randn(2, 2, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0))

    def denoiser(z_noisy: Tensor, step: Tensor) -> Prediction:
        return schedule.predict("flow", noise - z, z_noisy, step)

    found = Euler(schedule, num)(denoiser, noise)
    torch.testing.assert_close(found, z, rtol=1e-4, atol=1e-4)

    z_past, z_future = torch.randn(1, 4, 1, 8, 8), torch.randn(1, 4, 5, 8, 8)
    loss = model.latent_nowcaster(Known(z_past), z_future)
    loss.sum().backward()
    assert loss > 0 and model.latent_nowcaster.denoiser.enter[0].weight.grad.abs().sum() > 0


@pytest.fixture
def restless(monkeypatch):
    """The line that a new sampler takes."""
    monkeypatch.setitem(SAMPLERS, "restless", Restless)


@pytest.fixture
def model(restless) -> LDCast:
    model = tiny_model()
    model.use_sampler("restless")
    return model


@pytest.mark.core
def test_a_stochastic_forecast_repeats_and_member_2_is_the_same_alone(model) -> None:
    together = model.predict(rain(), num_members=3, seed=4)
    assert torch.equal(model.predict(rain(), num_members=3, seed=4), together)
    alone = model.predict(rain(), num_members=1, seed=4, first_member=2)
    torch.testing.assert_close(alone[0], together[2], rtol=1e-3, atol=1e-3)
    one_by_one = model.predict(rain(), num_members=3, seed=4, members_per_batch=1)
    torch.testing.assert_close(one_by_one, together, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(model.predict(rain(), num_members=3, seed=5), together, atol=0.1)


def test_what_a_sampler_draws_does_not_depend_on_given_noise_and_differs_by_stretch(model) -> None:
    """Of members that start from one noise, what is drawn on the way makes the difference."""
    noise = torch.zeros(2, 4, 10, 8, 12)
    members = model.predict(rain(), num_members=2, noise=noise, lead_minutes=200)
    assert not torch.allclose(members[0], members[1], atol=0.1)
    assert torch.equal(model.predict(rain(), 2, noise=noise, lead_minutes=200), members)


def test_a_registered_sampler_and_its_settings_are_saved(model, tmp_path) -> None:
    sampler = Restless(model.latent_nowcaster.inference_sampler.schedule, 3, share=0.25)
    model.latent_nowcaster.inference_sampler = sampler
    model.save_pretrained(tmp_path)
    loaded = LDCast.from_pretrained(tmp_path, device="cpu").latent_nowcaster.inference_sampler
    assert (type(loaded), loaded.num_sampling_steps, loaded.share) == (Restless, 3, 0.25)
    assert torch.equal(
        LDCast.from_pretrained(tmp_path, device="cpu").predict(rain(), 1), model.predict(rain(), 1)
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_of_each_sampler_is_saved_and_loaded(name, tmp_path) -> None:
    """Loading makes no tensors with content until there are weights for them."""
    steps = {ONE_CALL: 1, "ancestral": 1000}.get(name, 3)
    schedule = {"schedule": "straight", "prediction": "flow"} if name == "flow" else {}
    diffusion = DiffusionConfig(sampler=name, num_sampling_steps=steps, **schedule)
    model = build(replace(tiny_config(), diffusion=diffusion)).eval()
    model.save_pretrained(tmp_path)
    loaded = LDCast.from_pretrained(tmp_path, device="cpu")
    assert loaded.config == model.config
    if steps <= 3:
        past, rows = rain(16, 16), []
        assert np.array_equal(loaded.predict(past, 1), model.predict(past, 1))
        embedding = loaded.latent_nowcaster.denoiser.step_embedding
        embedding.register_forward_hook(lambda _, step, __: rows.append(len(step[0])))
        loaded.predict(past, 2)
        assert set(rows) == {1}  # both members are at one step, which the sampler says


def test_a_sampler_that_is_not_registered_forecasts_but_is_not_saved(tmp_path) -> None:
    model = tiny_model()
    model.latent_nowcaster.inference_sampler = Restless(
        model.latent_nowcaster.inference_sampler.schedule
    )
    assert torch.isfinite(model.predict(rain(), 1)).all()
    with pytest.raises(InputError, match=r"Restless is not registered.*SAMPLERS"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_use_sampler_keeps_schedule_and_number_of_steps(restless) -> None:
    model = tiny_model()
    before = model.latent_nowcaster.inference_sampler
    model.use_sampler("plms")
    assert model.latent_nowcaster.inference_sampler == before  # with its settings
    model.use_sampler("restless")
    after = model.latent_nowcaster.inference_sampler
    assert isinstance(after, Restless) and after.schedule is before.schedule
    assert after.num_sampling_steps == before.num_sampling_steps
    model.use_sampler("plms", 9)
    after = model.latent_nowcaster.inference_sampler
    assert (after.num_sampling_steps, after.spacing) == (9, "published")


def test_commands_take_a_new_sampler(model, model_folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", str(model_folder), "--members", "1", "--lead-minutes", "5"]
    arguments += ["--data", "synthetic:1", "--crop", "0", "0", "32", "32"]
    assert run_script(lambda: infer.main([*arguments, "--sampler", "restless"])) == 0
    with pytest.raises(SystemExit):
        infer.main([*arguments, "--sampler", "unheard"])
    assert "restless" in capsys.readouterr().err
    forecaster = model_forecaster(
        str(model_folder), 1, None, torch.device("cpu"), "off", sampler="restless"
    )
    assert forecaster.identity["settings"]["diffusion"]["sampler"] == "restless"


def test_settings_may_come_as_flags(restless) -> None:
    config = override(
        DiffusionConfig(),
        {"sampler": "restless", "sampler_settings": "share=0.75", "num_sampling_steps": "7"},
    )
    assert config.sampler_settings == {"share": 0.75}
    assert DiffusionConfig(sampler="restless").sampler_settings == {"share": 0.5}
    sampler = build(tiny_config(sampler="restless")).latent_nowcaster.inference_sampler
    assert sampler.share == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "plsm"}, "unknown sampler plsm: did you mean plms"),
        ({"sampler_settings": {"spacings": "x"}}, "unknown setting.*plms spacings: .* spacing"),
        ({"sampler_settings": {"spacing": 3}}, "got spacing 3, expected str such as 'published'"),
    ],
)
def test_bad_settings_of_a_sampler_are_named(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        DiffusionConfig(**settings)


def test_a_bad_value_is_named_when_the_sampler_is_built() -> None:
    with pytest.raises(InputError, match="got spacing 'wide', expected one of"):
        build_sampler("plms", NoiseSchedule.sqrt_linear(), 5, {"spacing": "wide"})
    with pytest.raises(InputError, match="got 0 sampling steps"):
        build_sampler("plms", NoiseSchedule.sqrt_linear(), 0)
    with pytest.raises(InputError, match="none is left"):
        build_sampler("plms", NoiseSchedule.straight(), 1000)


def test_old_folders_without_settings_are_spaced_as_published() -> None:
    assert DiffusionConfig().sampler_settings == {"spacing": "published"}
