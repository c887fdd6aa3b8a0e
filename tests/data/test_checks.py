"""Units of rain, and what becomes of values that no rain has."""

import numpy as np
import pytest

from ldcast.data.checks import (
    checked_rain_rate,
    checked_time,
    has_overlap,
    millimetres,
    mm_per_hour,
)
from ldcast.errors import InputError


@pytest.mark.parametrize(
    ("units", "rate"),
    [
        *[(units, 1) for units in ("mm/h", "mm h-1", "mm hr^-1", "mm hour**-1", "kg m-2 h-1")],
        *[(units, 3600) for units in ("mm s-1", "mm/s", "kg m-2 s-1", "kg/m2/s", "kg.m-2.s-1")],
        *[(units, 3.6e6) for units in ("m s-1", "m/s", "M S-1")],
        *[(units, 12) for units in ("mm/5min", "mm per 5 min", "mm 5min-1")],
        *[("mm/min", 60), ("mm min-1", 60), ("mm/day", 1 / 24), ("cm h-1", 10)],
        *[(units, None) for units in ("mm", "dBZ", "", "1", "K", "mm h", "m/s-1", "mm s-2")],
        *[(units, None) for units in ("mm/0min", "mm/05min", f"mm/{'9' * 400}min")],
    ],
)
def test_rates_by_their_units(units, rate):
    assert mm_per_hour(units) == rate


@pytest.mark.parametrize(
    ("units", "amount"), [("mm", 1), ("kg m-2", 1), ("m", 1000), ("mm/h", None), ("min", None)]
)
def test_amounts_by_their_units(units, amount):
    assert millimetres(units) == amount


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_impossible_rain_is_no_data_unless_it_is_common(dtype):
    rain_rate = np.full((2, 50, 25), 500, dtype)
    rain_rate[:, 0, :2] = [[np.nan, 501], [np.nan, 3000]]
    cleaned = checked_rain_rate(rain_rate.copy(), "file")
    np.testing.assert_array_equal(np.isnan(cleaned[1, 0, :3]), [True, True, False])
    assert np.isnan(cleaned).sum() == 4
    rain_rate[0, 1, 0] = 501
    message = r"file: 0\.1% of the pixels with data are above 500 mm/h, up to 3e\+03"
    with pytest.raises(InputError, match=message):
        checked_rain_rate(rain_rate, "file")


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_are_rounded_to_the_nearest_second(unit):
    exact = np.array(["1969-12-31T23:55", "1970-01-01", "2016-07-11T20:50"], "datetime64[s]")
    for jitter in (-499, 0, 499):
        time = (exact + np.timedelta64(jitter, "ms")).astype(f"datetime64[{unit}]")
        checked = checked_time(time, 3, "file")
        np.testing.assert_array_equal(checked, exact)
        assert checked.dtype == exact.dtype


@pytest.mark.parametrize(
    ("every", "sum_of", "minutes", "overlaps"),
    [(5, 5, 5, False), (5, 10, 5, True), (5, 10, 10, False), (10, 20, 10, True), (1, 1, 1, False)],
)
def test_intervals_overlap_where_frames_are_used(every, sum_of, minutes, overlaps):
    time = np.datetime64("2020-06-01", "s") + np.arange(9) * np.timedelta64(60 * every, "s")
    start = time - np.timedelta64(60 * sum_of, "s")
    assert has_overlap(start, time, minutes).any() == overlaps
