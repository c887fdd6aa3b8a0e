"""Noise like errors: its correlations are those it was measured on, and members start from it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stages import Stage
from tiny_models import rain, tiny_config
from torch import Tensor, nn

from ldcast import LDCast
from ldcast.config import DiffusionConfig
from ldcast.errors import InputError
from ldcast.inputs.known import Known
from ldcast.nowcast.error_noise import ErrorNoise
from ldcast.nowcast.latent_nowcaster import LatentNowcaster
from ldcast.nowcast.ldcast import build
from ldcast.training import latents

CHANNELS, FRAMES = 3, 2
AROUND = dict(prediction="v", schedule="cosine", around_linear_forecast=True)
ONE_CALL = dict(sampler="one_call", num_sampling_steps=1)
PAST = rain(128, 128)


def white(num: int, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, CHANNELS, FRAMES, size, size, generator=generator)


def errors(num: int = 100, seed: int = 1) -> Tensor:
    """Channel 0 wider in the later frame, which follows the first; 1 rough; 2 new in each cell."""
    noise = white(num, seed=seed)
    noise[:, 0, 1] = 0.6 * noise[:, 0, 0] + 0.8 * noise[:, 0, 1]
    smooth = noise.clone()
    for frame, size in enumerate((3, 9)):
        smooth[:, 0, frame] = nn.functional.avg_pool2d(noise[:, 0, frame], size, 1, size // 2)
    smooth[:, 1] -= 0.3 * noise[:, 1].roll(1, -1) + 0.3 * noise[:, 1].roll(1, -2)
    return smooth / smooth.std((0, 3, 4), keepdim=True)


def neighbours(values: Tensor, lag: int = 1) -> Tensor:
    """(C, L), the correlation of cells that are so far apart."""
    square = values.square().mean((0, 3, 4))
    return sum(
        (values * values.roll(lag, axis)).narrow(axis, lag, values.shape[axis] - lag)
        .mean((0, 3, 4)) / square / 2
        for axis in (3, 4)
    )  # fmt: skip


def measured(error: Tensor, weight: Tensor | None = None) -> ErrorNoise:
    noise = ErrorNoise(CHANNELS, FRAMES)
    noise.measure(error, torch.ones_like(error[:, :1]) if weight is None else weight)
    return noise


@pytest.mark.core
def test_it_has_the_correlations_of_the_errors_it_was_measured_on() -> None:
    found, wanted = measured(2.5 * errors())(white(100)), errors()
    assert (neighbours(wanted)[0] > 0.6).all() and (neighbours(wanted)[1] < -0.2).all()
    for lag, tolerance in ((1, 0.03), (2, 0.06), (4, 0.06), (8, 0.04)):
        torch.testing.assert_close(
            neighbours(found, lag), neighbours(wanted, lag), rtol=0, atol=tolerance
        )
    follows = (found[:, :, 0] * found[:, :, 1]).mean((0, 2, 3))
    wanted_follows = (wanted[:, :, 0] * wanted[:, :, 1]).mean((0, 2, 3))
    assert wanted_follows[0] > 0.15
    torch.testing.assert_close(follows, wanted_follows, rtol=0, atol=0.06)


@pytest.mark.core
@pytest.mark.parametrize("size", [(32, 32), (20, 33), (7, 100)])
def test_every_cell_has_deviation_1_on_any_field(size: tuple[int, int]) -> None:
    noise = torch.randn(4000, CHANNELS, FRAMES, *size, generator=torch.Generator().manual_seed(3))
    deviation = measured(errors())(noise).std(0)
    assert (deviation - 1).abs().mean() < 0.02 and (deviation - 1).abs().max() < 0.1


@pytest.mark.core
def test_unmeasured_it_is_the_noise_itself() -> None:
    noise = white(2)
    torch.testing.assert_close(ErrorNoise(CHANNELS, FRAMES)(noise), noise)


@pytest.mark.core
def test_cells_without_data_do_not_count() -> None:
    error = errors(20)
    weight = torch.ones_like(error[:, :1])
    weight[..., :10] = 0
    spoilt = error.where(weight > 0, 99.0)
    of_whole, of_spoilt = measured(error, weight), measured(spoilt, weight)
    for name, value in of_whole.state_dict().items():
        torch.testing.assert_close(of_spoilt.state_dict()[name], value, msg=name)


@pytest.mark.core
def test_channels_that_do_not_vary_and_frames_that_contradict_are_survived() -> None:
    error = errors(20)
    error[:, 2] = 0
    error[:, 0, 1] = error[:, 0, 0]  # the same in both frames: no square root without care
    made = measured(error)(white(20))
    assert torch.isfinite(made).all()
    torch.testing.assert_close(made.std((0, 3, 4)), torch.ones(CHANNELS, FRAMES), rtol=0, atol=0.1)


@pytest.mark.core
@pytest.mark.parametrize("size", [1, 4, 8])
def test_small_crops_say_nothing_of_wide_correlations(size: int) -> None:
    noise = measured(errors()[..., :size, :size])
    assert not noise.shares[..., 4].any() and not noise.shares[..., size // 2 + 1 :].any()
    deviation = noise(white(100)).std((0, 3, 4))
    torch.testing.assert_close(deviation, torch.ones(CHANNELS, FRAMES), rtol=0, atol=0.1)


@pytest.mark.core
def test_mixed_precision_does_not_reach_it() -> None:
    noise, start = measured(errors()), white(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = noise(start)
    assert torch.equal(within, noise(start)) and within.dtype == torch.float32


@pytest.mark.core
def test_the_linear_forecasts_error_is_measured_in_its_principal_components() -> None:
    """Each channel of unit deviation: large errors of one must not stand for those of another."""
    torch.manual_seed(0)
    diffusion = DiffusionConfig(**AROUND, **ONE_CALL, member_noise="correlated")
    model = build(replace(tiny_config(), diffusion=diffusion, inputs=("carried_frames",)))
    nowcaster, num = model.latent_nowcaster, 40
    channels, frames = model.autoencoder.latent_channels, 5
    carried = torch.zeros(num, 2 * (channels + 1), frames, 32, 32)
    known = Known(torch.zeros(num, channels, 1, 32, 32), {}, {"carried_frames": carried})
    generator = torch.Generator().manual_seed(1)
    rough = torch.randn(num, channels, frames, 32, 32, generator=generator)
    wide = nn.functional.avg_pool3d(rough, (1, 9, 9), 1, (0, 4, 4))
    error = rough.clone()
    error[:, 0] = wide[:, 0] / wide[:, 0].std()
    mixed = error.clone()
    mixed[:, 1] = 0.1 * error[:, 1] + 3 * error[:, 0]  # hardly its own
    weight = torch.ones(num, 1, frames, 32, 32)
    nowcaster.linear_forecast.measure(
        known, mixed, weight, weight, torch.ones(channels), torch.zeros(channels)
    )
    nowcaster.measure_error_noise(known, mixed, weight)
    made = nowcaster.error_noise(torch.randn(mixed.shape, generator=generator))
    back = nowcaster.linear_forecast.covariance().scaled(made, torch.sqrt)
    own = back[:, 1] - 3 * back[:, 0]  # 0.1 rough
    for value, is_wide in ((back[:, 0], True), (back[:, 2], False)):
        near = (value[..., 1:] * value[..., :-1]).mean() / value.square().mean()
        assert (near > 0.7) == is_wide, near
    assert own.square().mean() < 0.3 * back[:, 0].square().mean()


@pytest.mark.core
def test_without_a_linear_forecast_there_is_no_error_to_be_like() -> None:
    nowcaster = build(tiny_config()).latent_nowcaster
    parts = nowcaster.conditioner, nowcaster.denoiser, nowcaster.training_sampler
    with pytest.raises(ValueError, match="error_noise without the linear_forecast"):
        LatentNowcaster(
            *parts, nowcaster.inference_sampler, error_noise=ErrorNoise(CHANNELS, FRAMES)
        )


@pytest.mark.core
def test_it_is_for_one_call_around_a_linear_forecast() -> None:
    assert DiffusionConfig(**AROUND, **ONE_CALL, member_noise="correlated").member_noise
    for settings in (dict(AROUND, sampler="dpm_solver"), ONE_CALL):
        with pytest.raises(InputError, match="member_noise: got correlated"):
            DiffusionConfig(**settings, member_noise="correlated")


def test_members_of_silent_networks_differ_over_many_cells(tmp_path: Path) -> None:
    torch.manual_seed(0)
    diffusion = DiffusionConfig(**AROUND, **ONE_CALL, member_noise="correlated")
    model = build(replace(tiny_config(), diffusion=diffusion, inputs=("carried_frames",))).eval()
    noise = model.latent_nowcaster.error_noise
    before = model.predict(PAST, 4)
    noise.shares[..., 0], noise.shares[..., 3] = 0.0, 1.0  # a blur of 4 cells, 16 pixels
    after = model.predict(PAST, 4)

    def roughness(forecast: Tensor) -> float:
        differ = forecast.log1p().diff(dim=0)
        return float((differ[..., 16:] - differ[..., :-16]).std() / differ.std())

    assert roughness(after) < 0.8 * roughness(before)
    alone = model.predict(PAST, 1, first_member=2)
    torch.testing.assert_close(alone[0], after[2], rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    assert torch.equal(LDCast.from_pretrained(tmp_path, "cpu").predict(PAST, 4), after)


def test_training_measures_it_also_after_a_start_without(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "NUM_MEASURED", 6)
    stage = Stage("diffusion", event_path, autoencoder_run)
    place = stage.inputs.index("--diffusion.num-sampling-steps")
    del stage.inputs[place : place + 2]
    around = ("--inputs", "carried_frames", "--diffusion.around-linear-forecast", "true",
              "--diffusion.prediction", "v", "--diffusion.schedule", "cosine")  # fmt: skip
    loss = ("--loss", "crps", "--crps.block-sizes", "1,4")
    correlated = (*loss, "--diffusion.member-noise", "correlated")
    white_run = stage.run(tmp_path / "white", 1, *around, *loss)
    whole = stage.run(tmp_path / "whole", 2, *around, *correlated)
    later = stage.run(tmp_path / "later", 1, "--init", str(white_run), *correlated)
    for run in (whole, later):
        config = json.loads((run / "config.json").read_text())["model"]["diffusion"]
        tensors = load_file(run / "model.safetensors")
        assert config["member_noise"] == "correlated" and tensors["error_noise.num_measured"] == 6
    again = ("--init", str(later), "--diffusion.member-noise", "white", "--crps.block-sizes", "1,4")
    back = stage.run(tmp_path / "back", 1, *again)
    names = load_file(back / "model.safetensors")
    assert not any(name.startswith("error_noise") for name in names)
    white_tensors, tensors = (load_file(run / "model.safetensors") for run in (white_run, later))
    name = "linear_forecast.weights"
    assert torch.equal(white_tensors[name], tensors[name])
