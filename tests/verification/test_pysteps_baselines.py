"""Baselines of pysteps: carried the right way, in mm/h, repeatable, and finite whatever falls."""

import json
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.data.pickers import Window
from ldcast.frames import FrameConfig
from ldcast.verification.cases import Case
from ldcast.verification.forecasters import Forecaster
from ldcast.verification.pysteps_baselines import pysteps_baselines

HEIGHT, WIDTH = 64, 80
MEMBERS = 3


def make_case(seed: int = 1, pixel_km: float = 1.0) -> Case:
    issue_time = np.datetime64("2020-06-01", "s")
    return Case(Window(0, 0, 0, 0), "storm", issue_time, 0.5, seed=seed, pixel_km=pixel_km)


def both(num_members: int = MEMBERS) -> list[Forecaster]:
    """Extrapolation and STEPS."""
    # Not importorskip: it would import pysteps itself, and so print before what is tested can.
    if not (find_spec("pysteps") and find_spec("cv2")):
        pytest.skip("pysteps and opencv-python-headless make these forecasts")
    return pysteps_baselines(num_members)


def make_blob(down: float, right: float, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """(24, height, width) mm/h: one round shower that is in the middle at the issue time."""
    frame = torch.arange(-3, 21)[:, None, None]
    row = torch.arange(height)[None, :, None] - height // 2 - down * frame
    column = torch.arange(width)[None, None, :] - width // 2 - right * frame
    rain_rate = 20 * torch.exp(-(row**2 + column**2) / (2 * 5.0**2))
    return rain_rate.where(rain_rate >= 0.1, 0.0)


def make_rain(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    """(4, height, width) mm/h: patches of rain over half of the domain, 2 pixels right a frame."""
    noise = torch.randn(height, width + 6, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.fft.fft2(noise)
    row = torch.fft.fftfreq(height)[:, None]
    column = torch.fft.fftfreq(width + 6)[None]
    smooth = torch.fft.ifft2(spectrum * torch.exp(-600 * (row**2 + column**2))).real
    rain_rate = (3 * smooth / smooth.std()).relu()
    return torch.stack([rain_rate[:, 6 - 2 * k : 6 - 2 * k + width] for k in range(4)])


def centre(rain_rate: Tensor) -> tuple[float, float]:
    """Row and column of the centre of mass of (H, W)."""
    row = (rain_rate.sum(dim=1) * torch.arange(len(rain_rate))).sum() / rain_rate.sum()
    columns = torch.arange(rain_rate.shape[1])
    return row.item(), ((rain_rate.sum(dim=0) * columns).sum() / rain_rate.sum()).item()


def test_they_are_as_long_and_as_far_apart_as_the_cases_frames(monkeypatch):
    extrapolation, steps = both()
    from pysteps.nowcasts import steps as module

    asked, forecast = {}, module.forecast
    monkeypatch.setattr(module, "forecast", lambda *a, **k: asked.update(k) or forecast(*a, **k))
    frames = FrameConfig(past_frames=8, future_frames=12, minutes_per_frame=10)
    case = replace(make_case(), frames=frames)
    past = make_rain()[[0, 0, 0, 0, 0, 1, 2, 3]]
    assert extrapolation.forecast(past, case).shape == (1, 12, HEIGHT, WIDTH)
    assert steps.forecast(past, case).shape == (MEMBERS, 12, HEIGHT, WIDTH)
    assert asked["timestep"] == 10


# ---- What they forecast --------------------------------------------------------------------------


@pytest.mark.parametrize(("down", "right"), [(2.0, -1.0), (-1.5, 3.0)])
def test_a_shower_is_carried_along_its_path(down, right):
    rain_rate = make_blob(down, right, height=96, width=112)
    extrapolation, steps = both()
    for frames_ahead in (1, 10):
        expected = centre(rain_rate[3 + frames_ahead])
        carried = extrapolation.forecast(rain_rate[:4], make_case())[0, frames_ahead - 1]
        assert centre(carried) == pytest.approx(expected, abs=1)
        members = steps.forecast(rain_rate[:4], make_case())[:, frames_ahead - 1]
        assert centre(members.mean(dim=0)) == pytest.approx(expected, abs=6)


def test_extrapolation_beats_persistence_for_half_an_hour():
    rain_rate = make_blob(1.0, 2.0, height=96, width=112)
    extrapolation, _ = both()
    carried = extrapolation.forecast(rain_rate[:4], make_case())[0, :6]
    error = (carried - rain_rate[4:10]).abs().mean(dim=(1, 2))
    error_of_persistence = (rain_rate[3] - rain_rate[4:10]).abs().mean(dim=(1, 2))
    assert (error < 0.5 * error_of_persistence).all()


def test_members_are_of_the_size_and_unit_of_rain():
    past = make_rain()
    extrapolation, steps = both()
    for forecaster, num_members in ((extrapolation, 1), (steps, MEMBERS)):
        members = forecaster.forecast(past, make_case())
        assert members.shape == (num_members, 20, HEIGHT, WIDTH)
        assert members.dtype == torch.float32
        assert members.min() == 0
        assert members.max() < 2 * past[-1].max()
        assert members[:, 0].mean() == pytest.approx(past[-1].mean().item(), rel=0.2)


def test_what_comes_from_outside_is_dry_in_the_extrapolation_and_mirrored_in_steps():
    past = make_blob(0.0, 4.0).clamp(min=0.2)[:4]  # drizzle all over
    extrapolation, steps = both()
    assert (extrapolation.forecast(past, make_case())[0, -1, :, :5] == 0).all()
    assert (steps.forecast(past, make_case())[:, -1, :, :5] > 0).float().mean() > 0.5


def test_members_differ_and_spread_with_lead_time():
    _, steps = both()
    spread = steps.forecast(make_rain(), make_case()).std(dim=0).mean(dim=(1, 2))
    assert 0 < spread[0] < 0.7 * spread[5]


# ---- What they depend on -------------------------------------------------------------------------


def test_steps_repeats_itself_for_a_seed_and_leaves_the_global_one_alone():
    past, (_, steps) = make_rain(), both()
    np.random.seed(5)  # noqa: NPY002 - the state to be left alone
    expected_draw = np.random.RandomState(5).rand()
    first = steps.forecast(past, make_case(seed=1))
    assert np.random.rand() == expected_draw  # noqa: NPY002
    assert torch.equal(steps.forecast(past, make_case(seed=1)), first)
    assert not torch.equal(steps.forecast(past, make_case(seed=2)), first)


def test_the_input_is_left_as_it_is():
    past = make_rain()
    before = past.clone()
    for forecaster in both():
        forecaster.forecast(past, make_case())
    assert torch.equal(past, before)


def test_perturbed_motion_knows_the_pixel_size():
    _, steps = both()
    fine, coarse = (steps.forecast(make_rain(), make_case(pixel_km=km)) for km in (1.0, 4.0))
    assert not torch.equal(fine, coarse)


def test_identity_tells_forecasters_apart_and_can_be_written():
    identities = [json.dumps(f.identity) for n in (2, 3) for f in both(n)]
    assert len(set(identities)) == 3  # extrapolation is the same for both
    assert [forecaster.name for forecaster in both()] == ["extrapolation", "steps"]


# ---- Odd rain ------------------------------------------------------------------------------------


def only_newest(rain_rate: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(rain_rate[:3]), rain_rate[3:]])


def one_wet_pixel() -> Tensor:
    past = torch.zeros(4, HEIGHT, WIDTH)
    past[:, 30, 40] = 5.0
    return past


def one_flickering_pixel() -> Tensor:
    return one_wet_pixel() * torch.tensor([2.0, 1.0, 3.0, 0.3])[:, None, None]


def wet_edge() -> Tensor:
    past = torch.zeros(4, HEIGHT, WIDTH)
    past[:, 0] = 3.0
    return past


def all_but_a_corner_unknown(frames: slice) -> Tensor:
    past = make_rain()
    corner = past[:, :12, :12].clone()
    past[frames] = torch.nan
    past[:, :12, :12] = corner
    return past


# What STEPS can be fitted to, and what it fails for: each of its errors, and its silent dryness.
FITTED = {
    "odd size": make_rain(67, 83),
    "corner of an oldest frame": all_but_a_corner_unknown(slice(0, 1)),
    "no data in the oldest frame": torch.cat([make_rain()[:1] * torch.nan, make_rain()[1:]]),
    "no data in a middle frame": torch.where(
        torch.arange(4)[:, None, None] == 1, torch.nan, make_rain()
    ),
}
UNFITTED = {
    "dry": torch.zeros(4, HEIGHT, WIDTH),
    "nearly dry": torch.full((4, HEIGHT, WIDTH), 0.05),
    "constant": torch.full((4, HEIGHT, WIDTH), 2.0),
    "still": make_rain()[:1].repeat(4, 1, 1),
    "one wet pixel": one_wet_pixel(),
    "one flickering pixel": one_flickering_pixel(),
    "wet edge": wet_edge(),
    "rain only in the newest frame": only_newest(make_rain()),
    "no data before the newest frame": torch.cat([make_rain()[:3] * torch.nan, make_rain()[3:]]),
    "no data at all": torch.full((4, HEIGHT, WIDTH), torch.nan),
}


@pytest.mark.parametrize("name", FITTED)
def test_steps_copes_with(name):
    past = FITTED[name]
    members = both()[1].forecast(past, make_case())
    assert torch.isfinite(members).all()
    assert not torch.equal(members[0], members[1])


@pytest.mark.parametrize("name", UNFITTED)
def test_steps_is_the_extrapolation_where_it_cannot_be_fitted(name):
    past = UNFITTED[name]
    extrapolation, steps = (forecaster.forecast(past, make_case()) for forecaster in both())
    assert torch.equal(torch.isfinite(extrapolation[0]), ~past[-1].isnan().expand(20, -1, -1))
    expected = extrapolation.expand_as(steps)
    torch.testing.assert_close(steps, expected, rtol=0, atol=0, equal_nan=True)


def test_no_rain_to_track_stays_where_it_is():
    past = one_wet_pixel()
    extrapolation, _ = both()
    assert torch.equal(extrapolation.forecast(past, make_case())[0], past[-1].repeat(20, 1, 1))


def test_no_data_stays_no_data():
    past = all_but_a_corner_unknown(slice(None))
    for forecaster in both():
        members = forecaster.forecast(past, make_case())
        assert torch.isfinite(members[..., :12, :12]).all()
        assert members[..., 12:, :].isnan().all()
        assert members[..., 12:].isnan().all()


# ---- Manners -------------------------------------------------------------------------------------


def test_nothing_is_printed_nor_warned_of(capfd, monkeypatch):
    monkeypatch.delitem(sys.modules, "pysteps", raising=False)  # it prints when first imported
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rain_rate in (UNFITTED["still"], UNFITTED["constant"], make_rain()):
            for forecaster in both():
                forecaster.forecast(rain_rate, make_case())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing", ["pysteps", "cv2"])
def test_what_is_missing_is_said_at_once(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match="pip install pysteps opencv-python-headless"):
        pysteps_baselines(MEMBERS)
