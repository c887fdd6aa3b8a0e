"""The summary in words and numbers, on fields whose answer is known."""

import numpy as np
import pytest

from ldcast.products.summary import (
    chance_of,
    choose_leads,
    describe_gaps,
    ensemble_mean,
    intensity_word,
    summarise,
)

ISSUE_TIME = np.datetime64("2016-07-11T22:00:00")
LEADS = np.arange(5, 101, 5)
GRID = {"pixel_size_m": 1000.0}
SHAPE = (30, 60)


def corner(row: int, column: int, rate: float = 4.0) -> np.ndarray:
    """(30, 60): rain of `rate` in one ninth of the domain, 200 of 1800 pixels; dry elsewhere."""
    frame = np.zeros(SHAPE, dtype=np.float32)
    frame[10 * row : 10 * row + 10, 20 * column : 20 * column + 20] = rate
    return frame


def repeat(frame: np.ndarray, num_members: int = 4) -> np.ndarray:
    """(E, 20, H, W): every member shows `frame` all the time."""
    return np.broadcast_to(frame, (num_members, len(LEADS), *frame.shape)).copy()


def summary_of(now: np.ndarray, rain: np.ndarray, grid: dict | None = None) -> str:
    past = np.zeros((4, *now.shape), dtype=np.float16)
    past[-1] = now
    return summarise(past, rain, ISSUE_TIME, LEADS, GRID if grid is None else grid)


def row_of(text: str, lead: int) -> str:
    """The table's row for a lead time, with single blanks."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(f"+{lead} min")]
    return " ".join(line.split())


def test_steady_rain_in_the_north_west() -> None:
    text = summary_of(corner(0, 0), repeat(corner(0, 0)))
    lines = text.splitlines()
    assert lines[0] == "Rain forecast from 2016-07-11 22:00 UTC: 4 members, 60 x 30 km"
    # 200 of 1800 pixels: 11 %; 4 mm/h there: 0.44 mm/h on average.
    assert lines[1] == (
        "Now: 11 % of the area is wet; mean 0.44 mm/h, peak 4.0 mm/h (moderate) in the north-west."
    )
    assert lines[2].strip() == "100 % of the rain falls in the north-west."
    expected = "+60 min 11 % (11-11) 0.44 4.0 moderate 11 % 0 %"
    assert row_of(text, 60) == expected
    assert "the rain changes little, from 0.44 to 0.44 mm/h" in text
    assert "Spread: small at +100 min: where a member has rain, 100 % of the others" in text


@pytest.mark.parametrize(
    ("row", "column", "name"),
    [(0, 1, "north"), (1, 1, "centre"), (1, 2, "east"), (2, 0, "south-west"), (2, 2, "south-east")],
)
def test_sectors_are_named_with_north_up(row: int, column: int, name: str) -> None:
    text = summary_of(corner(row, column), repeat(corner(row, column)))
    assert f"in the {name}.\n" in text
    assert f"Then 100 % of the rain falls in the {name}." in text


def test_wettest_sectors_come_first_until_they_hold_most_of_the_rain() -> None:
    now = corner(0, 0, 4.0) + corner(2, 2, 5.0) + corner(1, 1, 1.0) + corner(0, 2, 2.0)
    assert "75 % of the rain falls in the south-east and north-west" in summary_of(now, repeat(now))
    everywhere = np.ones(SHAPE, dtype=np.float32)
    text = summary_of(everywhere, repeat(everywhere))
    assert "the rain is spread over the whole domain" in text


def test_members_that_differ() -> None:
    rain = repeat(corner(0, 0, 20.0), num_members=5)
    rain[0] = 0
    rain[1] = corner(1, 1, 20.0)
    text = summary_of(corner(0, 0), rain)
    # Wet shares 0 and four times 11.1 %: mean 8.9 %, 10 % quantile 4.4 %. Three of five have rain
    # in the north-west, so 11 % of the area has a chance above 50 %; four of five have 10 mm/h.
    assert row_of(text, 30) == "+30 min 9 % (4-11) 1.8 20 heavy 11 % 80 %"
    # Four wet members x 200 pixels x 4 others; both wet: 3 x 200 x 2, all in the north-west.
    assert "Spread: large at +100 min: where a member has rain, 38 % of the others" in text


def test_calibrated_chances_replace_those_of_the_members() -> None:
    chances = {mm_h: np.zeros((len(LEADS), *SHAPE), np.float32) for mm_h in (0.1, 1.0, 10.0)}
    chances[1.0][:, :3] = 0.6  # a tenth of the domain
    chances[10.0][:, 4, 5] = 0.3
    for chance in chances.values():
        chance[:, -15:] = np.nan  # half of it
    rain = repeat(corner(0, 0, 20.0))
    past = np.zeros((4, *SHAPE), np.float32)
    text = summarise(past, rain, ISSUE_TIME, LEADS, GRID, chances)
    lines = text.splitlines()
    assert lines[0].endswith("4 members, 60 x 30 km, calibrated")
    assert row_of(text, 30) == "+30 min 11 % (11-11) 2.2 20 heavy 20 % 30 %"
    assert lines[3].split()[-2:] == ["highest", "chance"]
    assert max(map(len, lines)) <= 100
    members_only = summarise(past, rain, ISSUE_TIME, LEADS, GRID)
    assert row_of(members_only, 30) == "+30 min 11 % (11-11) 2.2 20 heavy 11 % 100 %"


def test_nan_counts_neither_as_wet_nor_as_dry() -> None:
    now = corner(0, 0)
    now[:, 20:] = np.nan  # two thirds; 200 of the remaining 600 pixels are wet
    text = summary_of(now, repeat(now))
    assert "Now: 33 % of the area is wet; mean 1.3 mm/h" in text
    assert "no data for 67 % of the domain" in text
    assert row_of(text, 15) == "+15 min 33 % (33-33) 1.3 4.0 moderate 33 % 0 %"


def test_dry() -> None:
    dry = np.zeros(SHAPE, dtype=np.float32)
    text = summary_of(dry, repeat(dry + 0.05))
    assert "Now: dry, below 0.1 mm/h everywhere." in text
    assert "Forecast: no rain in any member up to +100 min." in text


def test_no_data() -> None:
    empty = np.full(SHAPE, np.nan, dtype=np.float32)
    text = summary_of(empty, repeat(empty))
    assert "No data" in text
    assert "nan" not in text


def test_one_member_has_no_chances_and_no_spread() -> None:
    text = summary_of(corner(0, 0), repeat(corner(0, 0), num_members=1))
    assert "1 member," in text
    assert row_of(text, 60) == "+60 min 11 % 0.44 4.0 moderate - -"
    assert "Spread" not in text


@pytest.mark.parametrize(
    ("now", "then", "expected"),
    [
        (corner(1, 1), corner(1, 1, 8.0), "the rain grows, from 0.44 to 0.89 mm/h"),
        (corner(1, 1), corner(1, 1, 2.0), "the rain eases, from"),
        (corner(1, 1), corner(0, 1, 8.0), "the rain grows and moves north, from"),
        (corner(1, 0), corner(1, 1), "the rain changes little and moves east, from"),
        (corner(1, 1), corner(2, 0, 1.0), "the rain moves out to the south-west, from"),
        (corner(0, 0), corner(1, 1, 1.0), "the rain eases and moves south-east, from"),
        (corner(1, 1, 0.0), corner(1, 1), "rain comes up, from 0 to 0.44 mm/h"),
        (corner(1, 1), corner(1, 1, 0.0), "the rain ends, from 0.44 to 0 mm/h"),
    ],
)
def test_tendency(now: np.ndarray, then: np.ndarray, expected: str) -> None:
    rain = repeat(now)
    rain[:, 10:] = then
    rain[:, 0, 0, 0] = 0.2  # so that the forecast is never dry as a whole
    assert f"Tendency: {expected}" in summary_of(now, rain)


def test_it_fits_a_terminal() -> None:
    rng = np.random.default_rng(0)
    now = rng.gamma(0.2, 20.0, SHAPE).astype(np.float32)
    now[:3] = np.nan
    rain = rng.gamma(0.2, 20.0, (16, 20, *SHAPE)).astype(np.float32)
    lines = summary_of(now, rain).splitlines()
    assert len(lines) <= 14
    assert max(map(len, lines)) <= 100


def test_unknown_pixel_size() -> None:
    assert "60 x 30 pixels" in summary_of(corner(0, 0), repeat(corner(0, 0)), grid={})


def test_choose_leads() -> None:
    assert [LEADS[i] for i in choose_leads(LEADS)] == [15, 30, 60, 100]
    assert choose_leads(np.array([5, 10, 15, 20, 25, 30])) == [0, 2, 3, 5]
    assert choose_leads(np.arange(5, 201, 5)) == [2, 5, 11, 19, 39]
    assert choose_leads(np.array([5, 10])) == [0, 1]
    assert choose_leads(np.array([5])) == [0]


@pytest.mark.parametrize(
    ("rate", "word"),
    [
        (0.09, "dry"),
        (0.1, "light"),
        (2.5, "moderate"),
        (10, "heavy"),
        (49.9, "heavy"),
        (50, "violent"),
    ],
)
def test_intensity_words(rate: float, word: str) -> None:
    assert intensity_word(rate) == word


def test_ensemble_statistics_leave_out_members_without_data() -> None:
    members = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, np.nan]])
    np.testing.assert_array_equal(ensemble_mean(members), [1.5, np.nan, 3.0])
    np.testing.assert_array_equal(chance_of(members, 2.0), [0.5, np.nan, 1.0])


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_gaps_are_described_of_arrays_of_any_layout(dtype):
    past = np.ones((4, *SHAPE), dtype)
    past[2, :, :15] = np.nan
    lines = ["Gaps in earlier images, 25 % of 5 min before: filled from the other images."]
    assert describe_gaps(past[:, ::-1], 5) == describe_gaps(past[..., ::-1], 5) == lines
    assert describe_gaps(past, 10) == [lines[0].replace("5 min", "10 min")]
