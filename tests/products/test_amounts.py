"""Sums of a forecast: which windows there are, what falls in them, and how files hold it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldcast.errors import InputError
from ldcast.products.accumulate import accumulate, check_windows
from ldcast.products.files import read_forecast, write_forecast
from ldcast.products.forecast import Forecast
from ldcast.products.statistics import ensemble_statistics
from ldcast.products.summary import summarise

ISSUE = np.datetime64("2016-07-11T22:00:00")
HEIGHT, WIDTH = 12, 20
LEADS = np.arange(5, 65, 5)


def forecast_of(rain_rate: np.ndarray, **changes) -> Forecast:
    """Members (E, 12, H, W) mm/h to +60 minutes."""
    made = dict(
        rain_rate=rain_rate.astype(np.float32), issue_time=ISSUE, lead_minutes=LEADS, grid={},
        seed=0, model="bundled", sampler="one_call", num_sampling_steps=1,
    )  # fmt: skip
    return Forecast(**made | changes)


@pytest.fixture
def forecast() -> Forecast:
    """Rain that stands still, of 6 mm/h in the first half hour and 12 after it, and another member
    of twice as much; a corner without a forecast."""
    rain_rate = np.full((2, 12, HEIGHT, WIDTH), 6.0)
    rain_rate[:, 6:] = 12.0
    rain_rate[1] *= 2
    rain_rate[..., :2, :2] = np.nan
    return forecast_of(rain_rate)


def past_of(*rates: float) -> np.ndarray:
    return np.stack([np.full((HEIGHT, WIDTH), rate, np.float32) for rate in rates])


def minutes_from_issue(times: np.ndarray) -> list[int]:
    return ((times - ISSUE) / np.timedelta64(1, "m")).astype(int).tolist()


@pytest.mark.core
def test_windows_end_at_lead_times_and_hold_what_the_radar_saw(forecast: Forecast) -> None:
    amounts = accumulate(forecast, [30, 60], past_of(0, 0, 6, 6))
    assert minutes_from_issue(amounts.window_end) == [*range(15, 65, 5), 45, 50, 55, 60]
    assert amounts.minutes.tolist() == 10 * [30] + 4 * [60]
    assert amounts.is_partly_observed.tolist() == 3 * [True] + 7 * [False] + 3 * [True] + [False]
    assert amounts.rain_amount.dtype == np.float32
    assert np.isnan(amounts.rain_amount[..., :2, :2]).all()
    at = amounts.rain_amount[:, :, 5, 5]
    first = [3 * 0.5, 3 * 0.5]  # from -15 minutes on 0, 0 to 6, 6, then 6 mm/h: 15, 10, ... minutes
    begins = np.array([0, 0.25, 0.5])  # mm until the issue time, at each frame, of 5 minutes each
    assert first[0] + begins.sum() == pytest.approx(at[0, 0] + 0.0, abs=1e-6)
    assert at[0, 3] == pytest.approx(3.0)  # 30 minutes of 6 mm/h from the issue time on
    # 12 mm/h from +35 on: of the last half hour all but half of the first interval
    assert at[0, 9] == pytest.approx(6 - 0.5 * 6 * 5 / 60)
    assert at[0, 13] == pytest.approx(3 + at[0, 9])
    # Rain of the other member is twice as much, but for the newest radar image, which both share.
    assert at[1, 9] == pytest.approx(2 * at[0, 9])
    assert at[1, 13] == pytest.approx(2 * at[0, 13] - 0.5 * 6 * 5 / 60)


def test_without_the_past_windows_begin_with_the_first_lead_time(forecast: Forecast) -> None:
    amounts = accumulate(forecast, 30)
    assert minutes_from_issue(amounts.window_start) == [5, 10, 15, 20, 25, 30]
    assert not amounts.is_partly_observed.any()
    assert amounts.rain_amount[0, -1, 5, 5] == pytest.approx(6 - 0.5 * 6 * 5 / 60)
    with pytest.raises(InputError, match="got sums over 60 minutes, but the frames are of 55"):
        accumulate(forecast, 60)
    with pytest.raises(InputError, match="got no lengths of windows to sum over"):
        accumulate(forecast, [])


@pytest.mark.core
def test_members_are_followed_along_the_motion_of_the_past() -> None:
    """A band that moves 5 pixels a frame: followed it rains everywhere on its way, added in combs;
    the amount is the same."""
    columns = np.arange(160)

    def band(frame: float) -> np.ndarray:
        profile = 10 * np.exp(-((columns - 40 - 5 * frame) ** 2) / 8) + 0.5 * np.sin(columns) ** 2
        return np.tile(np.roll(profile, 0), (64, 1))

    rows = np.sin(np.arange(64) / 5)[:, None] + 2  # for a motion to be seen
    past = np.stack([rows * band(frame) for frame in range(-3, 1)]).astype(np.float32)
    rain = np.stack([rows * band(frame) for frame in range(1, 13)])[None].astype(np.float32)
    followed, added = (
        accumulate(forecast_of(rain), 60, past, is_along_motion).rain_amount[0, -1]
        for is_along_motion in (True, False)
    )
    track = slice(50, 90)
    ripple = [np.abs(np.diff(of[32, track], n=2)).mean() for of in (followed, added)]
    assert ripple[0] < 0.35 * ripple[1]
    inner = slice(20, 130)  # the band is inside all the time
    assert followed[:, inner].sum() == pytest.approx(added[:, inner].sum(), rel=0.01)


@pytest.mark.core
@pytest.mark.parametrize("suffix", [".npz", ".nc", ".zarr"])
def test_files_hold_them(forecast: Forecast, suffix: str, tmp_path: Path) -> None:
    if suffix != ".npz":
        pytest.importorskip("xarray", reason="xarray is an extra")
        pytest.importorskip("pyproj", reason="pyproj is an extra")
    amounts = accumulate(forecast, [15, 60], past_of(0, 0, 6, 6), is_along_motion=False)
    statistics = ensemble_statistics(amounts.rain_amount, (5, 10), (0.1, 0.5), use_means=True)
    whole = replace(forecast, amounts=replace(amounts, statistics=statistics))
    path = tmp_path / f"forecast{suffix}"
    write_forecast(whole, path)
    back = read_forecast(path).amounts
    assert not back.is_along_motion
    for name, values in whole.amounts.entries().items():
        np.testing.assert_array_equal(back.entries()[name], values, err_msg=name)
    write_forecast(forecast, path)
    assert read_forecast(path).amounts is None


def test_netcdf_says_what_they_are(forecast: Forecast, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is an extra")
    pytest.importorskip("pyproj", reason="pyproj is an extra")
    amounts = accumulate(forecast, 30, past_of(6, 6, 6, 6))
    statistics = ensemble_statistics(amounts.rain_amount, (5,), (0.5,))
    amounts = replace(amounts, statistics=statistics)
    write_forecast(replace(forecast, amounts=amounts), tmp_path / "forecast.nc")
    with xarray.open_dataset(tmp_path / "forecast.nc") as dataset:
        rain = dataset.rain_amount
        assert rain.dims == ("realization", "window", "y", "x")
        assert (rain.attrs["units"], rain.attrs["cell_methods"]) == ("mm", "time: sum")
        assert dataset.window_end.attrs["standard_name"] == "time"
        assert dataset.window_end.attrs["bounds"] == "window_bounds"
        bounds = np.stack([amounts.window_start, amounts.window_end], axis=1)
        assert (dataset.window_bounds.values == bounds).all()
        assert dataset.partly_observed.attrs["flag_meanings"].split()[0] == "forecast"
        assert dataset.amount_exceedance_threshold.values.tolist() == [5]
        chance = dataset.amount_exceedance_probability
        assert chance.dims == ("amount_exceedance_threshold", "window", "y", "x")
        assert chance.values[0, -1, 5, 5] == 1 and chance.values[0, 3, 5, 5] == 0.5


@pytest.mark.parametrize(
    ("lengths", "leads", "line"),
    [
        ([7], LEADS, "got sums over 7 minutes, expected multiples of 5 minutes"),
        ([30, -5], LEADS, "got sums over 30 -5 minutes, expected multiples of 5"),
        ([0], LEADS, "got sums over 0 minutes, expected multiples of 5"),
        ([30, 65], LEADS, "but the lead times end at 60: sum over no more, or forecast further"),
        ([30, 30], LEADS, "got sums over 30 30 minutes, expected each length once"),
        ([30], [5, 10, 30], "got lead times of 5 10 30 minutes, expected each multiple"),
    ],
)
def test_windows_that_there_cannot_be(lengths, leads, line: str) -> None:
    with pytest.raises(InputError, match=line):
        check_windows(lengths, leads)


def test_the_summary_says_the_most_that_falls(forecast: Forecast) -> None:
    amounts = accumulate(forecast, [30, 60], past_of(6, 6, 6, 6))
    past = past_of(6, 6, 6, 6)
    text = summarise(past, forecast.rain_rate, ISSUE, LEADS, {}, amounts=amounts)
    lines = text.splitlines()[-2:]
    assert lines == [
        "In 30 min: up to 12 mm in a member, until 23:00 UTC; up to 8.6 mm in their mean.",
        "In 60 min: up to 17 mm in a member, until 23:00 UTC; up to 13 mm in their mean.",
    ]
