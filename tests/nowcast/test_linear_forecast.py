"""The linear forecast: what is fitted, and that models diffuse its error and give back latents."""

import functools
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import Stage, same_gradients, state
from tiny_models import rain, tiny_config
from torch import Tensor, nn

from ldcast import LDCast
from ldcast.config import DiffusionConfig, ModelConfig
from ldcast.errors import InputError
from ldcast.inputs.known import Known
from ldcast.nowcast import linear_forecast
from ldcast.nowcast.ldcast import build
from ldcast.nowcast.linear_forecast import LinearForecast, LinearGuess, worth_of_rain
from ldcast.rain import RainScale, from_model_units, to_model_units
from ldcast.training import latents

CHANNELS, FRAMES = 4, 5
ONES, DRY = torch.ones(CHANNELS), torch.zeros(CHANNELS)
DEVIATION = torch.tensor([1.6, 1.0, 0.6, 0.2])[:, None, None, None]
INPUTS = ("carried_frames",)
SETTINGS = ["--inputs", ",".join(INPUTS), "--diffusion.around-linear-forecast", "true"]
SETTINGS += ["--diffusion.prediction", "v", "--diffusion.schedule", "cosine"]
SETTINGS += ["--diffusion.sampler", "dpm_solver"]


def smooth_noise(num: int, seed: int) -> Tensor:
    """(num, C, L, 32, 32), of about unit size, alike over some cells."""
    noise = torch.randn(num, CHANNELS, FRAMES, 32, 32, generator=generator(seed))
    return 5 * nn.functional.avg_pool3d(noise, (1, 5, 5), 1, (0, 2, 2))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def known_of(newest: Tensor, before: Tensor) -> Known:
    share = torch.ones_like(newest[:, :1])
    future = {"carried_frames": torch.cat([newest, share, before, share], dim=1)}
    return Known(newest[:, :, :1], {}, future)


def examples(num: int = 50, seed: int = 0) -> tuple[Known, Tensor, LinearGuess]:
    """What is known, latents that follow from it as below, and how."""
    carried, past = smooth_noise(num, seed), smooth_noise(num, seed + 1)
    size = 0.2 + carried.square().sum(1, keepdim=True).sqrt()
    mean = 0.7 * carried + 0.1 * past + 0.2
    noise = torch.randn(mean.shape, generator=generator(seed + 2))
    return known_of(carried, past), mean + size * DEVIATION * noise, LinearGuess(mean, size)


@functools.cache
def fitted() -> LinearForecast:
    known, z_future, guess = examples()
    forecast = LinearForecast(CHANNELS, FRAMES)
    weight = torch.ones_like(guess.size)
    forecast.measure(known, z_future, weight, weight, ONES, DRY)
    return forecast


@pytest.mark.core
def test_mean_and_size_of_the_error_are_found() -> None:
    forecast = fitted()
    known, z_future, truth = examples(20, seed=10)
    guess = forecast(known, ONES)
    assert (guess.mean - truth.mean).abs().mean() < 0.05 * truth.mean.std()
    ratio = guess.size / truth.size  # the size of all channels together
    assert (ratio - 1).abs().mean() < 0.05
    error = (z_future - guess.mean) / guess.size
    calm = (truth.size < truth.size.median()).expand_as(error)
    for part in (error[calm], error[~calm]):
        assert part.square().mean().item() == pytest.approx(1.0, rel=0.05)
    relative = forecast.relative(guess.size).square().mean((0, 1, 3, 4))
    torch.testing.assert_close(relative, torch.ones(FRAMES), rtol=0.1, atol=0)


@pytest.mark.core
def test_an_expected_deviation_tells_the_size() -> None:
    """Of errors whose size is in the last channel of the prognosis, and in nothing else."""

    def drawn(seed: int) -> tuple[Known, Tensor, Tensor]:
        carried, left = smooth_noise(40, seed), smooth_noise(40, seed + 1)
        size = 0.2 + smooth_noise(40, seed + 2)[:, :1].abs()
        noise = torch.randn(left.shape, generator=generator(seed + 3))
        share = torch.ones_like(size)
        frames = torch.cat([carried, share, carried, share], dim=1)
        prognosis = torch.cat([left, size], dim=1)
        known = {"carried_prognosis": prognosis, "carried_frames": frames}  # in any order
        return Known(left[:, :, :1], {}, known), left + size * noise, size

    forecast = LinearForecast(CHANNELS, FRAMES, ("carried_frames", "carried_prognosis"))
    known, z_future, size = drawn(0)
    weight = torch.ones_like(size)
    forecast.measure(known, z_future, weight, weight, ONES, DRY)
    known, _, size = drawn(10)
    guess = forecast(known, ONES)
    assert (guess.size / size - 1).abs().mean() < 0.06
    assert (guess.mean - known.future["carried_prognosis"][:, :-1]).abs().mean() < 0.05


@pytest.mark.core
def test_where_rain_is_unheard_of_the_size_is_bounded() -> None:
    """Logarithms run away: by one small storm a member had the highest rain that a model knows."""
    known, _, _ = examples(2, seed=10)
    wild = known_of(
        *(100 * known.future["carried_frames"][:, first : first + 4] for first in (0, 5))
    )
    forecast = fitted()
    relative = forecast.relative(forecast(wild, ONES).size)
    assert relative.max() <= math.e * 1.001
    assert relative.max() > 2  # it would be more


def test_the_channels_covariance_is_found_for_each_frame() -> None:
    covariance = fitted().covariance()
    values = torch.ones(1, CHANNELS, FRAMES, 1, 1)
    scaled = covariance.scaled(values, lambda variance: variance.sqrt())[0, :, :, 0, 0]
    expected = DEVIATION[:, 0, 0] / DEVIATION.square().mean().sqrt()
    torch.testing.assert_close(scaled, expected.expand(-1, FRAMES), rtol=0.05, atol=0.05)


@pytest.mark.core
def test_mixed_precision_does_not_reach_it() -> None:
    forecast, (known, z, _) = fitted(), examples(2)
    exact = forecast(known, ONES)
    scaled = forecast.covariance().scaled(z, torch.sqrt)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(forecast(known, ONES).mean, exact.mean)
        assert torch.equal(forecast(known, ONES).size, exact.size)
        assert torch.equal(forecast.covariance().scaled(z, torch.sqrt), scaled)


@pytest.mark.core
def test_averages_over_many_cells_forecast_where_single_ones_do_not() -> None:
    """The truth is the mean over 8 x 8 cells of the carried rain, whose cells are noise."""
    carried = torch.randn(50, CHANNELS, FRAMES, 32, 32, generator=generator(3))
    known = known_of(carried, torch.zeros_like(carried))
    means = nn.functional.avg_pool3d(carried, (1, 8, 8))
    z_future = nn.functional.interpolate(means, carried.shape[2:], mode="trilinear")
    forecast = LinearForecast(CHANNELS, FRAMES)
    ones = torch.ones_like(carried[:, :1])
    forecast.measure(known, z_future, ones, ones, ONES, DRY)
    error = z_future - forecast(known, ONES).mean
    assert error.square().mean() < 0.1 * z_future.square().mean()


@pytest.mark.core
def test_cells_count_by_what_their_errors_are_worth() -> None:
    """Upper halves keep their rain, lower ones lose it; both look alike."""
    carried = smooth_noise(50, 5)
    known, z_future = known_of(carried, torch.zeros_like(carried)), carried.clone()
    z_future[..., 16:, :] = 0
    worth = torch.ones_like(carried[:, :1])
    means = []
    for of_upper_half in (1.0, 20.0):
        worth[..., :16, :] = of_upper_half
        forecast = LinearForecast(CHANNELS, FRAMES)
        forecast.measure(known, z_future, torch.ones_like(worth), worth, ONES, DRY)
        means.append(forecast(known, ONES).mean)
    kept = [(mean * carried).mean().item() / carried.square().mean().item() for mean in means]
    assert 0.4 < kept[0] < 0.6 and kept[1] > 0.9


@pytest.mark.core
@pytest.mark.parametrize(
    ("transform", "ratio"), [("log", 10.0), ("sqrt", 10.0**0.5), ("power", 10.0**0.6)]
)
def test_errors_are_worth_what_they_are_in_mm(transform: str, ratio: float) -> None:
    """As the transform's slope says, where a unit is little beside the rain."""
    scale = RainScale(transform=transform, smoothing_sigma=0.0, max_rain_rate=1e4)
    worth = worth_of_rain(to_model_units(torch.tensor([[200.0, 2000.0]]), scale), scale)[0]
    assert (worth[1] / worth[0]).item() == pytest.approx(ratio, rel=1e-3)


@pytest.mark.core
def test_cells_without_data_do_not_count() -> None:
    known, z_future, guess = examples()
    weight = torch.ones_like(guess.size)
    weight[..., :16, :] = 0
    ones = torch.ones_like(weight)
    whole, spoilt = (LinearForecast(CHANNELS, FRAMES) for _ in range(2))
    whole.measure(known, z_future, weight, ones, ONES, DRY)
    spoilt.measure(known, z_future.where(weight > 0, 99.0), weight, ones, ONES, DRY)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(spoilt.state_dict()[name], value, msg=name)


@pytest.mark.core
def test_it_is_the_same_for_any_size_of_channels() -> None:
    """Sizes are those of the rain; standardised latents are the same forecast."""
    sizes = torch.tensor([1.7, 0.9, 0.5, 0.2])
    sizes = sizes / sizes.square().mean().sqrt()
    known, _, _ = examples(8)
    natural = fitted()(known, ONES)
    standard = fitted_on_scaled(sizes)(scaled(known, sizes), sizes)
    mean = standard.mean * sizes[:, None, None, None]
    torch.testing.assert_close(mean, natural.mean, rtol=0, atol=0.04)  # the ridge is of the scaled
    torch.testing.assert_close(standard.size, natural.size, rtol=0.02, atol=0)


@pytest.mark.core
def test_a_cell_has_the_same_forecast_in_a_domain_of_any_size() -> None:
    """It depends on averages over as many cells as when it was fitted, ends apart."""
    carried, past = (
        5 * nn.functional.avg_pool3d(
            torch.randn(1, CHANNELS, FRAMES, 54, 57, generator=generator(seed)), (1, 5, 5), 1,
            (0, 2, 2),
        )
        for seed in (3, 4)
    )  # fmt: skip
    whole = fitted()(known_of(carried, past), ONES)
    part = fitted()(known_of(carried[..., :45, :37], past[..., :45, :37]), ONES)
    for of_whole, of_part in zip(whole, part, strict=True):
        torch.testing.assert_close(of_part[..., :20, :12], of_whole[..., :20, :12])


def test_frames_without_any_data_cannot_be_fitted() -> None:
    known, z_future, guess = examples(4)
    weight = torch.ones_like(guess.size)
    weight[:, :, 3] = 0
    with pytest.raises(InputError, match="no training crop has data in latent frame 4"):
        LinearForecast(CHANNELS, FRAMES).measure(known, z_future, weight, weight, ONES, DRY)


def scaled(known: Known, sizes: Tensor) -> Known:
    newest, before = known.future["carried_frames"].split(CHANNELS + 1, dim=1)
    factor = sizes[:, None, None, None]
    return known_of(newest[:, :-1] / factor, before[:, :-1] / factor)


def fitted_on_scaled(sizes: Tensor) -> LinearForecast:
    known, z_future, guess = examples()
    forecast = LinearForecast(CHANNELS, FRAMES)
    weight = torch.ones_like(guess.size)
    z_scaled = z_future / sizes[:, None, None, None]
    forecast.measure(scaled(known, sizes), z_scaled, weight, weight, sizes, DRY)
    return forecast


def config(**diffusion: object) -> ModelConfig:
    settings = dict(prediction="v", schedule="cosine", sampler="dpm_solver", num_sampling_steps=20)
    return replace(
        tiny_config(),
        diffusion=DiffusionConfig(**settings, around_linear_forecast=True, **diffusion),
        inputs=INPUTS,
    )


def filled_model() -> LDCast:
    torch.manual_seed(0)
    model = build(config()).eval()
    model.latent_nowcaster.linear_forecast.load_state_dict(fitted().state_dict())
    return model


def test_silent_networks_forecast_the_guess_and_spread_as_its_error() -> None:
    nowcaster = filled_model().latent_nowcaster
    known, _, _ = examples(1, seed=20)
    guess = nowcaster.linear_forecast(known, ONES)
    num = 24
    z = nowcaster.infer(
        Known(
            known.z_past.expand(num, -1, -1, -1, -1),
            {},
            {name: value.expand(num, -1, -1, -1, -1) for name, value in known.future.items()},
        ),
        [generator(k) for k in range(num)],
    )
    error = (z - guess.mean) / guess.size
    mean = error.mean((0, 3, 4))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=0.02)
    expected = DEVIATION[:, 0, 0] / DEVIATION.square().mean().sqrt()
    torch.testing.assert_close(
        error.std((0, 3, 4)), expected.expand(-1, FRAMES), rtol=0.08, atol=0.02
    )


def test_a_model_with_it_is_saved_loaded_and_cut_into_windows(tmp_path: Path) -> None:
    model = filled_model()
    forecast = model.predict(rain(64, 96), 2)
    assert forecast.shape == (2, 20, 64, 96) and torch.isfinite(forecast).all()
    alone = model.predict(rain(64, 96), 1, first_member=1)
    torch.testing.assert_close(alone[0], forecast[1], rtol=1e-4, atol=1e-4)
    in_windows = model.predict(rain(64, 96), 2, window=64)
    assert torch.isfinite(in_windows).all() and in_windows.shape == forecast.shape
    model.save_pretrained(tmp_path)
    loaded = LDCast.from_pretrained(tmp_path, device="cpu")
    assert loaded.config == model.config
    assert torch.equal(loaded.predict(rain(64, 96), 2), forecast)


@pytest.mark.core
def test_it_needs_its_inputs_and_v() -> None:
    with pytest.raises(
        InputError,
        match="got inputs carried_rain, expected --inputs carried_frames or carried_frames,carried",
    ):
        replace(config(), inputs=("carried_rain",))
    with pytest.raises(InputError, match="around_linear_forecast: got true with prediction noise"):
        DiffusionConfig(around_linear_forecast=True)


def test_it_is_fitted_before_the_training_and_a_resumed_run_keeps_it(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "NUM_MEASURED", 12)
    stage = Stage("diffusion", event_path, autoencoder_run)
    whole = stage.run(tmp_path / "whole", 2, *SETTINGS)
    tensors = load_file(whole / "model.safetensors")
    start = "linear_forecast."
    of_forecast = {name.removeprefix(start): t for name, t in tensors.items() if start in name}
    assert of_forecast["num_measured"] == 12 and of_forecast["weights"].abs().sum() > 0
    cut = stage.run(tmp_path / "cut", 1, *SETTINGS)
    monkeypatch.setattr(latents, "NUM_MEASURED", 5)  # would be another one
    same_gradients(stage.run(cut, 2, *SETTINGS), whole)
    again = load_file(cut / "model.safetensors")
    assert all(torch.equal(again[name], t) for name, t in tensors.items() if start in name)


def test_a_fit_that_is_stopped_is_made_when_the_run_resumes(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "NUM_MEASURED", 6)
    stage = Stage("diffusion", event_path, autoencoder_run)
    whole, calls = stage.run(tmp_path / "whole", 1, *SETTINGS), []
    fit = linear_forecast._least_squares

    def stopped(*rest: Tensor) -> Tensor:
        calls.append(rest)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return fit(*rest)

    monkeypatch.setattr(linear_forecast, "_least_squares", stopped)
    assert stage.script.main(stage.arguments(tmp_path / "cut", 1, *SETTINGS)) == 143
    assert len(calls) == 2  # of ten
    saved = state(tmp_path / "cut")
    assert saved["linear_forecast.num_measured"] == 0
    same_gradients(stage.run(tmp_path / "cut", 1, *SETTINGS), whole)


def test_training_fits_it_by_what_the_carried_rains_errors_are_worth(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "NUM_MEASURED", 6)
    stage, seen = Stage("diffusion", event_path, autoencoder_run), []
    fit = LinearForecast.measure

    def watched(self: LinearForecast, known: Known, *rest: Any) -> None:
        seen.append((known, rest[2]))
        fit(self, known, *rest)

    monkeypatch.setattr(LinearForecast, "measure", watched)
    run = stage.run(tmp_path / "run", 1, *SETTINGS)
    ((known, worth),) = seen
    model = LDCast.from_pretrained(run, "cpu")
    carried = known.future["carried_frames"][:, : model.autoencoder.latent_channels]
    rain_norm = model.autoencoder.decode(carried)
    per_unit = (from_model_units(rain_norm + 0.01, model.rain_scale)
                - from_model_units(rain_norm - 0.01, model.rain_scale)) / 0.02  # fmt: skip
    slope = nn.functional.avg_pool3d(per_unit, 4)
    assert worth.shape == slope.shape and slope.std() > 0
    related = torch.corrcoef(torch.stack([worth.flatten(), slope.flatten()]))[0, 1]
    assert related > 0.95
