"""A new input is a file and a line: trained with, saved, and known wherever a forecast is made."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from stages import Stage
from tiny_models import rain, tiny_config, tiny_model
from torch import Tensor

import infer
from ldcast import LDCast
from ldcast.config import DIFFUSION_PRESETS, TINY_AUTOENCODER
from ldcast.data.crops import read_window
from ldcast.data.event import Field, RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.fields import FieldNeed, fields_at
from ldcast.data.pickers import Window
from ldcast.data.readers.specs import read_event
from ldcast.data.synthetic import synthetic_event
from ldcast.diffusion.windows import cover
from ldcast.errors import InputError, run_script
from ldcast.forecasting.feed import FrameFeed
from ldcast.frames import FrameConfig
from ldcast.inputs.carried_frames import CarriedFrames
from ldcast.inputs.carried_prognosis import CarriedPrognosis
from ldcast.inputs.carried_rain import CarriedRain
from ldcast.inputs.known import (
    FieldKind,
    Known,
    LatentGrid,
    Observed,
    fields_of,
    known_at_issue_time,
)
from ldcast.inputs.registry import INPUTS, build_inputs
from ldcast.motion import far_motion, follow_upstream, motion_of_known
from ldcast.nowcast.ldcast import build
from ldcast.nowcast.model_folder import read_description
from ldcast.tools.footprint import count, diffusion_pass
from ldcast.verification import cases, forecasters, scoring
from ldcast.verify import main as verify


class WetShare:
    """Derived, beside the past: the share of each cell that was wet."""

    beside = "past"
    fields: ClassVar = {}
    margin = 0

    def num_channels(self, latent_channels: int) -> int:
        return 1

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        is_wet = observed.domain(observed.past)[:, None] >= 0.1
        return grid.average(is_wet.float())


class Orography:
    """External, beside the future, without change: height in km; where it is not known, 0."""

    beside = "future"
    fields: ClassVar = {"height": FieldKind(times="none")}
    margin = 0

    def num_channels(self, latent_channels: int) -> int:
        return 1

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        height = observed.domain(observed.fields["height"])[:, 0][:, :, None]  # (B, 1, 1, H, W)
        return grid.average(height / 1000)


class Wind:
    """External, beside the future, a vector that changes: of the frames to come."""

    beside = "future"
    fields: ClassVar = {"wind": FieldKind(num_channels=2)}
    margin = 0

    def num_channels(self, latent_channels: int) -> int:
        return 2

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        wind = observed.domain(observed.fields["wind"])[
            :, grid.frames.past_frames :
        ]  # (B, F, 2, H, W)
        return grid.average(wind.transpose(1, 2) / 10)


class Lightning:
    """External, beside the past, observed: so it is known up to the issue time."""

    beside = "past"
    fields: ClassVar = {"lightning": FieldKind(times="past")}
    margin = 0

    def num_channels(self, latent_channels: int) -> int:
        return 2

    def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
        strikes = observed.domain(observed.fields["lightning"]).transpose(1, 2)  # (B, 1, F, H, W)
        assert strikes.shape[2] == grid.frames.past_frames
        return torch.cat([grid.average(strikes), grid.known_share(strikes)], dim=1)


NEW = {"wet_share": WetShare, "orography": Orography, "wind": Wind, "lightning": Lightning}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The line that a new input takes."""
    for name, kind in NEW.items():
        monkeypatch.setitem(INPUTS, name, kind)


def model_with(*inputs: str) -> LDCast:
    """Random weights, which make a difference of every input."""
    torch.manual_seed(1)
    model = build(replace(tiny_config(), inputs=inputs))
    for parameter in model.latent_nowcaster.denoiser.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn_like(parameter)
    return model.eval()


def fields(height: int = 32, width: int = 48, num_frames: int = 24) -> dict[str, Tensor]:
    """What `Orography` and `Wind` need."""
    generator = torch.Generator().manual_seed(5)
    return {
        "height": 2000 * torch.rand(1, 1, height, width, generator=generator),
        "wind": 10 * torch.randn(num_frames, 2, height, width, generator=generator),
    }


def event_with_fields(num_frames: int = 60, later: int = 20, size: int = 64) -> RainEvent:
    """Synthetic rain, a height, and a wind that goes on for `later` frames."""
    event = synthetic_event(2, num_frames, size, size)
    given = fields(size, size, num_frames + later)
    time = event.time[0] + np.timedelta64(5, "m") * np.arange(num_frames + later)
    return replace(
        event,
        fields={
            "height": Field(given["height"].numpy()),
            "wind": Field(given["wind"].numpy(), time),
        },
    )


# ---- forecasts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [("wet_share",), ("orography", "wind"), ("carried_rain",)])
def test_inputs_are_saved_and_change_the_forecast(inputs, tmp_path) -> None:
    model = model_with(*inputs)
    given = fields()
    forecast = model.predict(rain(), 2, fields=given)
    model.save_pretrained(tmp_path)
    assert read_description(tmp_path).model.inputs == inputs
    loaded = LDCast.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(loaded.predict(rain(), 2, fields=given), forecast)
    for name in inputs:  # without its content, another forecast
        model.latent_nowcaster.inputs[name] = blank(model.latent_nowcaster.inputs[name])
    assert not torch.allclose(model.predict(rain(), 2, fields=given), forecast, atol=0.1)


def blank(given):
    """An input of the same shape, all zeros."""

    class Blank(type(given)):
        def __call__(self, observed: Observed, grid: LatentGrid) -> Tensor:
            return torch.zeros_like(super().__call__(observed, grid))

    return Blank()


def test_members_do_not_depend_on_their_batch_even_beyond_the_first_stretch() -> None:
    model = model_with("wet_share", "carried_rain", "orography", "wind")
    given = fields(num_frames=44)
    together = model.predict(rain(), 3, fields=given, lead_minutes=200)
    one_by_one = model.predict(rain(), 3, fields=given, lead_minutes=200, members_per_batch=1)
    torch.testing.assert_close(one_by_one, together, rtol=1e-3, atol=1e-3)
    alone = model.predict(rain(), 1, fields=given, lead_minutes=200, first_member=2)
    torch.testing.assert_close(alone[0], together[2], rtol=1e-3, atol=1e-3)


def test_later_frames_of_a_field_belong_to_later_stretches() -> None:
    model, given = model_with("wind"), fields(num_frames=44)
    forecast = model.predict(rain(), 1, fields=given, lead_minutes=200)
    other = given | {"wind": given["wind"].clone()}
    other["wind"][24:] = 0.0
    changed = model.predict(rain(), 1, fields=other, lead_minutes=200)
    assert torch.equal(changed[:, :20], forecast[:, :20])
    assert not torch.allclose(changed[:, 20:], forecast[:, 20:], atol=0.1)


def test_windows_see_their_part_of_each_input() -> None:
    z_past, height = torch.randn(1, 4, 1, 16, 24), torch.randn(1, 1, 1, 16, 24)
    known = Known(z_past, {"share": z_past[:, :1]}, {"height": height})
    windows = cover(16, 24, 8)
    cut = known.cut(windows)
    for index, window in enumerate(windows):
        assert torch.equal(cut.z_past[index], window.cut(z_past)[0])
        assert torch.equal(cut.past["share"][index], window.cut(z_past)[0, :1])
        assert torch.equal(cut.future["height"][index], window.cut(height)[0])
    model = model_with("wet_share", "orography", "wind")
    forecast = model.predict(rain(96, 64), 1, fields=fields(96, 64), window=64)
    assert torch.isfinite(forecast).all()


def test_networks_are_as_wide_as_the_inputs_are() -> None:
    networks = model_with("wet_share", "carried_rain", "wind").latent_nowcaster
    assert networks.conditioner.proj.in_channels == 4 + 1
    assert networks.denoiser.enter[0].in_channels == 4 + (4 + 1) + 2
    without = tiny_model().latent_nowcaster
    assert without.conditioner.proj.in_channels == without.denoiser.enter[0].in_channels == 4


def test_an_input_that_is_not_registered_forecasts_but_is_not_saved(tmp_path, monkeypatch) -> None:
    model = model_with("wet_share")
    monkeypatch.delitem(INPUTS, "wet_share")
    assert torch.isfinite(model.predict(rain(), 1)).all()
    with pytest.raises(InputError, match="add a line for it to INPUTS"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("carried_rian",), "unknown input carried_rian: did you mean carried_rain"),
        (("wind", "wind"), "expected each of them once"),
    ],
)
def test_bad_names_are_refused(names, message) -> None:
    with pytest.raises(InputError, match=message):
        replace(tiny_config(), inputs=names)
    with pytest.raises(InputError, match=message):
        build_inputs(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wind": None}, "takes the input field wind, got height"),
        ({"wind": torch.zeros(23, 2, 32, 48)}, "ends 95 minutes after .* expected 100"),
        ({"wind": torch.zeros(24, 1, 32, 48)}, "wind is one number .* expected a vector"),
        ({"wind": torch.zeros(1, 2, 32, 48)}, "wind is a vector .* without a time, expected"),
        ({"height": torch.zeros(24, 1, 32, 48)}, "height is one .* each frame, expected"),
        ({"wind": np.array(["a"])}, "the field wind: got <U1, expected an array"),
        ({"wind": torch.zeros(24, 2, 32, 48, dtype=torch.complex64)}, "got torch.complex64"),
        ({"wind": torch.zeros(24, 2, 32, 40)}, r"expected \(F, c, 32, 48\)"),
    ],
)
def test_fields_that_are_missing_or_end_too_soon_are_refused(change, message) -> None:
    given = {name: value for name, value in (fields() | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        model_with("orography", "wind").predict(rain(), 1, fields=given)


def test_what_is_observed_is_asked_for_up_to_the_issue_time_only(tmp_path) -> None:
    model = model_with("lightning")
    event = event_with_fields(num_frames=4, later=0)
    strikes = np.random.default_rng(0).poisson(0.5, (4, 64, 64)).astype(np.int16)
    path = tmp_path / "event.npz"
    np.savez(path, rain_rate=event.rain_rate, time=event.time, lightning=strikes)
    model.save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--data", str(path), "--members", "1"]
    assert run_script(lambda: infer.main([*arguments, "--out", str(tmp_path / "f.npz")])) == 0
    rain_rate = np.load(tmp_path / "f.npz")["rain_rate"]
    given = {"lightning": torch.from_numpy(strikes)[:, None]}
    past = torch.from_numpy(event.rain_rate)
    assert np.array_equal(rain_rate, model.predict(past, 1, fields=given).numpy())
    blank = {"lightning": torch.zeros(4, 1, 64, 64)}
    assert not np.allclose(rain_rate, model.predict(past, 1, fields=blank), atol=0.1)
    with pytest.raises(InputError, match=r"lightning is observed.*no more than 100 minutes"):
        model.predict(past, 1, fields=given, lead_minutes=105)


@pytest.mark.parametrize("size", [(32, 48), (30, 41)])
def test_an_input_that_is_not_finite_is_named(size, monkeypatch) -> None:
    monkeypatch.setattr(
        Orography,
        "__call__",
        lambda self, observed, grid: grid.average(observed.fields["height"][:, 0][:, :, None] / 0),
    )
    with pytest.raises(InputError, match="input orography, made of height, has values that are"):
        model_with("orography").predict(rain(*size), 1, fields=fields(*size))


def test_what_is_not_known_does_not_count_in_a_mean() -> None:
    """Beyond a domain of 30 x 41 pixels, padded to 32 x 48, nothing is known."""
    grid = LatentGrid(as_it_is, 4, FrameConfig())
    values = torch.full((1, 1, 1, 8, 8), 3.0)
    values[..., 6:, :] = torch.nan
    values[..., :4, 4:] = torch.nan
    assert grid.average(values)[0, 0, 0].tolist() == [[3, 0], [3, 3]]
    assert grid.known_share(values)[0, 0, 0].tolist() == [[1, 0], [0.5, 0.5]]
    model, given = model_with("orography", "wind"), fields(30, 41)
    assert torch.isfinite(model.predict(rain(30, 41), 1, fields=given)).all()


def test_inputs_may_share_a_field_but_not_disagree_on_it() -> None:
    class Later(Lightning):
        fields: ClassVar = {"lightning": FieldKind(times="all")}

    frames = FrameConfig()
    both = fields_of({"a": Lightning(), "b": Lightning()}, frames)
    assert both == {"lightning": FieldNeed(1, 4)}
    with pytest.raises(InputError, match="two inputs need the field lightning"):
        fields_of({"a": Lightning(), "b": Later()}, frames)


def test_arrays_of_any_layout_are_taken_and_masked_means_not_known() -> None:
    model, given = model_with("orography"), fields()["height"].numpy()
    expected = model.predict(rain(), 1, fields={"height": given})
    for same in (given.astype(">f4"), given[:, :, ::-1][:, :, ::-1], given.astype(np.float64)):
        assert torch.equal(model.predict(rain(), 1, fields={"height": same}), expected)
    hidden = np.where(given > 1000, -9999, given)
    unknown = np.where(given > 1000, np.nan, given)
    masked = np.ma.array(hidden, mask=given > 1000)
    found = [model.predict(rain(), 1, fields={"height": each}) for each in (masked, unknown)]
    assert torch.equal(*found) and not torch.equal(found[0], expected)
    whole = given.round().astype(">i4")
    assert torch.equal(
        model.predict(rain(), 1, fields={"height": whole}),
        model.predict(rain(), 1, fields={"height": whole.astype(np.float32)}),
    )


# ---- carried rain --------------------------------------------------------------------------------


def as_it_is(rain_rate: Tensor) -> Tensor:
    """Cells' means in place of latents, with 0 for no data."""
    return torch.nn.functional.avg_pool3d(rain_rate.nan_to_num(nan=0.0), 4)


def moving_rain(margin: int = 0) -> Tensor:
    """(1, 24, 96, 96) + margin: blobs that move 2 pixels down and 3 left in each frame."""
    generator = torch.Generator().manual_seed(3)
    size = 96 + 2 * margin
    field = torch.randn(1, 1, size + 120, size + 120, generator=generator)
    for _ in range(3):
        field = torch.nn.functional.avg_pool2d(field, 9, 1, 4)
    field = (40 * field[0, 0]).clamp(min=0)
    frames = [field[60 - 2 * k : 60 - 2 * k + size, 3 * k : 3 * k + size] for k in range(24)]
    return torch.stack(frames)[None]


def test_carried_rain_is_the_rain_to_come_where_it_is_known() -> None:
    rain_rate = moving_rain()
    grid = LatentGrid(as_it_is, 4, FrameConfig())
    known = known_at_issue_time(Observed(rain_rate[:, :4]), grid, {"carried_rain": CarriedRain()})
    given = known.future["carried_rain"]
    assert given.shape == (1, 2, 5, 24, 24)
    share, truth = given[:, 1:], as_it_is(rain_rate[:, None, 4:])
    is_known = share == 1
    # It comes from above and from the right, 2 and 3 pixels a frame, so that after 20 frames 40
    # rows and 60 columns are unknown.
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[10:, :9] = True
    assert torch.equal(is_known[0, 0, -1], expected)
    assert (share[0, 0, :, :8] == 0).any(1).any(1).tolist() == [False, True, True, True, True]
    error = (given[:, :1] - truth)[is_known].abs().mean() / truth[is_known].mean()
    assert error < 0.02


@pytest.mark.parametrize(("down", "right"), [(1, 2), (3, -1)])
def test_carried_rain_of_a_crop_that_moves_is_its_rain_to_come(down: int, right: int) -> None:
    """In the domain it moves 2 pixels down and 3 left, in the crop by those less the crop's own."""
    frames, margin = FrameConfig(), 16
    domain = moving_rain(margin=60)[0]
    event = RainEvent(domain.numpy(), np.datetime64(0, "s") + 300 * np.arange(24))
    window = Window(0, 0, 60 - 12 * down, 60 - 12 * right, down=down, right=right)
    rain_rate = read_window([event], window, 24, 96, margin=margin).rain_rate
    motion = motion_of_known(rain_rate[0, :4], frames.minutes_per_frame).mean(dim=(1, 2))
    torch.testing.assert_close(motion, torch.tensor([2.0 - down, -3.0 - right]), atol=0.1, rtol=0)
    observed = Observed(rain_rate[:, :4], margin=margin)
    grid = LatentGrid(as_it_is, 4, frames)
    given = known_at_issue_time(observed, grid, {"c": CarriedRain()}).future["c"]
    truth = as_it_is(observed.domain(rain_rate[:, None, 4:]))
    is_known = given[:, 1:] == 1
    assert is_known[:, :, -1].float().mean() > 0.1
    error = (given[:, :1] - truth)[is_known].abs().mean() / truth[is_known].mean()
    assert error < 0.03


def test_surroundings_tell_what_comes_in() -> None:
    rain_rate = moving_rain(margin=40)
    grid, inputs = LatentGrid(as_it_is, 4, FrameConfig()), {"carried_rain": CarriedRain()}
    around = known_at_issue_time(Observed(rain_rate[:, :4], margin=40), grid, inputs)
    crop = Observed(Observed(rain_rate, margin=40).domain(rain_rate[:, :4]))
    alone = known_at_issue_time(crop, grid, inputs)
    assert torch.equal(around.z_past, alone.z_past)
    share = [known.future["carried_rain"][:, -1] for known in (around, alone)]
    assert share[0].mean() > 0.8 > 0.7 > share[1].mean()
    truth = as_it_is(Observed(rain_rate, margin=40).domain(rain_rate[:, None, 4:]))
    error = (around.future["carried_rain"][:, :-1] - truth)[:, :, -1].abs().mean()
    assert error < 0.25 * truth[:, :, -1].mean()


@pytest.mark.parametrize("name", ["carried_rain", "carried_prognosis"])
@pytest.mark.parametrize("size", [(96, 96), (380, 96)])
def test_padding_and_unknown_surroundings_change_nothing(size, name) -> None:
    """A domain of 380 pixels padded to 384 would have two blocks of motion instead of one."""
    grid, inputs = LatentGrid(as_it_is, 4, FrameConfig()), build_inputs([name])
    past = moving_rain(margin=150)[:, :4, : size[0], : size[1]]

    def carried(past: Tensor, margin: int = 0) -> Tensor:
        return known_at_issue_time(Observed(past, margin=margin), grid, inputs).future[name]

    alone = carried(past)
    padded = torch.nn.functional.pad(past, (0, 12, 0, 4), value=torch.nan)
    rows, columns = (pixels // 4 for pixels in size)
    torch.testing.assert_close(carried(padded)[..., :rows, :columns], alone, rtol=1e-4, atol=1e-4)
    around = torch.nn.functional.pad(past, (8, 8, 8, 8), value=torch.nan)
    torch.testing.assert_close(carried(around, margin=8), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["carried_rain", "carried_prognosis"])
def test_rain_of_no_data_at_all_is_not_known(name) -> None:
    grid, inputs = LatentGrid(as_it_is, 4, FrameConfig()), build_inputs([name])
    nothing = torch.full((1, 4, 16, 16), torch.nan)
    given = known_at_issue_time(Observed(nothing), grid, inputs).future[name]
    assert (given == 0).all()


def test_a_prognosis_is_what_is_left_of_rain_that_is_carried() -> None:
    """Of rain that moves and stays as it is all is left, but for the margin's far end."""
    margin, frames = 40, FrameConfig()
    rain_rate = moving_rain(margin)
    grid, observed = LatentGrid(as_it_is, 4, frames), Observed(rain_rate[:, :4], margin=margin)
    inputs = {"prognosis": CarriedPrognosis(), "frames": CarriedFrames()}
    known = known_at_issue_time(observed, grid, inputs)
    left, deviation = known.future["prognosis"].split(1, dim=1)
    truth = as_it_is(observed.domain(rain_rate[:, None, 4:]))
    is_known = known.future["frames"][:, 1:2] == 1
    assert (left - truth)[is_known].abs().mean() < 0.1 * truth[is_known].mean()
    assert (deviation >= 0).all()

    noise = torch.rand(4, *rain_rate.shape[2:], generator=torch.Generator().manual_seed(0))
    noisy = known_at_issue_time(Observed(rain_rate[:, :4] * noise, margin=margin), grid, inputs)
    assert noisy.future["prognosis"][:, 1].mean() > 1.5 * deviation.mean()


def test_inputs_share_one_estimate_of_the_motion(monkeypatch) -> None:
    calls = []

    def counted(past: Tensor, minutes: int) -> Tensor:
        calls.append(minutes)
        return motion_of_known(past, minutes)

    monkeypatch.setattr("ldcast.inputs.known.motion_of_known", counted)
    names = ["carried_rain", "carried_frames", "carried_prognosis"]
    grid, past = LatentGrid(as_it_is, 4, FrameConfig()), moving_rain(margin=40)[:, :4]
    known_at_issue_time(Observed(torch.cat([past, past])), grid, build_inputs(names))
    assert calls == [5, 5]  # one for each domain


@pytest.mark.parametrize("minutes", [5, 10])
@pytest.mark.parametrize("name", ["carried_frames", "carried_prognosis"])
def test_after_an_hour_rain_has_come_with_the_motion_of_its_surroundings(
    name: str, minutes: int, monkeypatch
) -> None:
    """All that moves is a band of 128 columns, by 2 pixels a frame to the right."""
    motion = torch.zeros(2, 128, 512)
    motion[1, :, 192:320] = 2.0
    monkeypatch.setattr("ldcast.inputs.known.motion_of_known", lambda past, minutes: motion)
    followed = []

    def counted(*arguments):
        followed.append(follow_upstream(*arguments))
        return followed[-1]

    monkeypatch.setattr("ldcast.inputs.known.follow_upstream", counted)
    frames = FrameConfig(minutes_per_frame=minutes)
    grid, inputs = LatentGrid(as_it_is, 4, frames), build_inputs([name, "carried_rain"])
    past = torch.rand(1, 4, 128, 512, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        known_at_issue_time(Observed(past), grid, inputs)
    assert len(followed) == 1  # for all inputs
    assert followed[0].dtype == torch.float32
    moved = 310 - followed[0][:, 1, 64, 310]
    num_near, num_far = 30 // minutes, 60 // minutes
    torch.testing.assert_close(moved[:num_near], 2.0 * torch.arange(1.0, num_near + 1))
    far = far_motion(past[0], motion)[1, 64, 310].item()
    assert 0.9 < far < 1.3
    assert moved[num_far - 1].item() == pytest.approx(far * num_far, rel=0.1)


def test_rain_without_a_motion_stands_still() -> None:
    past = torch.zeros(1, 4, 16, 16)
    past[0, 3, 4:8, 8:12] = 4.0
    grid, inputs = LatentGrid(as_it_is, 4, FrameConfig()), {"carried_rain": CarriedRain()}
    given = known_at_issue_time(Observed(past), grid, inputs).future["carried_rain"]
    expected = torch.zeros(5, 4, 4)
    expected[:, 1, 2] = 4.0
    torch.testing.assert_close(given[0, 0], expected, atol=1e-4, rtol=0)
    assert (given[0, 1] == 1).all()


# ---- training and scripts ------------------------------------------------------------------------


def test_it_is_trained_verified_and_forecast_with(autoencoder_run, tmp_path, capsys) -> None:
    path = tmp_path / "event.npz"
    write_event(event_with_fields(), path)
    stage = Stage("diffusion", path, autoencoder_run)
    names = "wet_share,carried_rain,orography,wind"
    out = stage.run(tmp_path / "run", 2, "--inputs", names)
    assert ",".join(read_description(out).model.inputs) == names
    assert "not used" not in capsys.readouterr().out

    arguments = ["--model", str(out), "--data", str(path), "--steps", "2", "--members", "1"]
    assert run_script(lambda: infer.main([*arguments, "--out", str(tmp_path / "f.npz")])) == 0
    assert np.load(tmp_path / "f.npz")["rain_rate"].shape == (1, 20, 64, 64)
    shown = ["--model", str(out), "--data", str(path), "--out", str(tmp_path / "verify")]
    shown += ["--cases", "1", "--members", "2", "--crop-size", "32", "--steps", "2"]
    assert run_script(lambda: verify(shown)) == 0

    capsys.readouterr()
    arguments += ["--out", str(tmp_path / "later.npz"), "--lead-minutes", "105"]
    assert run_script(lambda: infer.main(arguments)) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "wind ends too soon" in error[0]
    assert not (tmp_path / "later.npz").exists()


def test_events_without_the_field_are_refused_in_one_line(
    autoencoder_run, event_path, tmp_path, capsys
) -> None:
    stage = Stage("diffusion", event_path, autoencoder_run)
    line = stage.fails(capsys, tmp_path / "run", "--inputs", "orography")
    assert "has no height, which the model takes" in line and not (tmp_path / "run").exists()
    model_with("orography").save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--data", str(event_path)]
    assert run_script(lambda: infer.main([*arguments, "--out", str(tmp_path / "f.npz")])) == 2
    assert "has no height" in capsys.readouterr().err
    verified = [*arguments, "--out", str(tmp_path / "v"), "--cases", "1", "--crop-size", "32"]
    assert run_script(lambda: verify([*verified, "--members", "2"])) == 2
    assert "has no height" in capsys.readouterr().err


def test_fields_that_a_model_does_not_take_are_said(tmp_path, capsys) -> None:
    write_event(event_with_fields(num_frames=4), tmp_path / "event.npz")
    tiny_model().save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "event.npz")]
    infer.main([*arguments, "--out", str(tmp_path / "f.npz"), "--members", "1"])
    assert "its arrays height, wind are not used" in capsys.readouterr().out


def test_a_kept_forecast_is_not_taken_for_other_fields(tmp_path) -> None:
    model_with("orography").save_pretrained(tmp_path / "model")
    device, path = torch.device("cpu"), str(tmp_path / "model")
    forecaster = forecasters.model_forecaster(path, 1, 2, device, "off")
    event = event_with_fields()
    case = cases.draw_cases([event], FrameConfig(), 1, 32, 0)[0]
    past, _, given = scoring.read_case([event], case, 32, device, forecaster.fields)
    cache = forecasters.ForecastCache(tmp_path / "cache")
    first = cache(forecaster, past, case, given).members
    other = cache(forecaster, past, case, {"height": given["height"] + 5000}).members
    assert not torch.allclose(first, other, atol=0.1)
    assert torch.equal(cache(forecaster, past, case, given).members, first)


def test_memory_is_counted_with_the_inputs() -> None:
    settings = DIFFUSION_PRESETS["tiny"]
    without, with_inputs = (
        count(
            lambda inputs=inputs: diffusion_pass(
                replace(settings, inputs=inputs), TINY_AUTOENCODER
            ),
            *(2, 32, "off", False),
        )
        for inputs in ((), ("carried_rain", "orography"))
    )
    # The first convolution has six more input channels for 8 output channels and 27 cells.
    assert with_inputs.parameters - without.parameters == 6 * 8 * 27
    assert with_inputs.passes > without.passes


def test_the_files_of_an_event_keep_its_fields(tmp_path) -> None:
    event = event_with_fields(num_frames=5)
    write_event(event, tmp_path / "e.npz")
    again = read_event(tmp_path / "e.npz")
    assert again.notes == () and list(again.fields) == ["height", "wind"]
    for name, field in event.fields.items():
        assert np.array_equal(again.fields[name].values, field.values)
        assert np.array_equal(again.fields[name].time, field.time)


def test_weights_of_other_inputs_are_refused_in_one_line(
    autoencoder_run, event_path, tmp_path, capsys
) -> None:
    stage = Stage("diffusion", event_path, autoencoder_run)
    tiny_model().save_pretrained(tmp_path / "model")
    more = ["--init", str(tmp_path / "model"), "--inputs", "wet_share"]
    line = stage.fails(capsys, tmp_path / "run", *more)
    assert "got --inputs wet_share for the weights of --init, which take none" in line


def test_a_feed_keeps_what_the_model_takes_and_from_its_own_time_on(tmp_path) -> None:
    event = event_with_fields(num_frames=6, later=24)
    for index in range(6):
        one = event.select(np.array([index]))
        wind = event.fields["wind"]
        foreseen = Field(wind.values[: index + 25] + index, wind.time[: index + 25])
        fields = event.fields | {"wind": foreseen}
        write_event(replace(one, fields=fields), tmp_path / f"{index}.npz")
    feed = FrameFeed(tmp_path, read_event, FrameConfig(), 5, print, ("wind",))
    feed.look()  # which files there are
    while feed.look():
        pass
    past = feed.event(feed.due()[0])
    assert list(past.fields) == ["wind"]  # not the height
    times = past.time[-1] + np.timedelta64(5, "m") * np.arange(-3, 21)
    found = fields_at(past, {"wind": FieldNeed(2, 24)}, times)["wind"]
    # Each past frame has that of its own file, the newest file tells what is to come.
    offset = np.array([2, 3, 4, *[5] * 21])[:, None, None, None]
    np.testing.assert_allclose(found, event.fields["wind"].values[2:26] + offset, rtol=1e-6)
    kept = feed._images[past.time[0]].event.fields["wind"]
    assert len(kept.time) == 25 and kept.time[0] == past.time[0]


def test_a_dataarray_of_rain_does_not_bring_fields() -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    with pytest.raises(InputError, match="takes height besides rain"):
        model_with("orography").predict_xarray(xarray.DataArray(rain().numpy()))


@pytest.mark.parametrize("shift", [-7, 7])
def test_a_feed_with_seconds_takes_fields_of_whole_minutes(shift, tmp_path) -> None:
    event, off = event_with_fields(num_frames=5, later=24), np.timedelta64(shift, "s")
    for index in range(5):
        one = event.select(np.array([index]))
        write_event(replace(one, time=one.time + off), tmp_path / f"{index}.npz")
    feed = FrameFeed(tmp_path, read_event, FrameConfig(), 5, print, ("wind",))
    feed.look()
    while feed.look():
        pass
    past = feed.event(feed.due()[0])
    assert past.time[-1] == event.time[-1]
    times = past.time[-1] + np.timedelta64(5, "m") * np.arange(-3, 21)
    found = fields_at(past, {"wind": FieldNeed(2, 24)}, times)["wind"]
    np.testing.assert_allclose(found, event.fields["wind"].values[1:25])


def images(rain_rate: Tensor) -> Tensor:
    """Each of 4 images as a channel of its own: (B, 4, L, h, w)."""
    cells = rain_rate.nan_to_num(nan=0.0).unflatten(2, (-1, 4))[:, 0].transpose(1, 2)
    return torch.nn.functional.avg_pool3d(cells, (1, 4, 4))


def test_both_carried_frames_are_the_rain_to_come_where_all_of_it_moves_alike() -> None:
    rain_rate = moving_rain()
    grid = LatentGrid(as_it_is, 4, FrameConfig())
    inputs = {"carried_frames": CarriedFrames(), "carried_rain": CarriedRain()}
    known = known_at_issue_time(Observed(rain_rate[:, :4]), grid, inputs)
    given, alone = known.future.values()
    assert given.shape == (1, 4, 5, 24, 24)
    truth = as_it_is(rain_rate[:, None, 4:])
    for newer_or_older in given.split(2, dim=1):
        is_known = newer_or_older[:, 1:] == 1
        assert 0.4 < is_known.float().mean() < 0.9
        error = (newer_or_older[:, :1] - truth)[is_known].abs().mean() / truth[is_known].mean()
        assert error < 0.02
    assert given[:, 3:].sum() < given[:, 1:2].sum()  # the older one has come further
    is_known = alone[:, 1:] == 1  # of the newest frame it is the carried rain
    torch.testing.assert_close(given[:, 1:2], alone[:, 1:])
    torch.testing.assert_close(given[:, :1][is_known], alone[:, :1][is_known])


def test_carried_frames_tell_what_has_lasted() -> None:
    """Resting rain that doubles from image to image: what it was last, and what before."""
    past = torch.full((1, 4, 32, 32), 1.0) * 2.0 ** torch.arange(4)[None, :, None, None]
    inputs = {"carried_frames": CarriedFrames()}
    known = known_at_issue_time(Observed(past), LatentGrid(images, 4, FrameConfig()), inputs)
    given = known.future["carried_frames"][0, :, :, 4, 4]
    torch.testing.assert_close(given[:4], torch.full((4, 5), 8.0))
    torch.testing.assert_close(given[5:9], torch.full((4, 5), 4.0))
    torch.testing.assert_close(given[[4, 9]], torch.ones(2, 5))


def test_carried_frames_see_a_mirror_beyond_the_data_and_say_that_it_is_one() -> None:
    """Even rain that comes in from the left, with nothing known of its surroundings."""
    rain_rate = moving_rain()[:, :4] + 3
    padded = torch.nn.functional.pad(rain_rate, (16, 16, 16, 16), value=torch.nan)
    grid, inputs = LatentGrid(as_it_is, 4, FrameConfig()), {"carried_frames": CarriedFrames()}
    for observed in (Observed(rain_rate), Observed(padded, margin=16)):
        given = known_at_issue_time(observed, grid, inputs).future["carried_frames"]
        for newer_or_older in given.split(2, dim=1):
            cells, share = newer_or_older.unbind(1)
            assert (share == 0).any() and (cells >= 3).all()


def test_the_order_in_which_inputs_arrive_changes_nothing() -> None:
    """A pool lists its files by name; the networks take inputs in the order of the config."""
    values = {name: torch.randn(1, 1, 1, 2, 2) for name in ("zebra", "ant")}
    known = Known(torch.zeros(1, 1, 1, 2, 2), {}, values)
    for names in (("zebra", "ant"), ("ant", "zebra")):
        got = known.in_order(names).for_denoiser(1)
        torch.testing.assert_close(got, torch.cat([values[name] for name in names], dim=1))
    networks = model_with("carried_rain", "orography").latent_nowcaster
    mixed = {"orography": torch.randn(1, 1, 5, 4, 4), "carried_rain": torch.randn(1, 5, 5, 4, 4)}
    z, step = torch.randn(1, 4, 5, 4, 4), torch.tensor([500])
    z_past = torch.randn(1, 4, 1, 4, 4)
    torch.manual_seed(0)
    for parameter in networks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    answers = [
        networks.denoiser_given(Known(z_past, {}, dict(order)))(z, step).output
        for order in (mixed.items(), reversed(mixed.items()))
    ]
    torch.testing.assert_close(answers[0], answers[1])


def test_the_inputs_that_are_gone_say_what_took_their_place() -> None:
    with pytest.raises(InputError, match="carried_past, which carried_frames has replaced"):
        build_inputs(("carried_rain", "carried_past"))
    with pytest.raises(InputError, match="with --inputs carried_frames,carried_prognosis"):
        build_inputs(("carried_scales",))
