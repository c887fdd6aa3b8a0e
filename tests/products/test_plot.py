"""Pictures of a forecast: right sizes, right frames, right colours, for every kind of input."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ldcast.errors import InputError
from ldcast.products import panels
from ldcast.products.maps import CHANCE_SCALE, DOUBT_STYLE, RAIN_SCALE
from ldcast.products.plot import plot_forecast, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def test_missing_pillow_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with matplotlib, and can be removed by itself."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, an extra")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"need pillow, .*: pip install pillow$"):
        require_matplotlib()


def make_rain(
    num_members: int, height: int, width: int, num_leads: int = len(LEADS)
) -> tuple[np.ndarray, np.ndarray]:
    """Past (4, H, W) float16 and forecast (E, T, H, W) with all classes of rain and a gap."""
    rng = np.random.default_rng(0)
    past = rng.gamma(0.2, 10.0, (4, height, width)).astype(np.float16)
    rain = rng.gamma(0.2, 10.0, (num_members, num_leads, height, width)).astype(np.float32)
    past[:, : height // 4], rain[:, :, : height // 4] = np.nan, np.nan
    return past, rain


def plot(
    path: Path,
    past: np.ndarray,
    rain: np.ndarray,
    grid: dict | None = None,
    leads: np.ndarray | None = None,
    **more: Any,
) -> None:
    leads = np.arange(5, 5 * rain.shape[1] + 1, 5) if leads is None else leads
    plot_forecast(past, rain, ISSUE_TIME, leads, GRID if grid is None else grid, path, **more)


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
    plot(path, *make_rain(num_members, height, width, num_leads=3))
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
    plot(path, *make_rain(num_members, 24, 30, num_leads=3))
    with image.open(path) as film:
        assert film.n_frames == 4 + 3
        assert film.info["loop"] == 0
        assert panels * 350 <= film.width <= panels * 350 + 250
        durations = []
        for i in range(film.n_frames):
            film.seek(i)
            durations.append(film.info["duration"])
    assert durations == [400] * 4 + [250] * 2 + [1500]


@needs_matplotlib
@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_calibrated_chances_are_drawn(tmp_path: Path, suffix: str) -> None:
    """Members that agree on heavy rain, and a chance of 30 % of it."""
    raw, calibrated = tmp_path / f"raw{suffix}", tmp_path / f"calibrated{suffix}"
    past, rain = np.zeros((4, 32, 32)), np.full((2, 1, 32, 32), 20.0)
    chances = {1.0: np.full((1, 32, 32), 0.3)}
    plot(raw, past, rain)
    plot(calibrated, past, rain, chances=chances)
    colours = [CHANCE_SCALE.colours[i] for i in (1, -1)]  # of 30 % and of certainty

    def areas(path: Path) -> list[int]:
        pixels = last_picture(path).astype(np.int16)
        wanted = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]
        return [int((np.abs(pixels - colour).max(axis=-1) <= 3).sum()) for colour in wanted]

    some, certain = areas(raw)
    assert certain > 50_000 > 10_000 > some
    some, certain = areas(calibrated)
    assert some > 50_000 > 10_000 > certain


@needs_matplotlib
def test_the_title_says_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rain = np.zeros((4, 16, 16)), np.zeros((2, 1, 16, 16))
    titles = [
        sheet_of(monkeypatch, tmp_path, *rain, chances=chances).get_suptitle()
        for chances in (None, {1.0: np.zeros((1, 16, 16))})
    ]
    assert [title.endswith("2 members, calibrated") for title in titles] == [False, True]


@needs_matplotlib
def test_a_dry_film_keeps_all_its_frames(tmp_path: Path) -> None:
    """Pillow drops frames that equal the one before."""
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "forecast.gif"
    plot(path, np.zeros((4, 16, 16)), np.zeros((1, 3, 16, 16)))
    with image.open(path) as film:
        assert film.n_frames == 7


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
    plot(path, past, np.zeros((1, 1, 1300, 1300), dtype=np.float32), grid={})
    bar = tmp_path / "dry.png"
    plot(bar, 0 * past, np.zeros((1, 1, 1300, 1300), dtype=np.float32), grid={})
    colour = RAIN_SCALE.colours[4]
    assert count_colour(pixels_of(path), colour) > count_colour(pixels_of(bar), colour)


@needs_matplotlib
def test_the_users_matplotlib_settings_neither_matter_nor_change(tmp_path: Path) -> None:
    import matplotlib

    past, rain = make_rain(1, 16, 16)
    plot(tmp_path / "plain.png", past, rain)
    settings = {"font.size": 20.0, "axes.facecolor": "black", "image.origin": "lower"}
    with matplotlib.rc_context(settings):
        plot(tmp_path / "custom.png", past, rain)
        assert {name: matplotlib.rcParams[name] for name in settings} == settings
    plain, custom = (pixels_of(tmp_path / name) for name in ("plain.png", "custom.png"))
    np.testing.assert_array_equal(plain, custom)


@needs_matplotlib
def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected \.png or \.gif or \.mp4"):
        plot(tmp_path / "forecast.jpg", *make_rain(1, 8, 8))


# ---- what a sheet says ---------------------------------------------------------------------------


def sheet_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *rain: np.ndarray, **more: Any
) -> Figure:
    """The figure of the sheet that `plot` would save, before anything in it has its place."""
    from matplotlib.figure import Figure

    figures = []
    with monkeypatch.context() as patch:  # saving is most of the work
        patch.setattr(Figure, "savefig", lambda self, file, **_: figures.append(self))
        plot(folder / "sheet.png", *rain, **more)
    return figures[0]


def texts_of(figure: Figure) -> tuple[list[str], list[str]]:
    """Labels of the rows, and titles of the maps of the last row."""
    maps = [axes for axes in figure.axes if axes.images]
    labels = [axes.get_ylabel() for axes in maps if axes.get_ylabel()]
    last_row = max(i for i, axes in enumerate(maps) if axes.get_ylabel())
    return labels, [axes.get_title() for axes in maps[last_row:]]


@needs_matplotlib
def test_what_was_observed_later_has_a_row(monkeypatch, tmp_path: Path) -> None:
    past, rain = np.zeros((4, 16, 16)), np.zeros((2, 20, 16, 16))
    later = np.full((20, 16, 16), np.nan)
    later[:7] = np.arange(7)[:, None, None]
    figure = sheet_of(monkeypatch, tmp_path, past, rain, later=later)
    assert texts_of(figure)[0][:3] == ["observed", "observed later", "member 1 of 2"]
    maps = [axes for axes in figure.axes if axes.images]
    row = [axes.images[0].get_array() for axes in maps[4:8]]
    titles = [axes.get_title() for axes in maps[4:8]]
    for title, values in zip(titles, row, strict=True):
        lead = int(title[1:].split()[0]) // 5 - 1
        expected = later[lead, 0, 0]
        assert np.ma.filled(values, np.nan)[0, 0] == pytest.approx(expected, nan_ok=True)


@needs_matplotlib
@pytest.mark.parametrize(
    ("thresholds", "shown"),
    [
        ((5.0,), ["5"]),
        ((10.0, 0.1), ["0.1", "10"]),
        ((0.1, 0.5, 1, 5, 10), ["0.1", "1", "10"]),
        ((0.1, 1, 5, 10), ["0.1", "1", "10"]),
        ((1, 2, 5, 10), ["1", "5", "10"]),
    ],
)
def test_rows_of_chances(monkeypatch, tmp_path: Path, thresholds, shown: list[str]) -> None:
    rain = np.zeros((4, 16, 16)), np.zeros((2, 1, 16, 16))
    figure = sheet_of(monkeypatch, tmp_path, *rain, thresholds=thresholds)
    labels, _ = texts_of(figure)
    assert labels[4:] == [f"chance of ≥ {number} mm/h" for number in shown]


@needs_matplotlib
def test_chances_are_of_their_thresholds(monkeypatch, tmp_path: Path) -> None:
    """Of four members all have 0.5 mm/h, three 2 and one 20."""
    rates = np.array([0.5, 2.0, 2.0, 20.0])
    rain = np.broadcast_to(rates[:, None, None, None], (4, 1, 16, 16))
    figure = sheet_of(
        monkeypatch, tmp_path, np.zeros((4, 16, 16)), rain, thresholds=(0.1, 1.0, 10.0)
    )
    values = [axes.images[0].get_array() for axes in figure.axes if axes.images][-3:]
    assert [float(np.unique(value).item()) for value in values] == [1.0, 0.75, 0.25]


@needs_matplotlib
def test_each_row_of_a_sheet_draws_its_own_member_and_lead(monkeypatch, tmp_path: Path) -> None:
    """Three members of constants of their own, which differ from lead to lead as well."""
    rates = np.array([[1.0, 2.0], [10.0, 20.0], [61.0, 2.0]])
    rain = np.broadcast_to(rates[:, :, None, None], (3, 2, 16, 16))
    figure = sheet_of(monkeypatch, tmp_path, np.zeros((4, 16, 16)), rain, thresholds=(5.0,))
    maps = [axes for axes in figure.axes if axes.images and axes.get_visible()]
    values = [float(np.unique(axes.images[0].get_array()).item()) for axes in maps[4:]]
    members, mean, chance = values[:4], values[4:6], values[6:]
    assert members == [1, 2, 10, 20]
    assert mean == [24, 8]
    assert chance == pytest.approx([2 / 3, 1 / 3])


@needs_matplotlib
@pytest.mark.parametrize("thresholds", [(), (0.0,), (1.0, -1.0), (np.nan,)])
def test_unusable_thresholds_are_refused(tmp_path: Path, thresholds: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="expected mm/h above 0"):
        plot(tmp_path / "forecast.png", *make_rain(2, 8, 8), thresholds=thresholds)


@needs_matplotlib
def test_thresholds_without_a_calibration_are_refused(tmp_path: Path) -> None:
    chances = dict.fromkeys((0.1, 1.0), np.zeros((20, 8, 8)))
    with pytest.raises(InputError, match=r"chance of 5 mm/h .* expected among 0\.1, 1"):
        plot(tmp_path / "a.png", *make_rain(2, 8, 8), chances=chances, thresholds=(5.0, 1.0))
    assert list(tmp_path.iterdir()) == []


@needs_matplotlib
@pytest.mark.parametrize(("width", "gap"), [(48, " "), (16, "\n")])
def test_frames_made_from_forecast_frames_say_so(monkeypatch, tmp_path, width, gap) -> None:
    rain = np.zeros((1, 40, 48, width))
    past, is_second_hand = np.zeros((4, 48, width)), np.arange(40) >= 20
    figure = sheet_of(monkeypatch, tmp_path, past, rain, is_second_hand=is_second_hand)
    _, titles = texts_of(figure)
    assert titles == [
        *("+15 min, 00:05 UTC", "+30 min, 00:20 UTC", "+60 min, 00:50 UTC"),
        *("+100 min, 01:30 UTC", f"+200 min, 03:10 UTC{gap}(continued)"),
    ]


@needs_matplotlib
@pytest.mark.parametrize(
    ("minutes", "is_second_hand", "is_marked"),
    [(5, None, True), (10, None, False), (5, np.zeros(40, bool), False)],
)
def test_frames_beyond_the_published_reach_are_marked_unless_others_are_named(
    monkeypatch, tmp_path, minutes, is_second_hand, is_marked
) -> None:
    rain, leads = np.zeros((1, 40, 48, 48)), minutes * np.arange(1, 41)
    figure = sheet_of(
        monkeypatch, tmp_path, rain[0, :4], rain, leads=leads, is_second_hand=is_second_hand
    )
    _, titles = texts_of(figure)
    assert [("(continued)" in title) for title in titles[-2:]] == [False, is_marked]


@needs_matplotlib
def test_the_texts_of_a_sheet_do_not_overlap(monkeypatch, tmp_path: Path) -> None:
    """Neither of wide maps nor of narrow ones, as far as 5 to 1; nor do colour bars cover any."""
    from matplotlib import style

    for height, width in ((50, 10), (16, 48), (32, 32)):
        figure = sheet_of(
            monkeypatch,
            tmp_path,
            *(np.zeros((4, height, width)), np.zeros((2, 40, height, width))),
            quality=np.zeros((40, height, width), np.uint8),
            thresholds=(0.1, 1.0, 10.0),
        )
        with style.context("default"):
            figure.draw_without_rendering()
        maps = [axes for axes in figure.axes if axes.images]
        texts = [figure._suptitle, *(axes.title for axes in maps)]
        texts += [axes.yaxis.label for axes in maps] + [key.texts[0] for key in figure.legends]
        texts += [axes.yaxis.label for axes in figure.axes if not axes.images]
        texts = [text for text in texts if text.get_text()]
        texts += [axes for axes in figure.axes if not axes.images]  # the bars themselves
        boxes = [text.get_window_extent() for text in texts]
        for i, box in enumerate(boxes):
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, texts[i]
            assert box.y0 >= 0 and box.y1 <= figure.bbox.height, texts[i]
            assert box.count_overlaps(boxes[:i]) == 0, texts[i]


# ---- border lines --------------------------------------------------------------------------------


@needs_matplotlib
@pytest.mark.parametrize(("height", "rate"), [(40, 200.0), (1301, 0.0)])
def test_borders_show_on_dry_ground_and_on_violent_rain(tmp_path, height, rate) -> None:
    """A line at a quarter of the height, also where several pixels share a dot."""
    past, rain = np.full((4, height, height), rate, np.float32), np.zeros((1, 1, height, height))
    border = np.array([[-5.0, height / 4], [height + 5.0, height / 4]])
    pictures = []
    for name, borders in (("plain.png", []), ("borders.png", [border])):
        plot(tmp_path / name, past, rain, grid={}, borders=borders)
        pictures.append(pixels_of(tmp_path / name).astype(int))
    plain, with_border = pictures
    assert count_colour(plain, "#e2e2e2") < 2000  # the map fills its frame, however coarse it is
    column = slice(120, 180)  # through the first map
    changed = np.abs(with_border - plain).max(axis=-1)[:, column].min(axis=1)
    line = np.flatnonzero(changed[: len(changed) // 2])
    assert changed[line].max() > 100
    assert 1 <= len(line) <= 4
    frame = np.flatnonzero((plain[:, column] == 0x80).all(axis=(1, 2)))  # its upper and lower side
    assert len(frame) >= 2
    middle = frame[0] + (frame[frame > frame[0] + 100][0] - frame[0]) / 4
    assert line.mean() == pytest.approx(middle, abs=1.5)


# ---- what the radar did not see ------------------------------------------------------------------


@needs_matplotlib
@pytest.mark.parametrize(
    ("num_members", "suffix", "doubted"),
    [(1, ".png", 1), (3, ".png", 1), (3, ".gif", 1), (1, ".png", 3)],
)
def test_what_the_radar_did_not_see_is_dotted(
    tmp_path: Path, suffix: str, num_members: int, doubted: int
) -> None:
    num_leads = 2 if suffix == ".gif" else 1
    quality = np.zeros((num_leads, 64, 64), np.uint8)
    rain = np.zeros((4, 64, 64)), np.zeros((num_members, num_leads, 64, 64))
    counts = []
    for value in (2, doubted):
        quality[:, :32] = value  # 0 and 2 are not dotted
        if suffix == ".gif":
            quality[0, :32] = 1  # and not in the last picture
        path = tmp_path / f"{value}{suffix}"
        plot(path, *rain, quality=quality)
        pixels = last_picture(path).astype(np.int16)
        shade = int(DOUBT_STYLE["edgecolor"][1:3], 16)
        counts.append(int((np.abs(pixels - shade).max(axis=-1) < 40).sum()))
    elsewhere, dotted = counts
    assert elsewhere + 1100 < dotted
    if suffix == ".gif":  # dots of an earlier picture are gone
        assert elsewhere < dotted / 4


THIN = [pytest.param(shape, marks=pytest.mark.slow) for shape in ((1, 64), (64, 1), (3, 1000))]


@needs_matplotlib
@pytest.mark.parametrize("suffix", [".png", ".gif"])
@pytest.mark.parametrize("shape", [(1, 1), *THIN])
def test_thin_domains_are_drawn(tmp_path: Path, shape: tuple[int, int], suffix: str) -> None:
    quality = np.ones((2, *shape), np.uint8)
    plot(tmp_path / f"a{suffix}", np.zeros((4, *shape)), np.zeros((2, 2, *shape)), quality=quality)
    assert last_picture(tmp_path / f"a{suffix}").size


@needs_matplotlib
def test_a_cell_of_several_pixels_is_dotted_where_most_are_in_doubt(monkeypatch, tmp_path) -> None:
    """A picture of 650 x 650 pixels has cells of 3 x 3."""
    seen = []
    monkeypatch.setattr(panels, "add_doubt", lambda _axes, doubt: seen.append(doubt))
    quality = np.zeros((1, 651, 651), np.uint8)
    quality[:, :, ::3] = 1  # a third of each cell
    quality[:, :3, 1::3] = 1  # two thirds in the first row of cells
    sheet_of(
        monkeypatch, tmp_path, np.zeros((4, 651, 651)), np.zeros((1, 1, 651, 651)), quality=quality
    )
    (doubt,) = seen
    assert doubt.shape == (217, 217) and doubt[0].all() and not doubt[1:].any()


# ---- MP4 -----------------------------------------------------------------------------------------

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="an .mp4 needs ffmpeg")


@needs_matplotlib
@needs_ffmpeg
def test_the_mp4_shows_what_the_gif_shows(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    past, rain = make_rain(1, 24, 31, num_leads=2)
    for name in ("film.gif", "film.mp4"):
        plot(tmp_path / name, past, rain)
    with image.open(tmp_path / "film.gif") as film:
        width, height = film.width + film.width % 2, film.height + film.height % 2
        starts, wanted, ticks = [], [], 0
        for i in range(film.n_frames):
            film.seek(i)
            starts.append(ticks)
            ticks += film.info["duration"] // 50
            wanted.append(np.asarray(film.convert("RGB")))
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "film.mp4")]
    command += ["-vf", "scale=in_color_matrix=bt709", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    frames = np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)
    assert len(frames) == ticks
    for start, picture in zip(starts, wanted, strict=True):
        rows, columns = picture.shape[:2]
        difference = frames[start, :rows, :columns].astype(int) - picture
        assert np.abs(difference).mean() < 6  # of which the next picture is far
    assert np.abs(wanted[4].astype(int) - wanted[5]).mean() > 12


@needs_matplotlib
def test_a_failing_ffmpeg_leaves_the_old_film(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").write_text(
        '#!/bin/sh\ncase "$*" in *-encoders*) echo libx264;; *) exit 1;; esac'
    )
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="ffmpeg could not make"):
        plot(path, np.zeros((4, 16, 16)), np.zeros((1, 1, 16, 16)))
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [folder, path]
