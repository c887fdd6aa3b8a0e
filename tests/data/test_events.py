"""Event files: what is read, what is refused and with which words, and how events are cut."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.cadence import check_cadence
from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.past import past_event
from ldcast.data.readers.specs import absolute_spec, read_event
from ldcast.data.reading import Reading
from ldcast.data.spans import hold_out, parse_time
from ldcast.errors import InputError
from ldcast.frames import FrameConfig

FRAMES = FrameConfig()
THIN = (
    "leave out those between by python -m ldcast.data.build FILE --minutes-per-frame 10 "
    "--out FILE_10min.npz"
)

START = np.datetime64("2020-06-01T00:00:00", "s")
NUM_FRAMES, HEIGHT, WIDTH = 6, 7, 5


def minutes(*numbers: int) -> np.ndarray:
    return START + np.array(numbers) * np.timedelta64(60, "s")


def make_event(num_frames: int = NUM_FRAMES, step: int = 5, name: str = "storm") -> RainEvent:
    """Frame i holds i mm/h everywhere."""
    rain_rate = np.ones((num_frames, HEIGHT, WIDTH), dtype=np.float16)
    rain_rate *= np.arange(num_frames, dtype=np.float16)[:, None, None]
    return RainEvent(rain_rate, minutes(*range(0, num_frames * step, step)), name=name)


def without_frames(event: RainEvent, *frames: int) -> RainEvent:
    return RainEvent(
        np.delete(event.rain_rate, frames, axis=0), np.delete(event.time, frames), name=event.name
    )


@pytest.fixture
def save(tmp_path):
    """Writes an event file with the given arrays replaced (None leaves one out); its path."""

    def write(**changed: np.ndarray | None):
        event = make_event()
        arrays = {"rain_rate": event.rain_rate, "time": event.time, **changed}
        path = tmp_path / "storm.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return write


# ---- reading and writing -------------------------------------------------------------------------


def test_written_event_is_read_back(tmp_path):
    event = make_event()
    event.rain_rate[1, 2, 3] = np.nan
    event = RainEvent(
        event.rain_rate, event.time, {"pixel_size_m": 1000.0, "projection": "+proj=stere"}
    )
    write_event(event, tmp_path / "copy.npz")
    again = read_event(tmp_path / "copy.npz")
    np.testing.assert_array_equal(again.rain_rate, event.rain_rate)
    np.testing.assert_array_equal(again.time, event.time)
    assert again.rain_rate.dtype == np.float16
    assert again.grid == event.grid and isinstance(again.grid["pixel_size_m"], float)
    assert again.name == "copy"
    assert [path.name for path in tmp_path.iterdir()] == ["copy.npz"]


def test_grid_takes_scalars_only_and_keeps_times(save):
    issued = np.datetime64("2020-01-01", "ns")
    event = read_event(save(x1=np.array(-3.5), issued=np.array(issued), mask=np.zeros((2, 2))))
    assert event.grid == {"x1": -3.5, "issued": issued}


DEGREES = {"x1": 5.0, "y1": 51.0, "x2": 5.05, "y2": 51.07}  # sides of 0.01


@pytest.mark.parametrize(
    ("grid", "sides"),
    [
        ({"projection": "+proj=longlat +datum=WGS84"}, (701.4, 1112.5)),
        (
            {"projection": "EPSG:4326", "pixel_size_m": 0.01, "pixel_size_y_m": 0.01},
            (701.4, 1112.5),
        ),
        ({"projection": "EPSG:4326 (degrees in x1..y2)", "pixel_size_m": 805.0}, (805.0, None)),
        ({"projection": "+proj=laea", "pixel_size_m": 0.01}, (0.01, None)),
        ({"projection": "+proj=longlat", "y1": 88.0, "y2": 90.1}, (None, None)),
        ({"projection": "+proj=ob_tran +o_proj=longlat"}, (None, None)),
        ({"projection": "+proj=longlat", "x1": "west"}, (None, None)),
    ],
)
def test_pixels_in_degrees_are_given_in_metres(save, grid, sides):
    event = make_event()
    path = save(rain_rate=event.rain_rate, time=event.time, **{**DEGREES, **grid})
    read = read_event(path).grid
    for name, side in zip(("pixel_size_m", "pixel_size_y_m"), sides, strict=True):
        assert read.get(name) == (None if side is None else pytest.approx(side, abs=0.1))
    assert read["x2"] == 5.05


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "copy.npz"
    write_event(make_event(), path)
    before = path.read_bytes()
    broken = RainEvent(make_event().rain_rate, make_event().time, {"rain_rate": 1})
    with pytest.raises(TypeError):
        write_event(broken, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_writing_needs_an_npz_name(tmp_path):
    write_event(make_event(), tmp_path / "COPY.NPZ")
    assert read_event(tmp_path / "COPY.NPZ").name == "COPY"
    with pytest.raises(InputError, match=r"ends in \.npz"):
        write_event(make_event(), tmp_path / "copy.nc")


def test_rounding_below_zero_becomes_zero(save):
    rain_rate = make_event().rain_rate
    rain_rate[2, 3, 1], rain_rate[2, 3, 2] = -9e-4, np.nan
    event = read_event(save(rain_rate=rain_rate))
    assert event.rain_rate[2, 3, 1] == 0 and np.isnan(event.rain_rate[2, 3, 2])
    assert (event.rain_rate[3] == 3).all()


def test_float64_is_read_as_float32(save):
    event = read_event(save(rain_rate=make_event().rain_rate.astype(np.float64)))
    assert event.rain_rate.dtype == np.float32


def test_time_of_any_unit_is_read_in_seconds(save):
    event = read_event(save(time=make_event().time.astype("datetime64[ns]")))
    assert event.time.dtype == np.dtype("datetime64[s]")
    np.testing.assert_array_equal(event.time, make_event().time)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"no event file .*nothing\.npz: expected PATH"):
        read_event(tmp_path / "nothing.npz")
    with pytest.raises(InputError, match=r"folder.* expected a file"):
        read_event(tmp_path)


def test_what_is_no_npz(save, tmp_path):
    whole = save().read_bytes()
    damaged = tmp_path / "damaged.npz"
    for contents in (b"", b"text", whole[: len(whole) // 2]):
        damaged.write_bytes(contents)
        with pytest.raises(InputError, match=r"is not an \.npz file, or its end is missing"):
            read_event(damaged)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"is not an \.npz file"):
        read_event(tmp_path / "array.npy")
    damaged.write_bytes(whole[:200] + b"?" + whole[201:])  # a checksum fails
    with pytest.raises(InputError, match="cannot be read"):
        read_event(damaged)


def test_pickled_objects_are_never_loaded(save):
    with pytest.raises(InputError, match="cannot be read: Object arrays cannot be loaded"):
        read_event(save(note=np.array({"a": 1}, dtype=object)))


RAIN = make_event().rain_rate
TIME = make_event().time


def changed(array: np.ndarray, index: tuple[int, ...] | int, value: float | str) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"rain_rate": None, "dbz": RAIN}, "has no rain_rate: it has time, dbz; expected"),
        ({"time": None}, "has no time: it has rain_rate"),
        ({"rain_rate": RAIN[0]}, r"shape \(7, 5\), expected \(time, y, x\)"),
        ({"rain_rate": RAIN[:0], "time": TIME[:0]}, r"shape \(0, 7, 5\)"),
        ({"rain_rate": RAIN.astype(np.int16)}, "int16, expected float16 or float32 mm/h"),
        ({"units": np.array("dBZ")}, r"units 'dBZ', expected .* mm/h = \(10 \*\* \(dBZ / 10\)"),
        ({"rain_rate": changed(RAIN, (2, 3, 4), -0.01)}, r"down to -0\.01\d* in frame 2, .*dBZ"),
        ({"rain_rate": changed(RAIN, (4, 0, 0), np.inf)}, "infinite values in frame 4"),
        ({"rain_rate": changed(RAIN, (4, 0, 0), -np.inf)}, "infinite values in frame 4"),
        ({"rain_rate": changed(RAIN, (2, 3), 9999)}, "are above 500 mm/h.* write NaN for no data"),
        ({"time": np.arange(6)}, r"time is int64, expected datetime64\[s\]"),
        ({"time": TIME[:5]}, r"shape \(5,\) .* each of 6 frames"),
        ({"time": changed(TIME, 3, "NaT")}, "1 empty entries"),
        ({"time": TIME[::-1]}, "2020-06-01T00:25 is followed by 2020-06-01T00:20"),
        (
            {"time": minutes(0, 5, 10, 10, 15, 20)},
            "2020-06-01T00:10 is followed by 2020-06-01T00:10",
        ),
    ],
)
def test_wrong_contents_are_refused(save, arrays, message):
    with pytest.raises(InputError, match=message) as error:
        read_event(save(**arrays))
    assert "\n" not in str(error.value) and "storm.npz" in str(error.value)


# ---- spans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "frames"),
    [
        ("2020-06-01T00:05/2020-06-01T00:20", [1, 2, 3]),
        ("2020-06-01T00:05Z/2020-06-01T00:20:00Z", [1, 2, 3]),
        ("2020-06-01T00:06/", [2, 3, 4, 5]),
        ("/2020-06-01T00:05", [0]),
        ("2020-06-01/2020-06-02", [0, 1, 2, 3, 4, 5]),
        ("/", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_span_selects_frames_without_its_end(save, span, frames):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy warns about time zones
        event = read_event(f"{save()}@{span}")
    assert event.rain_rate[:, 0, 0].tolist() == frames
    np.testing.assert_array_equal(event.time, TIME[frames])


def test_name_of_a_span_selects_it_again(save):
    path = save()
    event = read_event(f"{path}@2020-06-01T00:03/2020-06-01T00:17")
    assert event.name == "storm@2020-06-01T00:05/2020-06-01T00:20"
    again = read_event(str(path).replace("storm.npz", "storm.npz" + event.name.lstrip("storm")))
    np.testing.assert_array_equal(again.time, event.time)
    last = read_event(f"{path}@2020-06-01T00:20/")
    assert last.name == "storm@2020-06-01T00:20/2020-06-01T00:30"


def test_path_may_hold_an_at_sign(save, tmp_path):
    folder = tmp_path / "me@2020"
    folder.mkdir()
    path = save().rename(folder / "storm.npz")
    assert len(read_event(path).time) == 6
    assert len(read_event(path.rename(folder / "06")).time) == 6  # ends like a span
    path = (folder / "06").rename(path)
    assert len(read_event(f"{path}@/2020-06-01T00:10").time) == 2


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ("2021-01-01/", "selects no frame of storm, which goes from 2020-06-01T00:00 to .*T00:25"),
        ("2020-06-01T00:10/2020-06-01T00:10", "selects no frame"),
        ("2020-06-01T00:20/2020-06-01T00:10", "selects no frame"),
        ("2020-06-01T00:10", "expected START/END"),
        ("noon/", "span 'noon/' of .*expected START/END"),
        ("2020-13-01/", "time '2020-13-01': expected ISO and UTC"),
        ("2020-06-01T00:10-02:00/", "expected ISO and UTC"),
    ],
)
def test_wrong_spans_are_refused(save, span, message):
    with pytest.raises(InputError, match=message):
        read_event(f"{save()}@{span}")


def test_times_are_parsed_and_formatted():
    assert parse_time("2016-07-11T22:00Z") == np.datetime64("2016-07-11T22:00:00", "s")
    assert format_time(parse_time("2016-07-11T22:00:30")) == "2016-07-11T22:00:30"
    assert format_time(parse_time("2016-07-11")) == "2016-07-11T00:00"


def test_synthetic_rain_by_seed_and_span(monkeypatch):
    made = []

    def fake(seed: int, minutes: int) -> RainEvent:
        made.append((seed, minutes))
        return make_event(name=f"synthetic:{seed}")

    monkeypatch.setattr("ldcast.data.readers.specs.synthetic_event", fake)
    assert read_event("synthetic").name == "synthetic:0"
    assert len(read_event("synthetic:3@2020-06-01T00:10/").time) == 4
    read_event("synthetic:4", Reading(minutes=10))
    assert made == [(0, 5), (3, 5), (4, 10)]
    for spec in ("synthetic:", "synthetic:-1", "synthetic:x"):
        with pytest.raises(InputError, match="expected a number, such as synthetic:3"):
            read_event(spec)


# ---- cadence and past frames ---------------------------------------------------------------------


def test_five_minutes_pass_the_cadence_check():
    check_cadence(make_event(), 5)
    check_cadence(make_event(num_frames=1), 5)
    check_cadence(make_event(step=10), minutes=10)


def test_arrays_that_nothing_reads_are_said(tmp_path):
    event = make_event()
    np.savez(tmp_path / "e.npz", rain_rate=event.rain_rate, time=event.time, height=np.ones((3, 4)))
    assert read_event(tmp_path / "e.npz").notes == ("its arrays height are not used",)


def test_other_cadences_are_named():
    with pytest.raises(
        InputError, match=r"T00:00 and .*T00:06 are 6 minutes apart throughout, expected 5"
    ):
        check_cadence(make_event(step=6), 5)
    with pytest.raises(InputError, match=r"T00:10 and .*T00:20 are 10 minutes apart, expected 5"):
        check_cadence(without_frames(make_event(), 3), 5)


@pytest.mark.parametrize(
    ("event", "minutes", "flag", "remedy"),
    [
        (make_event(), 10, "", f"{THIN}, or use a model of its own cadence"),
        (make_event(), 10, "--every", f"{THIN}, or give --every 5"),
        (without_frames(make_event(), 3), 10, "--every", THIN),
        (make_event(step=6), 10, "--every", "give --every 6"),
        (make_event(step=6), 10, "", "use a model of its own cadence"),
        (make_event(step=10), 5, "", "use a model of its own cadence"),
        (without_frames(make_event(), 3), 5, "--every", "select a stretch .* by PATH@START/END"),
    ],
)
def test_what_helps_against_another_cadence_is_named(event, minutes, flag, remedy):
    with pytest.raises(InputError, match=f"; {remedy}$"):
        check_cadence(event, minutes, flag)


def test_past_frames_are_the_newest_by_default():
    past = past_event(make_event(), FRAMES)
    assert past.rain_rate.dtype == np.float32 and past.rain_rate.shape == (4, HEIGHT, WIDTH)
    assert past.rain_rate[:, 0, 0].tolist() == [2, 3, 4, 5]
    np.testing.assert_array_equal(past.time, minutes(10, 15, 20, 25))


def test_past_frames_at_an_issue_time_and_around_gaps():
    event = without_frames(make_event(num_frames=12), 6, 10)
    past = past_event(event, FRAMES, np.datetime64("2020-06-01T00:20"))
    assert past.rain_rate[:, 0, 0].tolist() == [1, 2, 3, 4] and past.time[-1] == minutes(20)[0]
    past = past_event(event, FRAMES)  # 7 8 9 | 11: the newest four in a row are 2 to 5
    assert past.rain_rate[:, 0, 0].tolist() == [2, 3, 4, 5] and past.time[-1] == minutes(25)[0]
    assert past_event(event, FrameConfig(past_frames=3)).time[-1] == minutes(45)[0]


def blank(event: RainEvent, *frames: int) -> RainEvent:
    event.rain_rate[list(frames)] = np.nan
    return event


@pytest.mark.parametrize(
    ("event", "minute", "note"),
    [
        (make_event(12), 55, ""),
        (
            blank(make_event(12), 11),
            50,
            "forecast from 2020-06-01T00:50, not from the 1 newer frame up to 2020-06-01T00:55: "
            "no forecast can start from them, with 2020-06-01T00:55 without data",
        ),
        (blank(make_event(12), 9), 40, "with 2020-06-01T00:45 without data"),
        (
            blank(make_event(12), 8, 9, 10, 11),
            35,
            "not from the 4 newer frames .* with 4 frames from 2020-06-01T00:40 to "
            "2020-06-01T00:55 without data",
        ),
        (without_frames(make_event(12), 10), 45, "with 2020-06-01T00:50 missing"),
        (
            without_frames(blank(make_event(12), 11), 9),
            40,
            "with 2020-06-01T00:55 without data and 2020-06-01T00:45 missing",
        ),
    ],
)
def test_past_goes_back_to_where_all_frames_hold_data(event, minute, note):
    past = past_event(event, FRAMES)
    assert past.time[-1] == minutes(minute)[0] and not np.isnan(past.rain_rate).any()
    assert len(past.notes) == bool(note) and re.search(note, "".join(past.notes))


def test_a_frame_with_any_data_holds_data():
    event = make_event()
    event.rain_rate[5, 1:] = np.nan
    past = past_event(replace(event, notes=("of the reader",)), FRAMES)
    assert past.time[-1] == minutes(25)[0] and past.notes == ("of the reader",)


@pytest.mark.parametrize(
    ("frames", "minute"),
    [
        ((0, 3), 25),  # 00:15 is in all of them, 00:00 in the first alone
        ((0, 3, 5), 20),  # the newest frame must hold data
        ((2, 5), 20),
        ((1, 3, 5), 20),
        (range(6), 25),
    ],
)
def test_past_without_four_full_frames_has_as_many_as_there_are(frames, minute):
    """Whether they are enough is for the forecast to say."""
    assert past_event(blank(make_event(), *frames), FRAMES).time[-1] == minutes(minute)[0]


def test_an_issue_time_that_is_asked_for_may_have_gaps():
    past = past_event(blank(make_event(), 3), FRAMES, np.datetime64("2020-06-01T00:20"))
    assert past.time[-1] == minutes(20)[0] and past.notes == ()


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_an_issue_time_ahead_of_the_clock_is_said(is_asked_for):
    start = np.datetime64("now", "s") - np.timedelta64(600, "s")  # 20 minutes for four frames
    event = replace(make_event(), time=start + np.arange(NUM_FRAMES) * np.timedelta64(300, "s"))
    past = past_event(event, FRAMES, event.time[-1] if is_asked_for else None)
    (note,) = past.notes
    assert re.search(r"issue time .* is 1[45] minutes ahead of the clock", note)
    assert (
        past_event(
            event, FrameConfig(past_frames=3), event.time[3] - np.timedelta64(300, "s")
        ).notes
        == ()
    )


def test_past_frames_are_a_copy():
    event = RainEvent(make_event().rain_rate.astype(np.float32), make_event().time)
    past_event(event, FRAMES).rain_rate[:] = -1
    assert (event.rain_rate >= 0).all()


def test_selected_frames_keep_all_that_is_said_of_each():
    event = make_event()
    event = replace(
        event, interval_start=event.time - 300, time_as_read=event.time + 7, notes=("n",)
    )
    for frames in (slice(1, 3), np.array([1, 2])):
        part = event.select(frames)
        assert part.rain_rate[:, 0, 0].tolist() == [1, 2] and part.notes == ("n",)
        np.testing.assert_array_equal(part.time, minutes(5, 10))
        np.testing.assert_array_equal(part.interval_start, minutes(0, 5))
        np.testing.assert_array_equal(part.time_as_read, minutes(5, 10) + 7)
    assert make_event().select(slice(1, 3)).interval_start is None


@pytest.mark.parametrize(
    ("event", "issue_time", "message"),
    [
        (make_event(num_frames=3), None, "storm: got 3 frames, expected 4"),
        (make_event(), "2020-06-01T00:21", "T00:21; the nearest is 2020-06-01T00:20"),
        (make_event(), "2020-06-01T00:10", "lacks 2020-05-31T23:55, needed"),
        (
            without_frames(make_event(), 2, 3),
            "2020-06-01T00:25",
            "lacks 2020-06-01T00:10, 2020-06-01T00:15, needed for issue time 2020-06-01T00:25",
        ),
        (make_event(step=6), None, "6 minutes apart throughout"),
        (without_frames(make_event(), 2, 3), None, "15 minutes apart, expected 5"),
    ],
)
def test_past_that_is_not_there_is_refused(event, issue_time, message):
    with pytest.raises(InputError, match=message):
        past_event(event, FRAMES, None if issue_time is None else np.datetime64(issue_time))


# ---- holding out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_frames", "num_train", "num_validation"),
    [(47, 47, 0), (48, 24, 24), (92, 68, 24), (200, 160, 40)],
)
def test_held_out_frames_are_the_last_and_never_shared(num_frames, num_train, num_validation):
    event = make_event(num_frames)
    train, validation = hold_out([event], 5)
    assert sum(len(part.time) for part in train) == num_train
    assert sum(len(part.time) for part in validation) == num_validation
    times = np.concatenate([part.time for part in train + validation])
    np.testing.assert_array_equal(times, event.time)  # all of them, once, validation last
    for part in train + validation:
        assert np.shares_memory(part.rain_rate, event.rain_rate)


def test_held_out_parts_are_named_by_their_spans():
    (train,), (validation,) = hold_out([make_event(48)], 5)
    assert train.name == "storm@2020-06-01T00:00/2020-06-01T02:00"
    assert validation.name == "storm@2020-06-01T02:00/2020-06-01T04:00"
    assert hold_out([make_event(10)], 5)[0][0].name == "storm"
    (train,), _ = hold_out([replace(make_event(48), name="storm@2020-06-01T00:00/")], 5)
    assert train.name == "storm@2020-06-01T00:00/2020-06-01T02:00"


@pytest.mark.parametrize("units", ["mm/h", "mm h-1", "mm/hr"])
def test_units_of_rain_rates_pass(save, units):
    assert read_event(save(units=np.array(units))).grid["units"] == units


@pytest.mark.parametrize("units", ["mm", "m s-1", "dBZ"])
def test_other_units_are_refused(save, units):
    with pytest.raises(InputError, match="expected rain_rate in mm/h"):
        read_event(save(units=np.array(units)))


@pytest.mark.parametrize("spec", ["a/../event.npz@/2020-01-01", "synthetic:3@/2000-01-01T01:00"])
def test_an_absolute_spec_names_the_same_data(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    folder = "" if spec.startswith("synthetic") else f"{tmp_path}/"
    assert absolute_spec(spec) == folder + spec.removeprefix("a/../")


def test_a_file_may_be_called_synthetic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_spec("synthetic_rain.npz") == f"{tmp_path}/synthetic_rain.npz"


def test_files_of_other_formats_are_pointed_to_the_converter(tmp_path):
    path = tmp_path / "RAD_NL25_RAP_5min_201008260000.h5"
    path.write_bytes(b"\x89HDF")
    with pytest.raises(InputError, match=r"is not an \.npz file.*python -m ldcast\.data\.build"):
        read_event(path)


@pytest.mark.parametrize("name", ["radar.nc", "radar.NC4", "radar.cdf", "radar.zarr"])
def test_netcdf_and_zarr_go_to_their_reader_with_the_span(monkeypatch, name):
    asked = []

    def fake(path: Path, how: Reading, start: str, end: str) -> RainEvent:
        asked.append((str(path), how, start, end))
        return make_event(name="radar")

    monkeypatch.setattr("ldcast.data.readers.specs.read_gridded", fake)
    assert len(read_event(name).time) == 6
    how = Reading(zr=(200, 1.6))
    assert len(read_event(f"{name}@2020-06-01T00:10/", how).time) == 4
    assert asked == [(name, Reading(), "", ""), (name, how, "2020-06-01T00:10", "")]
