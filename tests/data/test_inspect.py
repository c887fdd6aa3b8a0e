"""python -m ldcast.data.inspect: months, gaps and rain of archives, and a picture of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.build import main as build
from ldcast.data.building.overview import look_at, spread
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.inspect import main
from ldcast.data.readers.times import open_rain
from ldcast.data.reading import AS_STATED
from ldcast.errors import run_script

xarray = pytest.importorskip("xarray", reason="reads archives")
pytest.importorskip("zarr", minversion="3", reason="writes archives")
pytest.importorskip("numcodecs", reason="rounds what archives keep")

START = np.datetime64("2020-01-31T23:00:00", "s")
MINUTES = [*range(0, 60, 5), *range(70, 130, 5), *range(300, 360, 5)]  # 12 frames in January


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 frames of 20 x 30 pixels with 2 gaps: a fifth has no data, a half of the rest is wet in
    January and none in February, but for one frame; another is blank."""
    rain_rate = np.zeros((len(MINUTES), 20, 30), np.float32)
    rain_rate[:12, :, 18:] = 2.0
    rain_rate[20] = 8.0
    rain_rate[:, :, :6] = np.nan
    rain_rate[30] = np.nan
    time = START + np.array(MINUTES) * np.timedelta64(60, "s")
    folder = tmp_path_factory.mktemp("inspected")
    write_event(RainEvent(rain_rate, time, {"pixel_size_m": 500.0}), folder / "event.npz")
    build([str(folder / "event.npz"), "--out", str(folder / "radar.zarr")])
    return folder / "radar.zarr"


def run(*arguments: object) -> int:
    return run_script(lambda: main([str(argument) for argument in arguments]))


def test_months_gaps_and_rain_are_those_of_the_archive(archive):
    rain = open_rain(archive, AS_STATED)
    found = look_at(rain, 5, range(len(MINUTES)))
    january, february = found.months
    assert (january.num_frames, january.num_expected, january.num_blank) == (12, 12, 0)
    assert (february.num_frames, february.num_expected, february.num_blank) == (24, 60, 1)
    assert january.valid == february.valid == 0.8
    assert january.wet == 0.5 and february.wet == pytest.approx(1 / 23)
    assert january.mean == 1 and january.highest == 2 and february.highest == 8
    assert found.minutes == 5 and found.num_missing == 36 and found.other_steps == {}
    assert [gap.num_missing for gap in found.gaps] == [34, 2]
    assert found.gaps[1].before == START + np.timedelta64(55, "m")
    assert found.rates.sum() == 12 * 240 + 480
    median, _, most, _ = found.quantiles()
    assert 2 <= median < 2.6 and 8 <= most < 10.1  # to the width of a class
    assert found.valid[0, 0] == 0 and np.isnan(found.wet[0, 0])
    assert found.valid[0, 10] == pytest.approx(35 / 36)
    assert found.wet[0, 20] == pytest.approx(13 / 35)
    assert found.wettest_time == START + np.timedelta64(MINUTES[20], "m")
    assert (found.wettest[:, 6:] == 8).all()


def test_it_is_said_line_by_line(archive, capsys):
    assert run(archive) == 0
    said = capsys.readouterr().out
    assert "36 frames, 2020-01-31T23:00 to 2020-02-01T04:55, 5 minutes apart" in said
    assert "2 gaps with 36 times missing (50.0%):" in said
    assert "  34 times between 2020-02-01T01:05 and 2020-02-01T04:00" in said
    assert re.search(r"2020-01 +12 +100\.0% +0\.0% +20\.0% +50\.0% +1 +2\n", said)
    assert re.search(r"2020-02 +24 +40\.0% +4\.2% +20\.0% +4\.3% +0\.348 +8\n", said)


def test_months_without_a_frame_are_one_row(archive, tmp_path, capsys):
    with xarray.open_zarr(archive) as dataset:
        part = dataset.drop_vars("missing_times").isel(time=[0, 1, 2, 3]).load().drop_encoding()
    time = np.array(["2020-01-31T23:00", "2020-01-31T23:05", "2020-01-31T23:10", "2020-05-01"])
    part = part.assign_coords(time=time.astype("datetime64[ns]"))
    part.to_zarr(tmp_path / "a.zarr", consolidated=False)
    assert run(tmp_path / "a.zarr") == 0
    said = capsys.readouterr().out
    assert re.search(r"2020-02 to 2020-04 +0 +0\.0%( +-){5}\n", said)
    assert said.count("2020-") == 2 + 2 + 2 + 2  # span, gap, this row and two months


def test_a_few_frames_are_enough_and_months_without_any_are_dashes(archive, capsys):
    assert spread(np.arange(36), 3) == [0, 18, 35] and spread(np.arange(2), 3) == [0, 1]
    assert run(archive, "--frames", 1) == 0
    said = capsys.readouterr().out
    assert "of 1 frames, evenly over all:" in said
    assert re.search(r"2020-02 +24 +40\.0%( +-){5}\n", said)


def test_a_piece_is_looked_at_alone(archive, capsys):
    assert run(archive, "--crop", 0, 18, 20, 12) == 0
    said = capsys.readouterr().out
    assert "20 x 12 pixels" in said and re.search(r"2020-01 .* 0\.0% +100\.0% ", said)


def test_other_cadences_of_a_store_are_said(archive, tmp_path, capsys):
    with xarray.open_zarr(archive) as dataset:
        part = dataset.drop_vars("missing_times").isel(time=[0, 1, 2, 3]).load().drop_encoding()
    minutes = np.array([0, 5, 10, 17]) * np.timedelta64(60, "s")
    part = part.assign_coords(time=(START + minutes).astype("datetime64[ns]"))
    part.to_zarr(tmp_path / "a.zarr", consolidated=False)
    assert run(tmp_path / "a.zarr") == 0
    assert "1 times frames are 7 minutes apart, no multiple" in capsys.readouterr().out


def test_the_picture_shows_what_was_looked_at(archive, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws pictures")
    image = pytest.importorskip("PIL.Image", reason="opens pictures")
    assert run(archive, "--plot", tmp_path / "a.png") == 0
    assert f"wrote {tmp_path / 'a.png'}" in capsys.readouterr().out
    pixels = np.asarray(image.open(tmp_path / "a.png").convert("RGB"))
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3)}
    assert (0x0B, 0x53, 0x94) in colours  # coverage and rates
    assert (0x68, 0x60, 0xD0) in colours  # 5 to 10 mm/h in the wettest frame


def test_what_cannot_be_looked_at_is_one_line(tmp_path, capsys):
    for arguments, message in (
        ((tmp_path / "none.zarr",), "none.zarr is missing"),
        ((tmp_path, "--frames", 0), "got 0 frames"),
        ((tmp_path, "--plot", tmp_path / "a.gif"), r"ends in '.gif', expected .png"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
