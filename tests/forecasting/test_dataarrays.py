"""Forecasts from and to DataArrays."""

import sys

import numpy as np
import pytest
from tiny_models import rain, tiny_model

from ldcast.errors import InputError
from ldcast.machine.code_version import VERSION

xarray = pytest.importorskip("xarray", reason="xarray is an extra")
pytest.importorskip("pyproj", reason="pyproj is an extra")

MODEL = tiny_model()
SWISS = (
    "+proj=somerc +lon_0=7.43958333333333 +lat_0=46.9524055555556 +k_0=1 +x_0=600000 "
    "+y_0=200000 +ellps=bessel +units=m +no_defs"
)


def radar(num_frames: int = 5) -> "xarray.DataArray":
    """Rain (time, y, x) as a file of a weather service may have it: y rising, km."""
    import pyproj

    frames = np.concatenate([rain(32, 48).numpy(), rain(32, 48, seed=1).numpy()])[:num_frames]
    frames = frames.clip(max=100)
    frames[:, 0, 0] = np.nan
    time = np.datetime64("2016-07-11T22:00", "ns") + np.arange(num_frames) * np.timedelta64(5, "m")
    kilometres = {"units": "km"}
    return xarray.DataArray(
        frames[:, ::-1],
        dims=("time", "y", "x"),
        coords={
            "time": time,
            "y": (
                "y",
                0.5 + np.arange(32),
                {"standard_name": "projection_y_coordinate", **kilometres},
            ),
            "x": (
                "x",
                0.5 + np.arange(48),
                {"standard_name": "projection_x_coordinate", **kilometres},
            ),
            "crs": ((), 0, pyproj.CRS(SWISS).to_cf()),
        },
        attrs={"units": "mm/h", "standard_name": "rainfall_rate", "grid_mapping": "crs"},
    )


def test_a_dataarray_gives_a_dataarray_with_its_coordinates() -> None:
    given = radar()
    forecast = MODEL.predict_xarray(given, num_members=2, seed=3, lead_minutes=30)
    assert forecast.dims == ("realization", "time", "y", "x")
    assert forecast.attrs["units"] == "mm h-1"
    newest = given.time.values[-1]
    np.testing.assert_array_equal(forecast.time, newest + np.arange(1, 7) * np.timedelta64(5, "m"))
    np.testing.assert_allclose(forecast.x, 1000 * given.x)
    np.testing.assert_allclose(forecast.y, 1000 * given.y[::-1])
    expected = MODEL.predict(given.values[-4:, ::-1].copy(), 2, seed=3, lead_minutes=30)
    np.testing.assert_allclose(forecast.values, expected, rtol=1e-6)
    assert not forecast.second_hand.any()
    assert forecast.quality.dims == ("time", "y", "x")
    assert (forecast.quality.sel(x=500, y=31500) == 2).all()  # no data


def test_a_forecast_says_how_it_was_made() -> None:
    given = radar()
    made_by = MODEL.predict_xarray(given, 1, seed=3, num_sampling_steps=2, amp="off").attrs
    assert (made_by["seed"], made_by["num_sampling_steps"]) == (3, 2)
    assert (made_by["sampler"], made_by["network_precision"]) == ("plms", "float32")
    assert made_by["code_version"].startswith(VERSION)
    assert made_by["past_time"].split("\n")[::3] == ["2016-07-11T22:05:00", "2016-07-11T22:20:00"]


def test_times_with_seconds_are_rounded() -> None:
    given = radar()
    seconds = np.arange(given.sizes["time"]) % 3 * np.timedelta64(9, "s")
    late = given.assign_coords(time=given.time + seconds)
    settings = {"num_sampling_steps": 1, "lead_minutes": 5}
    forecast = MODEL.predict_xarray(late, 1, **settings)
    np.testing.assert_array_equal(forecast.time, MODEL.predict_xarray(given, 1, **settings).time)


def test_a_gap_that_was_filled_is_said() -> None:
    gapped = radar().copy(deep=True)
    gapped[3, :, :20] = np.nan
    with pytest.warns(UserWarning, match="Gaps in earlier images, .* of 5 min before"):
        MODEL.predict_xarray(gapped, 1, num_sampling_steps=1, lead_minutes=5)


def test_a_part_of_an_ensemble_has_the_numbers_of_its_members() -> None:
    settings = {"num_sampling_steps": 1, "lead_minutes": 5}
    whole = MODEL.predict_xarray(radar(), 3, **settings)
    part = MODEL.predict_xarray(radar(), 1, first_member=2, **settings)
    assert part.realization.values.tolist() == [2]
    assert part.realization.attrs == whole.realization.attrs
    both = whole.sel(realization=part.realization)
    np.testing.assert_allclose(both, part, rtol=1e-3, atol=1e-3)


def test_what_is_missing_is_said_before_the_work(monkeypatch) -> None:
    given = radar()
    monkeypatch.setitem(sys.modules, "pyproj", None)
    monkeypatch.setattr(MODEL, "predict", None)  # would fail if it were reached
    with pytest.raises(InputError, match="pip install pyproj"):
        MODEL.predict_xarray(given)


def test_its_projection_is_kept() -> None:
    import pyproj

    forecast = MODEL.predict_xarray(radar(), num_members=1, num_sampling_steps=1)
    mapping = forecast[forecast.attrs["grid_mapping"]]
    assert pyproj.CRS.from_wkt(mapping.attrs["crs_wkt"]).equals(
        pyproj.CRS(SWISS), ignore_axis_order=True
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda da: da.isel(time=slice(3)), "got 3 frames, expected 4"),
        (lambda da: da.to_dataset(name="rain"), "got Dataset, expected an xarray DataArray"),
        (lambda da: da.values, "got ndarray"),
        (lambda da: da.assign_attrs(units="dBZ"), "dBZ"),
        (lambda da: da.isel(time=[0, 1, 3, 4]), "expected 5"),
        (lambda da: da.drop_attrs(deep=False), "units"),
    ],
)
def test_what_is_no_rain_of_four_frames_is_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        MODEL.predict_xarray(change(radar()))


def test_rates_made_from_amounts_are_said() -> None:
    """Of an xarray Dataset's variable, which does not bring the time bounds along."""
    rates, settings = radar(), {"num_members": 1, "num_sampling_steps": 1, "lead_minutes": 5}
    amounts = (rates / 12).assign_attrs(
        units="mm", standard_name="rainfall_amount", grid_mapping="crs"
    )
    with pytest.warns(UserWarning, match="amounts of 5 minutes, the spacing of the frames") as said:
        forecast = MODEL.predict_xarray(amounts, **settings)
    assert said[0].filename == __file__
    np.testing.assert_allclose(forecast, MODEL.predict_xarray(rates, **settings), atol=1e-3)
    with pytest.raises(InputError, match="intervals of its frames overlap"):
        MODEL.predict_xarray(amounts.assign_attrs(accumulation_period="1 hour"), **settings)


def test_a_wrong_seed_is_named() -> None:
    with pytest.raises(InputError, match="got seed -1: expected one of the integers from 0"):
        MODEL.predict_xarray(radar(), num_members=1, seed=-1)
