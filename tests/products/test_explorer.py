"""The page to explore: what is packed comes back, it stays small, and a browser shows it."""

import re
from pathlib import Path

import numpy as np
import pytest
from pages import FETCHES, about_of, arrays_of, needs_browser, rates

from ldcast.errors import InputError
from ldcast.motion import UPSTREAM_OBSERVED, UPSTREAM_UNKNOWN
from ldcast.products import explorer
from ldcast.products.packing import Detail, rate_codes, shape_in, thinned
from ldcast.products.plot import plot_forecast

ISSUE_TIME = np.datetime64("2016-07-11T22:00")
GRID = {"pixel_size_m": 1000.0}


def some_rain(num_members: int = 3, num_leads: int = 4, height: int = 24, width: int = 32):
    """(past, rain): showers over dry ground, with no data in the corner at the north-west."""
    random = np.random.default_rng(0)
    field = random.standard_normal((4 + num_members * num_leads, height, width))
    rain = np.where(field > 0.5, 10 ** (1.2 * field - 1), 0).astype(np.float32)
    rain[:, :5, :6] = np.nan
    return rain[:4], rain[4:].reshape(num_members, num_leads, height, width)


def quality_of(rain: np.ndarray) -> np.ndarray:
    quality = np.full(rain.shape[1:], UPSTREAM_OBSERVED, np.uint8)
    quality[1:, :, 20:] = UPSTREAM_UNKNOWN
    return quality


def write(path: Path, past: np.ndarray, rain: np.ndarray, **more) -> Path:
    lead_minutes = 5 * np.arange(1, rain.shape[1] + 1)
    plot_forecast(past, rain, ISSUE_TIME, lead_minutes, GRID, path, **more)
    return path


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    return about_of(path), arrays_of(path)


@pytest.mark.core
@pytest.mark.parametrize("step_db", [0.25, 1.0])
def test_codes_are_right_to_half_a_step(step_db: float) -> None:
    rain = np.array([np.nan, 0, 0.0999, 0.1, 0.11, 1.0, 7.3, 118.4], np.float32)
    codes = rate_codes(rain, step_db)
    assert codes[:4].tolist() == [255, 0, 0, 1]
    back = rates(codes.astype(int), {"lowest_rate": 0.1, "step_db": step_db})
    wrong_db = 10 * np.log10(back[3:] / rain[3:])
    assert np.abs(wrong_db).max() <= step_db / 2 + 1e-5


def test_what_is_packed_comes_back(tmp_path) -> None:
    past, rain = some_rain()
    chances = {1.0: (rain >= 1).mean(0), 5.0: (rain >= 5).mean(0)}
    more = {"quality": quality_of(rain), "chances": chances, "thresholds": (5.0, 1.0)}
    about, arrays = read(write(tmp_path / "page.html", past, rain, **more))
    assert about["step_db"] == 0.25 and about["block"] == 1  # there is room
    assert "calibrated" in about["title"] and about["past_minutes"] == [-15, -10, -5, 0]
    for name, expected in (("rain", rain.reshape(-1, 24, 32)), ("past", past)):
        wet = np.where(expected < 0.1, 0, expected)
        np.testing.assert_allclose(rates(arrays[name], about), wet, rtol=0.03)
    np.testing.assert_array_equal(arrays["doubt"][0], 0)
    np.testing.assert_array_equal(arrays["doubt"][1:, :, 20:], 1)
    of_thresholds = np.concatenate([chances[value] for value in sorted(chances)])
    assert about["thresholds"] == sorted(chances)
    np.testing.assert_allclose(arrays["chances"] / 100, of_thresholds, atol=0.005)


def test_the_page_is_alone_and_says_what_was_done(tmp_path, monkeypatch) -> None:
    past, rain = some_rain()
    monkeypatch.setattr(explorer, "MAX_BYTES", 120_000 + 3_000)
    path = write(tmp_path / "page.html", past, rain)
    about, arrays = read(path)
    assert path.stat().st_size <= explorer.MAX_BYTES
    assert about["block"] > 1 and "means of" in " ".join(about["notes"])
    block = about["block"]
    rows = rain[0, 0, 2 * block : 3 * block, 2 * block : 3 * block]
    if np.isfinite(rows).all():
        shown = rates(arrays["rain"], about)[0, 2, 2]
        assert shown == pytest.approx(rows.mean() if rows.mean() >= 0.1 else 0, rel=0.2)
    assert not re.search(FETCHES, path.read_text())


def test_sixteen_members_of_256_pixels_take_five_megabytes(tmp_path) -> None:
    """Of rain in two thirds of the pixels, with noise in each."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[:256, :256] / 40
    base = np.stack([np.sin(x + t / 5) + np.cos(y - t / 7) for t in range(20)])
    noise = random.standard_normal((16, 20, 256, 256), dtype=np.float32)
    rain = np.where(base > -0.5, 10 ** (0.5 * base + 0.1 * noise), 0).astype(np.float32)
    path = write(tmp_path / "page.html", rain[0, :4], rain)
    assert 2_000_000 < path.stat().st_size <= 5_000_000


def test_times_and_borders_cannot_break_the_page(tmp_path) -> None:
    past, rain = some_rain(1)
    lines = [np.array([[0.0, 0.0], [3.04, 4.0], [3.041, 4.0], [31.0, 20.0]])]
    about, _ = read(write(tmp_path / "page.html", past, rain, borders=lines))
    assert about["borders"] == [[[0.0, 0.0], [3.0, 4.0], [31.0, 20.0]]]
    with pytest.raises(InputError, match=r"expected \.png or \.gif or \.mp4 or \.html"):
        write(tmp_path / "page.htm", past, rain)


def test_very_long_borders_leave_room_for_the_rain(tmp_path) -> None:
    past, rain = some_rain(2)
    random = np.random.default_rng(3)
    lines = [random.uniform(0, 24, (40_000, 2)) for _ in range(8)]
    path = write(tmp_path / "page.html", past, rain, borders=[*lines, np.zeros((0, 2))])
    about, _ = read(path)
    assert path.stat().st_size < explorer.MAX_BYTES and about["block"] == 1
    assert len(about["borders"]) == 8
    for line, shown in zip(lines, about["borders"], strict=True):
        assert shown[-1] == pytest.approx(line[-1], abs=0.051)  # ends stay


def test_what_cannot_fit_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(explorer, "MAX_BYTES", explorer.HEAD_BYTES)
    with pytest.raises(InputError, match="3 members of 24 x 32 pixels do not fit"):
        write(tmp_path / "page.html", *some_rain())
    assert list(tmp_path.iterdir()) == []


def test_maps_of_another_shape_are_refused(tmp_path) -> None:
    past, rain = some_rain()
    with pytest.raises(InputError, match=r"later has the shape \(3, 24, 32\), expected"):
        write(tmp_path / "page.html", past, rain, later=rain[0, :3])
    with pytest.raises(InputError, match="quality has the shape"):
        write(tmp_path / "page.html", past, rain, quality=quality_of(rain)[1:])


def test_chances_are_of_the_rates_as_they_are(tmp_path) -> None:
    """Not of their codes: 0.97 mm/h is nearer to 1 than to the code below."""
    rain = np.full((4, 2, 8, 8), 0.97, np.float32)
    rain[0] = 0.06
    past = rain[:, 0]
    about, arrays = read(write(tmp_path / "page.html", past, rain, thresholds=(0.05, 0.9, 1.0)))
    assert about["thresholds"] == [0.05, 0.9, 1.0]
    shown = arrays["chances"].reshape(3, -1)
    assert about["chance_parts"] == 4  # members
    assert (shown == np.array([4, 3, 0])[:, None]).all()


@pytest.mark.parametrize("shape", [(25, 20), (10, 37), (100, 70)])
def test_blocks_leave_the_shape_that_is_said(shape) -> None:
    for block in range(1, 40):
        detail = Detail(1.0, block)
        images = np.zeros((1, *shape), np.float32)
        assert list(thinned(images, detail).shape[1:]) == shape_in(detail, shape)


def test_it_needs_no_matplotlib(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    past, rain = some_rain(1)
    assert write(tmp_path / "page.html", past, rain).stat().st_size > 50_000


# ---- in a browser --------------------------------------------------------------------------------


def point_at(page, row: int, column: int, shape: tuple[int, int]) -> None:
    box = page.locator("#rain").bounding_box()
    across = box["x"] + (column + 0.5) / shape[1] * box["width"]
    page.mouse.move(across, box["y"] + (row + 0.5) / shape[0] * box["height"])


def value_of(page) -> float:
    return float(page.get_attribute("#readout", "data-value"))


def map_of(page) -> str:
    return page.evaluate("document.getElementById('rain').toDataURL()")


@needs_browser
@pytest.mark.parametrize("size", [{"width": 1200, "height": 500}, {"width": 390, "height": 800}])
def test_values_under_the_pointer_are_the_arrays(opened, tmp_path, size) -> None:
    past, rain = some_rain()
    path = write(tmp_path / "page.html", past, rain, quality=quality_of(rain), thresholds=(1, 5))
    page = opened(path, viewport=size)
    views = page.locator("#view option").all_inner_texts()
    members = ["member 1", "member 2", "member 3"]
    assert views == ["mean of 3 members", "chance of ≥ 1 mm/h", "chance of ≥ 5 mm/h", *members]
    shown = np.where(rain < 0.1, 0, rain)
    chances = [np.where(np.isnan(rain[0]), np.nan, (rain >= value).mean(0)) for value in (1, 5)]
    expected = [shown.mean(0), *chances, *shown]
    for row, column in ((12, 7), (20, 30), (2, 3), (23, 31), (9, 0)):
        page.locator("#time").fill("0")
        point_at(page, row, column, past.shape[1:])
        wanted = past[0, row, column]
        assert value_of(page) == pytest.approx(
            wanted if wanted >= 0.1 else wanted * 0, rel=0.03, nan_ok=True
        )
        for view, values in enumerate(expected):
            for lead in (0, 3):
                page.locator("#time").fill(str(4 + lead))
                page.select_option("#view", index=view)
                wanted = values[lead, row, column]
                assert value_of(page) == pytest.approx(wanted, rel=0.03, abs=1e-6, nan_ok=True)
    assert "no data" not in page.inner_text("#readout")


@needs_browser
def test_time_members_and_keys_change_what_is_shown(opened, tmp_path) -> None:
    past, rain = some_rain()
    page = opened(write(tmp_path / "page.html", past, rain, quality=quality_of(rain)))
    assert "forecast +5 min, 2016-07-11 22:05 UTC" in page.inner_text("#valid")
    first = map_of(page)
    page.keyboard.press("ArrowLeft")
    assert "radar 0 min, 2016-07-11 22:00 UTC" in page.inner_text("#valid")
    assert map_of(page) != first
    page.keyboard.press("ArrowRight")
    assert map_of(page) == first
    page.keyboard.press("m")
    assert page.locator("#view").input_value() == "1" and map_of(page) != first
    page.keyboard.press("n")
    page.keyboard.press("ArrowRight")  # +10 min, of which half of the map is in doubt
    dotted = map_of(page)
    page.locator("#doubt").uncheck()
    assert map_of(page) != dotted
    page.locator("#rain").focus()
    before = page.inner_text("#readout")
    page.keyboard.press("ArrowUp")
    assert "Row 11, column 16" in page.inner_text("#readout") != before
    page.locator("#view").focus()
    page.keyboard.press(" ")  # opens the list
    assert page.get_attribute("#play", "aria-label") == "Play"
    page.keyboard.press("Escape")
    page.locator("#title").click()
    page.locator("#play").click()
    page.wait_for_function("document.getElementById('time').value === '0'")
    page.locator("#play").click()
    assert page.get_attribute("#play", "aria-label") == "Play"


@needs_browser
def test_a_fan_of_members_is_drawn_and_a_click_goes_there(opened, tmp_path) -> None:
    past, rain = some_rain(num_members=11)
    page = opened(write(tmp_path / "page.html", past, rain), color_scheme="dark")
    row, column = 12, 16  # where the mark is at first
    found = page.evaluate("chart.data")
    shown = np.where(rain[:, :, row, column] < 0.1, 0, rain[:, :, row, column])
    for series, share in ((2, 0.9), (3, 0.1), (4, 0.5)):
        assert found[series][:4] == [None] * 4
        np.testing.assert_allclose(found[series][4:], np.quantile(shown, share, axis=0), rtol=0.03)
    box = page.locator("#chart .u-over").bounding_box()
    page.mouse.click(box["x"] + 0.98 * box["width"], box["y"] + box["height"] / 2)
    assert "+20 min" in page.inner_text("#valid")


@needs_browser
def test_what_was_observed_later_is_beside_the_forecast(opened, tmp_path) -> None:
    past, rain = some_rain()
    later = rain[1].copy()
    later[3] = np.nan  # as far as it goes
    path = write(tmp_path / "page.html", past, rain, later=later)
    about, arrays = read(path)
    shown = np.where(later < 0.1, 0, later)
    np.testing.assert_allclose(rates(arrays["later"], about), shown, rtol=0.03)
    page = opened(path)
    page.select_option("#view", label="observed later")
    point_at(page, 12, 7, past.shape[1:])
    assert value_of(page) == pytest.approx(shown[0, 12, 7], rel=0.03)
    seen = page.evaluate("chart.data")[1]
    assert seen[4:7] == pytest.approx(shown[:3, 12, 7].tolist(), rel=0.03) and seen[7] is None


@needs_browser
def test_one_member_has_no_chances(opened, tmp_path) -> None:
    past, rain = some_rain(1)
    page = opened(write(tmp_path / "page.html", past, rain))
    assert page.locator("#view option").all_inner_texts() == ["member 1"]
    assert page.locator("#doubt-label").is_hidden()
