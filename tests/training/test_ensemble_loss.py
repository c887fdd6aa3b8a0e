"""The CRPS as a loss: its value, its gradient, what it teaches, and training with it."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from stages import Stage, same_gradients, same_tensors, state
from tiny_models import rain, tiny_config, tiny_model
from torch import Tensor

from ldcast import LDCast
from ldcast.config import CRPSLossConfig, DiffusionConfig, DiffusionTraining
from ldcast.errors import InputError
from ldcast.inputs.known import Known
from ldcast.models.cosine_autoencoder import CosineAutoencoder, CosineAutoencoderConfig
from ldcast.nowcast.ldcast import build
from ldcast.rain import RainScale, from_model_units, to_model_units
from ldcast.seeds import keyed_generators
from ldcast.training.ensemble_loss import EnsembleLoss, forecast_rain, latents_loss, members_loss

SCALE = RainScale(smoothing_sigma=0.0)
PIXELS = CRPSLossConfig(block_sizes=(1,), transformed_weight=0.0)
LOSS = ("--loss", "crps", "--crps.block-sizes", "1,4")


def norm(*values: float, size: int = 16) -> Tensor:
    """One example's members of even rain, mm/h, in model units (E, 1, 1, 2, size, size)."""
    rain_rate = torch.tensor(values)[:, None, None, None, None, None]
    return to_model_units(rain_rate.expand(-1, 1, 1, 2, size, size), SCALE)


def came(value: float, size: int = 16) -> Tensor:
    return torch.full((1, 1, 2, size, size), value)


@pytest.mark.core
@pytest.mark.parametrize(
    ("members", "observed", "expected"),
    [
        ((1.0, 3.0), 2.0, 0.025),  # fair 1 - 2/2, of the ensemble itself 1 - 2/4
        ((2.0, 2.0), 5.0, 3.0),
        ((0.0, 4.0), 0.0, 0.05),  # 2 - 4/2, 2 - 4/4
        ((0.0, 1.0, 5.0), 1.0, 0.95 * 0 + 0.05 * 5 / 9),  # 5/3 - 20/12, 5/3 - 20/18
    ],
)
def test_the_value_is_that_of_the_almost_fair_crps(members, observed, expected) -> None:
    loss = members_loss(norm(*members), came(observed), SCALE, PIXELS)
    torch.testing.assert_close(loss, torch.tensor([expected]), rtol=1e-4, atol=1e-5)


@pytest.mark.core
def test_blocks_count_beside_pixels_and_forgive_what_lies_beside() -> None:
    """Members that have the right amount of rain at the wrong place are wrong for pixels only."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2.0
    observed = (4 * board).expand(1, 1, 2, 16, 16)
    members = to_model_units((4 * (1 - board)).expand(2, 1, 1, 2, 16, 16), SCALE)
    for sizes, expected in {(1,): 4.0, (4,): 0.0, (1, 4, 16): 4.0}.items():
        loss = members_loss(members, observed, SCALE, replace(PIXELS, block_sizes=sizes))
        torch.testing.assert_close(loss, torch.tensor([expected]), rtol=1e-4, atol=1e-4)


@pytest.mark.core
def test_what_no_radar_saw_does_not_count() -> None:
    observed = came(2.0)
    observed[..., 8:, :] = torch.nan  # half of the blocks of 16, all of some of 4
    observed[..., 8:, 0] = 30.0
    members = norm(2.0, 2.0)
    settings = replace(PIXELS, block_sizes=(4, 16))
    loss = members_loss(members, observed, SCALE, settings)
    # Blocks of 4 with heavy rain hold a quarter of their pixels; the one of 16 has 8 x 17 of them.
    wrong = 28.0 * 8 / (8 * 17)
    torch.testing.assert_close(loss, torch.tensor([wrong]), rtol=1e-4, atol=1e-4)
    nothing = members_loss(members, came(torch.nan), SCALE, CRPSLossConfig())
    torch.testing.assert_close(nothing, torch.zeros(1))


@pytest.mark.core
@pytest.mark.parametrize("transform", ["log", "sqrt", "power"])
def test_rain_is_the_forecast_s_and_its_gradient_does_not_end_below_the_threshold(
    transform,
) -> None:
    scale = RainScale(transform=transform)
    rain_norm = to_model_units(
        torch.tensor([[0.2, 3.0, 90.0, 0.0]]), replace(scale, smoothing_sigma=0.0)
    )
    rain_norm[0, 3] = (
        to_model_units(torch.tensor([[0.11]]), replace(scale, smoothing_sigma=0.0)) - 0.1
    )
    rain_norm = rain_norm.requires_grad_()
    made = forecast_rain(rain_norm, scale)
    torch.testing.assert_close(made, from_model_units(rain_norm, scale))
    assert made[0, 3] == 0
    made.sum().backward()
    assert (rain_norm.grad > 0).all()


@pytest.mark.core
@pytest.mark.parametrize("transform", ["log", "sqrt", "power"])
def test_members_without_bound_have_finite_gradients(transform) -> None:
    scale = replace(SCALE, transform=transform)
    rain_norm = torch.full((2, 1, 1, 2, 16, 16), 300.0, requires_grad=True)
    loss = members_loss(rain_norm, came(1.0), scale, CRPSLossConfig())
    loss.sum().backward()
    assert loss.isfinite().all() and rain_norm.grad.isfinite().all()
    assert (rain_norm.grad > 0).all()  # by the term in model units


@pytest.mark.core
def test_members_below_dry_are_drawn_back_where_it_rained() -> None:
    """In model units, where in mm/h there is nearly no gradient left."""
    dry = to_model_units(torch.zeros(1, 1), SCALE).item()
    rain_norm = torch.full((2, 1, 1, 2, 16, 16), dry - 2.0, requires_grad=True)
    members_loss(rain_norm, came(1.0), SCALE, CRPSLossConfig()).sum().backward()
    assert (rain_norm.grad < 0).all()


@pytest.mark.core
@pytest.mark.parametrize("num_members", [2, 4])
def test_the_loss_is_least_for_the_distribution_that_rain_comes_from(num_members) -> None:
    """A mean and a deviation, learnt from what came: square roots of rain, 3 and 0.8."""
    scale = replace(SCALE, transform="sqrt")
    settings = replace(PIXELS, num_members=num_members)
    generator = torch.Generator().manual_seed(0)
    mean, log_deviation = torch.tensor(1.5), torch.tensor(-2.0)
    parameters = [mean.requires_grad_(), log_deviation.requires_grad_()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(300):
        observed = (3 + 0.8 * torch.randn(1, 1, 2, 32, 32, generator=generator)).square()
        noise = torch.randn(num_members, 1, 1, 2, 32, 32, generator=generator)
        optimizer.zero_grad()
        members = mean + log_deviation.exp() * noise
        members_loss(members, observed, scale, settings).sum().backward()
        optimizer.step()
    assert mean.item() == pytest.approx(3.0, abs=0.05)
    # 5 % of the score is the ensemble's own, for which few members are best a little alike.
    assert 0.7 < log_deviation.exp().item() < 0.82


def one_call_model() -> LDCast:
    config = tiny_config()
    diffusion = DiffusionConfig(sampler="one_call", num_sampling_steps=1, prediction="v",
                                schedule="cosine")  # fmt: skip
    torch.manual_seed(3)
    model = build(replace(config, diffusion=diffusion))
    for network in model.latent_nowcaster.networks().values():
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_an_example_s_loss_does_not_depend_on_the_others() -> None:
    model = one_call_model()
    loss = EnsembleLoss(model, CRPSLossConfig(num_members=3, block_sizes=(1, 4), latent_weight=1.0))
    channels = model.autoencoder.latent_channels
    generator = torch.Generator().manual_seed(0)
    z_past = torch.randn(3, channels, 1, 8, 8, generator=generator)
    rain_rate = 5 * torch.rand(3, 1, 20, 32, 32, generator=generator)
    z_future = torch.randn(3, channels, 5, 8, 8, generator=generator)
    weight = (torch.rand(3, 1, 5, 8, 8, generator=generator) < 0.8).float()
    latents = z_future, weight
    together = loss(
        Known(z_past, {}, {}), rain_rate, *latents, keyed_generators(7, indices=range(3))
    )
    for index in range(3):
        part = slice(index, index + 1)
        of_one = rain_rate[part], z_future[part], weight[part]
        alone = loss(Known(z_past[part], {}, {}), *of_one, keyed_generators(7, indices=[index]))
        torch.testing.assert_close(alone, together[part], rtol=1e-4, atol=1e-5)
    assert len({round(value, 5) for value in together.tolist()}) == 3


def test_the_loss_is_of_the_forecasts_that_the_model_makes() -> None:
    """Of two members of one example, those that `draw_members` gives, decoded and as latents."""
    model = one_call_model()
    settings = CRPSLossConfig(block_sizes=(1,), latent_weight=0.5)
    z_past = torch.randn(1, model.autoencoder.latent_channels, 1, 8, 8)
    known, rain_rate = Known(z_past, {}, {}), 5 * torch.rand(1, 1, 20, 32, 32)
    z_future, weight = torch.randn(*z_past.shape[:2], 5, 8, 8), torch.ones(1, 1, 5, 8, 8)
    module = EnsembleLoss(model, settings)
    loss = module(known, rain_rate, z_future, weight, keyed_generators(7, indices=[0]))
    z = model.latent_nowcaster.draw_members(known, 2, keyed_generators(7, indices=[0]))
    assert z.shape == (2, *z_past.shape[:2], 5, 8, 8)
    members = torch.stack([model.autoencoder.decode(of_one) for of_one in z])
    assert not torch.equal(members[0], members[1])
    expected = members_loss(members, rain_rate, model.rain_scale, settings)
    sizes = torch.ones(model.autoencoder.latent_channels)
    plain = expected + 0.5 * latents_loss(z, z_future, weight, sizes)
    torch.testing.assert_close(loss, plain)
    sizes[0] = 3.0
    model.latent_nowcaster.channel_sizes = lambda: sizes
    loss = module(known, rain_rate, z_future, weight, keyed_generators(7, indices=[0]))
    z = model.latent_nowcaster.draw_members(known, 2, keyed_generators(7, indices=[0]))
    members = torch.stack([model.autoencoder.decode(of_one) for of_one in z])
    expected = members_loss(members, rain_rate, model.rain_scale, settings)
    sized = expected + 0.5 * latents_loss(z, z_future, weight, sizes)
    torch.testing.assert_close(loss, sized)
    assert not torch.allclose(sized, plain, rtol=1e-2)


@pytest.mark.core
def test_latents_count_by_the_size_of_their_channel_and_only_where_all_of_a_cell_is_known() -> None:
    """Two members 1 below and 1 above: fair 1 - 2/2, of the ensemble itself 1 - 2/4; 3 off both."""
    z_future = torch.zeros(1, 2, 1, 1, 3)
    z = torch.zeros(2, 1, 2, 1, 1, 3)
    z[0, 0, 0], z[1, 0, 0] = -1.0, 1.0
    z[:, 0, 1] = 3.0
    z[:, ..., 2] = 100.0  # in a cell of which one pixel is not known
    weight = torch.tensor([1.0, 1.0, 0.98])[None, None, None, None]
    loss = latents_loss(z, z_future, weight, torch.tensor([2.0, 0.5]))
    expected = (2.0 * 0.05 * 0.5 + 0.5 * 3.0) / 2
    torch.testing.assert_close(loss, torch.tensor([expected]))
    nothing = latents_loss(z, z_future, torch.zeros_like(weight), torch.ones(2))
    assert nothing.tolist() == [0.0]


@pytest.mark.core
def test_noise_in_a_fine_channel_costs_more_as_a_latent_than_as_rain() -> None:
    """The finest of 24 cosines, where all that differs otherwise is the cell's mean."""
    autoencoder = CosineAutoencoder(CosineAutoencoderConfig(decoder="linear"))
    generator = torch.Generator().manual_seed(0)
    z_future = torch.zeros(1, 24, 1, 8, 8)
    z = torch.zeros(2, 1, 24, 1, 8, 8)
    z[:, :, 0] = 4.0 * torch.randn(2, 1, 1, 8, 8, generator=generator)
    noisy = z.clone()
    noisy[:, :, 23] = torch.randn(2, 1, 1, 8, 8, generator=generator)
    weight, sizes = torch.ones(1, 1, 1, 8, 8), torch.ones(24)
    as_latents = [latents_loss(of, z_future, weight, sizes).item() for of in (z, noisy)]
    settings = CRPSLossConfig(block_sizes=(1,))
    observed = came(1.0, 32)[:, :, :1].expand(-1, -1, 4, -1, -1)
    as_rain = []
    for of in (z, noisy):
        rain_norm = torch.stack([autoencoder.decode(member) for member in of])
        as_rain.append(members_loss(rain_norm, observed, SCALE, settings).item())
    assert as_latents[1] > 1.1 * as_latents[0]
    assert as_rain[1] < 1.05 * as_rain[0]


# ---- in the train script


@pytest.fixture
def stage(event_path, autoencoder_run) -> Stage:
    stage = Stage("diffusion", event_path, autoencoder_run)
    place = stage.inputs.index("--diffusion.num-sampling-steps")
    del stage.inputs[place : place + 2]
    return stage


def test_training_by_the_crps_makes_a_model_of_one_call(stage, tmp_path) -> None:
    run = stage.run(tmp_path / "run", 2, *LOSS)
    config = json.loads((run / "config.json").read_text())["model"]["diffusion"]
    assert (config["sampler"], config["num_sampling_steps"]) == ("one_call", 1)
    model = LDCast.from_pretrained(run, "cpu")
    calls = []
    forecast = model.predict(rain(), 2, progress=lambda done, total: calls.append(total))
    assert forecast.shape[:2] == (2, 20) and set(calls) == {1}  # two members in one batch
    for name, steps in (("dpm_solver", None), (None, 20)):
        with pytest.raises(InputError, match=r"expected (that one|1: this model)"):
            model.use_sampler(name, steps)
    with pytest.raises(InputError, match="got the sampler one_call for a model"):
        tiny_model().use_sampler("one_call")
    before, after = (
        load_file(path / "model.safetensors") for path in (stage.reference(1, *LOSS), run)
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_run_by_the_crps_resumes_exactly_and_from_a_pool(stage, tmp_path) -> None:
    more = (*LOSS, "--pool", "6", "--crps.latent-weight", "0.5")
    whole = stage.run(tmp_path / "whole", 3, *more)
    parts = stage.run(tmp_path / "parts", 1, *more)
    stage.run(parts, 3, *more)
    assert same_tensors(state(whole), state(parts))


def test_a_model_of_one_call_is_trained_further_as_it_was(stage, tmp_path, capsys) -> None:
    run = stage.reference(2, *LOSS)
    back = ("--init", str(run), "--diffusion.sampler", "dpm_solver")
    assert "give --loss denoising" in stage.fails(capsys, tmp_path / "b", *back)
    back = stage.run(tmp_path / "back", 1, "--init", str(run), "--loss", "denoising")
    config = json.loads((back / "config.json").read_text())["model"]["diffusion"]
    assert (config["sampler"], config["num_sampling_steps"]) == ("dpm_solver", 12)
    again = stage.run(tmp_path / "again", 1, "--init", str(run), "--crps.block-sizes", "1,4")
    config = json.loads((again / "config.json").read_text())["model"]["diffusion"]
    assert config["sampler"] == "one_call"


def test_a_model_that_denoises_is_trained_further_by_the_crps(stage, tmp_path) -> None:
    start = stage.reference(1, "--diffusion.sampler", "dpm_solver", "--diffusion.sampler-settings",
                            "eta=1", "--diffusion.num-sampling-steps", "2")  # fmt: skip
    run = stage.run(tmp_path / "run", 1, "--init", str(start), *LOSS)
    before, after = (load_file(path / "model.safetensors") for path in (start, run))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.partition(".")[0] for name in moved} == {"conditioner", "denoiser"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--diffusion.sampler", "one_call", "--diffusion.num-sampling-steps", "1"),
            "expected crps with one_call",
        ),
        ((*LOSS, "--diffusion.sampler", "dpm_solver"), "expected crps with one_call"),
        ((*LOSS, "--noise-levels", "0,1"), "with loss crps, expected none"),
        (("--crps.num-members", "3"), "expected --loss crps"),
        (("--loss", "crps", "--crps.block-sizes", "64"), "64 pixels with crops of 32"),
        ((*LOSS, "--diffusion.num-sampling-steps", "4"), "got 4 sampling steps, expected 1"),
        ((*LOSS, "--forecast-score.num-sampling-steps", "20"), "got 20 with loss crps"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(stage, tmp_path, capsys, more, message) -> None:
    assert message in stage.fails(capsys, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


def test_no_blocks_are_refused() -> None:
    with pytest.raises(InputError, match="block_sizes: got none"):
        CRPSLossConfig(block_sizes=())
    assert DiffusionTraining().loss == "denoising"


def test_gradients_through_activation_checkpointing_are_the_same(stage, tmp_path) -> None:
    plain = stage.run(tmp_path / "plain", 1, *LOSS)
    saving = stage.run(tmp_path / "saving", 1, *LOSS, "--loop.use-activation-checkpointing", "true")
    same_gradients(plain, saving)
