"""Pictures of a forecast: right sizes, right frames, right colours, for every kind of input."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ldcast.errors import InputError
from ldcast.products.maps import CHANCE_SCALE, RAIN_SCALE
from ldcast.products.plot import plot_forecast, require_matplotlib

ISSUE_TIME = np.datetime64("2016-07-11T23:50:00")
LEADS = np.arange(5, 101, 5)
GRID = {"pixel_size_m": np.float64(1000.0)}


def test_missing_matplotlib_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        require_matplotlib()
    with pytest.raises(InputError, match="pip install matplotlib"):
        plot(tmp_path / "forecast.png", *make_rain(2, 8, 8))
    assert list(tmp_path.iterdir()) == []


def make_rain(num_members: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Past (4, H, W) float16 and forecast (E, 20, H, W) with all classes of rain and a gap."""
    rng = np.random.default_rng(0)
    past = rng.gamma(0.2, 10.0, (4, height, width)).astype(np.float16)
    rain = rng.gamma(0.2, 10.0, (num_members, len(LEADS), height, width)).astype(np.float32)
    past[:, : height // 4], rain[:, :, : height // 4] = np.nan, np.nan
    return past, rain


def plot(path: Path, past: np.ndarray, rain: np.ndarray, grid: dict | None = None) -> None:
    plot_forecast(past, rain, ISSUE_TIME, LEADS, GRID if grid is None else grid, path)


def pixels_of(path: Path) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="pillow comes with matplotlib")
    with image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def last_picture(path: Path) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="pillow comes with matplotlib")
    with image.open(path) as film:
        film.seek(getattr(film, "n_frames", 1) - 1)
        return np.asarray(film.convert("RGB"))


def count_colour(pixels: np.ndarray, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels == wanted).all(axis=-1).sum())


@pytest.fixture
def _matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, an extra")


needs_matplotlib = pytest.mark.usefixtures("_matplotlib")


@needs_matplotlib
@pytest.mark.parametrize(
    ("num_members", "height", "width", "rows"), [(3, 32, 32, 5), (1, 32, 32, 2), (2, 20, 60, 5)]
)
def test_sheet(tmp_path: Path, num_members: int, height: int, width: int, rows: int) -> None:
    path = tmp_path / "forecast.png"
    plot(path, *make_rain(num_members, height, width))
    picture_height, picture_width = pixels_of(path).shape[:2]
    assert 800 <= picture_width <= 1600
    map_height = 324 * height / max(height, width)
    assert rows * map_height < picture_height < rows * (map_height + 80) + 120
    assert list(tmp_path.iterdir()) == [path]


@needs_matplotlib
@pytest.mark.parametrize(("num_members", "panels"), [(3, 3), (1, 1)])
def test_film(tmp_path: Path, num_members: int, panels: int) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "forecast.GIF"
    plot(path, *make_rain(num_members, 24, 30))
    with image.open(path) as film:
        assert film.n_frames == 4 + 20
        assert film.info["loop"] == 0
        assert panels * 350 <= film.width <= panels * 350 + 250
        durations = []
        for i in range(film.n_frames):
            film.seek(i)
            durations.append(film.info["duration"])
    assert durations == [400] * 4 + [250] * 19 + [1500]


@needs_matplotlib
@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_calibrated_chances_are_drawn(tmp_path: Path, suffix: str) -> None:
    """Members that agree on heavy rain, and a chance of 30 % of it."""
    raw, calibrated = tmp_path / f"raw{suffix}", tmp_path / f"calibrated{suffix}"
    past, rain = np.zeros((4, 32, 32)), np.full((2, 20, 32, 32), 20.0)
    chances = {1.0: np.full((20, 32, 32), 0.3)}
    plot(raw, past, rain)
    plot_forecast(past, rain, ISSUE_TIME, LEADS, GRID, calibrated, chances)
    colours = [CHANCE_SCALE.colours[i] for i in (1, -1)]  # of 30 % and of certainty

    def areas(path: Path) -> list[int]:
        pixels = last_picture(path).astype(int)
        wanted = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]
        return [int((np.abs(pixels - colour).max(axis=-1) <= 3).sum()) for colour in wanted]

    some, certain = areas(raw)
    assert certain > 50_000 > 10_000 > some
    some, certain = areas(calibrated)
    assert some > 50_000 > 10_000 > certain


@needs_matplotlib
def test_the_title_says_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **style: titles.append(text))
    past, rain = make_rain(2, 16, 16)
    for chances in (None, {1.0: np.zeros((20, 16, 16))}):
        path = tmp_path / "forecast.png"
        plot_forecast(past, rain, ISSUE_TIME, LEADS, GRID, path, chances)
    assert [title.endswith("2 members, calibrated") for title in titles] == [False, True]


@needs_matplotlib
def test_a_dry_film_keeps_all_its_frames(tmp_path: Path) -> None:
    """Pillow drops frames that equal the one before."""
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "forecast.gif"
    plot(path, np.zeros((4, 16, 16)), np.zeros((2, 20, 16, 16)))
    with image.open(path) as film:
        assert film.n_frames == 24


@needs_matplotlib
@pytest.mark.parametrize(("value", "has_data"), [(0.0, True), (np.nan, False)])
def test_dry_and_no_data_look_different(tmp_path: Path, value: float, has_data: bool) -> None:
    path = tmp_path / "forecast.png"
    plot(path, np.full((4, 32, 32), value), np.full((2, 20, 32, 32), value))
    pixels = pixels_of(path)
    num_map_pixels = 20 * 300**2
    assert (count_colour(pixels, "#fcfcfc") > 0.8 * num_map_pixels) is has_data
    assert (count_colour(pixels, "#e2e2e2") > 0.3 * num_map_pixels) is not has_data
    assert count_colour(pixels, RAIN_SCALE.colours[4]) < 0.001 * num_map_pixels + 2000


@needs_matplotlib
def test_north_is_up_and_classes_have_their_colours(tmp_path: Path) -> None:
    path = tmp_path / "forecast.png"
    past = np.zeros((4, 30, 30))
    past[:, :10], past[:, 10:20] = 30.0, 3.0
    plot(path, past, np.zeros((1, 20, 30, 30)))
    column = pixels_of(path)[:, 120]  # through the first map
    violent, moderate = RAIN_SCALE.colours[7], RAIN_SCALE.colours[4]
    rows_of = {
        colour: np.flatnonzero((column == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(1))
        for colour in (violent, moderate)
    }
    assert len(rows_of[violent]) == pytest.approx(105, abs=10)
    assert rows_of[violent].max() < rows_of[moderate].min()


@needs_matplotlib
def test_no_pixel_of_a_fine_grid_is_left_out(tmp_path: Path) -> None:
    """A cell of one pixel in a grid four times finer than the picture still shows."""
    path = tmp_path / "forecast.png"
    past = np.zeros((4, 1300, 1300), dtype=np.float32)
    past[:, 651, 333] = 100.0  # 4 mm/h on average over the 5 x 5 pixels that share a dot
    plot(path, past, np.zeros((1, 20, 1300, 1300), dtype=np.float32), grid={})
    bar = tmp_path / "dry.png"
    plot(bar, 0 * past, np.zeros((1, 20, 1300, 1300), dtype=np.float32), grid={})
    colour = RAIN_SCALE.colours[4]
    assert count_colour(pixels_of(path), colour) > count_colour(pixels_of(bar), colour)


@needs_matplotlib
def test_the_users_matplotlib_settings_neither_matter_nor_change(tmp_path: Path) -> None:
    import matplotlib

    past, rain = make_rain(2, 16, 16)
    plot(tmp_path / "plain.png", past, rain)
    settings = {"font.size": 20.0, "axes.facecolor": "black", "image.origin": "lower"}
    with matplotlib.rc_context(settings):
        plot(tmp_path / "custom.png", past, rain)
        assert {name: matplotlib.rcParams[name] for name in settings} == settings
    plain, custom = (pixels_of(tmp_path / name) for name in ("plain.png", "custom.png"))
    np.testing.assert_array_equal(plain, custom)


@needs_matplotlib
def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected \.png or \.gif"):
        plot(tmp_path / "forecast.mp4", *make_rain(1, 8, 8))
