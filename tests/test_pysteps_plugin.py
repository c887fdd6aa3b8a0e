"""LDCast inside pysteps: its calling form, its registry, and its blending."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model

from ldcast import pysteps_plugin
from ldcast.data.past import past_event
from ldcast.data.readers.specs import read_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.machine.quiet import contained

RADAR = Path(__file__).parents[2] / "shared/data/train/mch_20160711.npz"
MODEL = tiny_model()


def crop_of_rain() -> np.ndarray:
    """(4, 128, 128) mm/h: the radar's where it is at hand, with a corner of no data."""
    event = read_event(RADAR) if RADAR.exists() else synthetic_event(1, 4, 128, 128)
    past = past_event(event, FrameConfig()).rain_rate
    past = past[:, 200:328, 300:428].copy() if RADAR.exists() else past
    past[:, :10, :10] = np.nan
    return past


@pytest.fixture(scope="module")
def precip() -> np.ndarray:
    return crop_of_rain()


def test_it_is_the_models_forecast(precip) -> None:
    members = pysteps_plugin.forecast(precip, None, 12, n_ens_members=3, seed=5, model=MODEL)
    assert members.shape == (3, 12, 128, 128)
    expected = MODEL.predict(precip, 3, seed=5, lead_minutes=60)
    np.testing.assert_array_equal(members, expected)


def test_only_the_last_four_frames_count_and_masks_are_no_data(precip) -> None:
    longer = np.concatenate([np.full_like(precip[:2], 50), precip])
    masked = np.ma.masked_invalid(longer)
    members = pysteps_plugin.forecast(masked, None, 2, n_ens_members=1, model=MODEL)
    expected = pysteps_plugin.forecast(precip, None, 2, n_ens_members=1, model=MODEL)
    np.testing.assert_array_equal(members, expected)


def test_listed_time_steps_are_picked(precip) -> None:
    all_frames = pysteps_plugin.forecast(precip, None, 6, n_ens_members=1, model=MODEL)
    some = pysteps_plugin.forecast(precip, None, [1.0, 3, 6], n_ens_members=1, model=MODEL)
    np.testing.assert_array_equal(some, all_frames[:, [0, 2, 5]])


def test_a_folder_is_loaded_and_settings_reach_predict(precip, tmp_path) -> None:
    MODEL.save_pretrained(tmp_path)
    arguments = (precip, None, 1, 1)
    from_folder = pysteps_plugin.forecast(
        *arguments, model=tmp_path, device="cpu", num_sampling_steps=2, members_per_batch=1
    )
    loaded = pysteps_plugin.forecast(*arguments, model=MODEL, num_sampling_steps=2)
    np.testing.assert_allclose(from_folder, loaded, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"timestep": 10}, "time step of 10 minutes"),
        ({"seed": -1}, "got seed -1: expected one of the integers from 0 to"),
        ({"timesteps": 0}, "got timesteps 0"),
        ({"timesteps": [0.5, 1]}, "got timesteps"),
        ({"timesteps": [2, 1]}, "rising"),
        ({"timesteps": []}, "got timesteps"),
        ({"precip": np.zeros((3, 32, 32))}, "got precip of shape"),
        ({"precip": np.full((4, 32, 32), -15.0)}, "reflectivity"),
    ],
)
def test_what_cannot_be_forecast_is_refused(precip, changes, word) -> None:
    arguments = {"precip": precip, "velocity": None, "timesteps": 1, "model": MODEL}
    with pytest.raises(InputError, match=word):
        pysteps_plugin.forecast(**(arguments | changes))


# ---- with the real pysteps


def pysteps_is_there() -> None:
    with contained("pysteps"):
        pytest.importorskip("pysteps", reason="pysteps is an extra")
        pytest.importorskip("cv2", reason="pysteps tracks rain with OpenCV, an extra")


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> dict:
    """pysteps's table of methods, put back after the test."""
    pysteps_is_there()
    from pysteps.nowcasts import interface

    table = dict(interface._nowcast_methods)
    monkeypatch.setattr(interface, "_nowcast_methods", table)
    return table


def test_it_is_registered_on_request_only(methods, precip) -> None:
    from pysteps import nowcasts

    with pytest.raises(ValueError, match="Unknown nowcasting method"):
        nowcasts.get_method("ldcast")
    pysteps_plugin.register()
    pysteps_plugin.register()  # again does no harm
    method = nowcasts.get_method("ldcast")
    assert method(precip, None, 2, n_ens_members=1, model=MODEL).shape == (1, 2, 128, 128)


def test_no_method_of_pysteps_is_replaced(methods) -> None:
    with pytest.raises(InputError, match="has a method 'steps' already"):
        pysteps_plugin.register("steps")


def test_it_is_blended_with_a_weather_model(precip, tmp_path) -> None:
    """As docs/products.md has it; here the weather model has one square shower."""
    pysteps_is_there()
    from pysteps import blending
    from pysteps.motion.lucaskanade import dense_lucaskanade
    from pysteps.utils.transformation import dB_transform

    num_members, num_steps = 2, 4
    members = pysteps_plugin.forecast(precip, None, num_steps, num_members, model=MODEL)
    observed = np.broadcast_to(precip[-1], (num_members, 1, 128, 128))
    nowcast = np.concatenate([observed, members], axis=1)  # pysteps starts at the issue time

    def to_db(rain_rate: np.ndarray) -> np.ndarray:
        rain_db, _ = dB_transform(np.nan_to_num(rain_rate), threshold=0.1, zerovalue=-15.0)
        return rain_db

    model_rain = np.zeros((1, num_steps + 1, 128, 128))
    model_rain[..., 40:60, 40:60] = 0.5
    with contained("pysteps"):
        velocity = dense_lucaskanade(to_db(precip))
        blended = blending.steps.forecast(
            precip=to_db(precip[-3:]),
            precip_models=to_db(model_rain),
            velocity=velocity,
            velocity_models=np.zeros((1, num_steps + 1, 2, 128, 128)),
            timesteps=num_steps,
            timestep=5,
            issuetime=datetime(2016, 7, 12),
            n_ens_members=num_members,
            precip_nowcast=to_db(nowcast),
            nowcasting_method="external_nowcast",
            noise_method=None,
            vel_pert_method=None,
            n_cascade_levels=5,
            precip_thr=-10.0,
            kmperpixel=1.0,
            seed=1,
            outdir_path_skill=str(tmp_path),
        )
    assert blended.shape == (num_members, num_steps, 128, 128)
    assert np.isfinite(blended).all()
    # It follows the nowcast, member by member.
    for member in range(num_members):
        own, other = (
            np.corrcoef(blended[member, 0].ravel(), to_db(nowcast)[which, 1].ravel())[0, 1]
            for which in (member, 1 - member)
        )
        assert own > other
