"""A folder of radar files: the right four frames, of few files read."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.past import past_event
from ldcast.data.readers.services import READERS
from ldcast.errors import InputError
from ldcast.forecasting.arguments import parse_flags
from ldcast.forecasting.folder import frames_of_folder, time_in_name
from ldcast.forecasting.reading import radar_of
from ldcast.frames import FrameConfig

FRAMES = FrameConfig()

START = np.datetime64("2024-07-11T12:00", "s")
MINUTE = np.timedelta64(60, "s")


def at(*minutes: float) -> np.ndarray:
    return START + np.array([round(60 * minute) for minute in minutes], "timedelta64[s]")


class Folder:
    """Event files, and the names of those that were read."""

    def __init__(self, path: Path) -> None:
        self.path, self.read_names = path, []

    def bring(
        self, *minutes: float, name: Callable[[np.datetime64], str] | str | None = None
    ) -> None:
        """A frame of as many mm/h in each file."""
        for minute in minutes:
            time = at(minute)
            text = name(time[0]) if callable(name) else name or dated(time[0])
            rain = np.full((1, 8, 6), minute % 400, np.float32)
            write_event(RainEvent(rain, time), self.path / f"{text}.npz")

    def read(self, path: Path) -> RainEvent:
        self.read_names.append(path.name)
        return READERS["npz"](path)

    def past(self, issue_minute: float | None = None) -> RainEvent:
        self.read_names.clear()
        issue_time = None if issue_minute is None else at(issue_minute)[0]
        return past_event(
            frames_of_folder(self.path, self.read, FRAMES, issue_time), FRAMES, issue_time
        )

    def minutes(self, issue_minute: float | None = None) -> list[float]:
        return self.past(issue_minute).rain_rate[:, 0, 0].tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "frames").mkdir()
    return Folder(tmp_path / "frames")


def digits(time: np.datetime64) -> str:
    return "".join(character for character in str(time)[:16] if character.isdigit())


def dated(time: np.datetime64) -> str:
    return f"RADAR_{digits(time)}00"


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("T_PABV21_C_EUOC_20241126010500.hdf", "2024-11-26T01:05"),
        ("201609281445_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz", "2016-09-28T14:45"),
        ("RAD_NL25_RAP_5min_201008260000.h5", "2010-08-26T00:00"),
        ("AQC161932045V_00005.801.gif", "2016-07-11T20:45"),
        ("rain_2024-07-11T12:05:30.nc", "2024-07-11T12:05"),
        ("rain_20240711_1205.nc", "2024-07-11T12:05"),
        ("hourly_20240711110000_20240711120000.h5", "2024-07-11T12:00"),
        ("rain_20241311_1205.nc", None),
        ("frame003.npz", None),
        ("20240711.npz", None),
        ("README.txt", None),
    ],
)
def test_times_in_names(name, time) -> None:
    assert time_in_name(name) == (time and np.datetime64(time, "s"))


def test_four_of_many_files_are_read(folder) -> None:
    folder.bring(*range(0, 1000, 5))
    assert folder.minutes() == [980 % 400, 985 % 400, 990 % 400, 995 % 400]
    assert len(folder.read_names) == 4


def test_names_may_be_of_several_radars_and_sort_otherwise(folder) -> None:
    folder.bring(*range(0, 100, 10), name=lambda time: f"west_{digits(time)}")
    folder.bring(*range(5, 100, 10), name=lambda time: f"east_{digits(time)}")
    assert folder.minutes() == [80, 85, 90, 95] and len(folder.read_names) == 4


def test_the_frames_up_to_an_issue_time_are_found_beside_it(folder) -> None:
    folder.bring(*range(0, 300, 5))
    assert folder.minutes(100) == [85, 90, 95, 100]
    assert len(folder.read_names) == 4


@pytest.mark.parametrize("offset", [-60, 60, 3, -7])
def test_names_in_another_clock_are_no_worse(folder, offset) -> None:
    folder.bring(*range(0, 300, 5), name=lambda time: dated(time + offset * MINUTE))
    assert folder.minutes() == [280, 285, 290, 295] and len(folder.read_names) <= 5
    assert folder.minutes(100) == [85, 90, 95, 100] and len(folder.read_names) <= 12


@pytest.mark.parametrize("issue_minute", [None, 55])
@pytest.mark.parametrize("kind", ["reversed", "shuffled", "numbered", "one wrong"])
def test_names_that_say_something_else_cost_time_alone(folder, kind, issue_minute) -> None:
    order = {
        "reversed": [*range(95, -5, -5)],
        "shuffled": np.random.default_rng(1).permutation(np.arange(0, 100, 5)).tolist(),
    }.get(kind, [*range(0, 100, 5)])
    for index, minute in enumerate(order):
        named = dated(at(5 * index)[0])
        if kind == "numbered":
            named = f"frame{(37 * index) % 101:03}"
        elif kind == "one wrong" and minute == 90:
            named = dated(at(-500)[0])  # its name is older than that of all others
        folder.bring(minute, name=named)
    if kind == "one wrong" and issue_minute is None:
        # Without it no four are complete up to 95, so the last four before it are found: nothing
        # that was read contradicts the names.
        assert folder.minutes() == [70, 75, 80, 85]
        return
    last = 95 if issue_minute is None else issue_minute
    assert folder.minutes(issue_minute) == [last - 15, last - 10, last - 5, last]


def test_a_gap_sends_the_search_further_back(folder) -> None:
    folder.bring(*range(0, 50, 5), *range(55, 70, 5))
    assert folder.minutes() == [30, 35, 40, 45]
    assert len(folder.read_names) == 7


def test_of_a_faster_folder_some_frames_are_used_and_that_is_said(folder) -> None:
    folder.bring(*range(100))
    past = folder.past()
    assert past.rain_rate[:, 0, 0].tolist() == [84, 89, 94, 99]
    assert past.notes == ("frames are 1 minute apart: every fifth one is used",)
    assert len(folder.read_names) == 16
    assert folder.minutes(50) == [35, 40, 45, 50] and len(folder.read_names) == 16


@pytest.mark.parametrize("minutes", [2, 3, 10])
def test_other_cadences_are_refused_without_advice_that_does_not_fit(folder, minutes) -> None:
    folder.bring(*range(0, 50, minutes))
    with pytest.raises(InputError, match=f"are {minutes} minutes apart throughout") as error:
        folder.past()
    assert "@" not in str(error.value)


def test_frames_without_data_send_the_search_further_back(folder) -> None:
    folder.bring(*range(0, 100, 5))
    blank = RainEvent(np.full((1, 8, 6), np.nan, np.float32), at(90))
    write_event(blank, folder.path / f"{dated(at(90)[0])}.npz")
    event = frames_of_folder(folder.path, folder.read, FRAMES)
    assert event.time.tolist() == at(*range(70, 100, 5)).tolist()


def test_seconds_are_rounded_over_all_files(folder) -> None:
    folder.bring(0.1, 4.9, 10, 15.2, name=None)
    past = folder.past()
    assert past.time.tolist() == at(0, 5, 10, 15).tolist()
    assert past.time_as_read.tolist() == at(0.1, 4.9, 10, 15.2).tolist()
    for path in folder.path.iterdir():
        path.unlink()
    folder.bring(2.1, 6.9, 12, 17.2)
    assert folder.past().time.tolist() == at(2, 7, 12, 17).tolist()


def test_files_of_many_frames_are_frames_too(folder) -> None:
    for first in range(0, 300, 60):
        time = at(*range(first, first + 60, 5))
        rain = np.ones((12, 8, 6), np.float32) * np.arange(first, first + 60, 5)[:, None, None]
        write_event(RainEvent(rain, time), folder.path / f"{dated(time[0])}.npz")
    assert folder.minutes() == [280, 285, 290, 295] and len(folder.read_names) == 2
    assert folder.minutes(125) == [110, 115, 120, 125]


def test_no_more_is_kept_than_may_be_needed(folder) -> None:
    folder.bring(*range(0, 200, 5), name=lambda time: f"frame{digits(time)[-5:]}")
    event = frames_of_folder(folder.path, folder.read, FRAMES)
    assert len(event.time) == 4
    event = frames_of_folder(folder.path, folder.read, FRAMES, at(100)[0])
    assert event.time.tolist() == at(85, 90, 95, 100).tolist()


# ---- files that are no frames --------------------------------------------------------------------


def spoil(folder: Folder) -> None:
    """A truncated file among those that are needed, and strays."""
    whole = (folder.path / f"{dated(at(95)[0])}.npz").read_bytes()
    (folder.path / f"{dated(at(95)[0])}.npz").write_bytes(whole[:50])
    (folder.path / ".RADAR_hidden.npz").write_bytes(b"half")
    (folder.path / "old").mkdir()


def test_strays_are_skipped_and_named(folder) -> None:
    folder.bring(*range(0, 100, 5))
    spoil(folder)
    past = folder.past()
    assert past.rain_rate[:, 0, 0].tolist() == [75, 80, 85, 90]
    assert len(past.notes) == 2
    assert past.notes[0].startswith("skipped old: ") and "is a folder" in past.notes[0]
    assert past.notes[1].startswith(f"skipped {dated(at(95)[0])}.npz: ")
    assert all("\n" not in note for note in past.notes)


def test_many_strays_are_one_line(folder) -> None:
    folder.bring(0, 5, 10, 15)
    for number in range(9):
        (folder.path / f"empty{number}.npz").touch()
    (note,) = folder.past().notes
    assert note.startswith("skipped 9 files, such as empty8.npz, empty7.npz, empty6.npz: ")


def test_where_nothing_can_be_read_the_first_reason_is_said(folder) -> None:
    for number in range(3):
        (folder.path / f"empty{number}.npz").touch()
    with pytest.raises(InputError, match=r"none of its 3 files can be read; the first: .*empty2"):
        folder.past()


def test_an_empty_folder_is_said(folder) -> None:
    (folder.path / ".hidden").touch()
    with pytest.raises(InputError, match="has no files"):
        folder.past()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_skipped(folder) -> None:
    folder.bring(*range(0, 30, 5))
    (folder.path / f"{dated(at(25)[0])}.npz").chmod(0)
    assert folder.minutes() == [5, 10, 15, 20]


@pytest.mark.parametrize("minute", [-500, 52, 52.5, 500])
def test_an_issue_time_that_is_not_there_says_what_is(folder, minute) -> None:
    folder.bring(*range(0, 300, 5))
    with pytest.raises(InputError, match=r"no frame at issue time") as error:
        folder.past(minute)
    assert "of frames from 2024-07-11T12:00 to 2024-07-11T16:55" in str(error.value)
    assert len(folder.read_names) < 15


def test_an_issue_time_that_lacks_frames_names_them(folder) -> None:
    folder.bring(*range(0, 50, 5), *range(55, 300, 5))
    with pytest.raises(InputError, match="lacks 2024-07-11T12:50, needed for issue time"):
        folder.past(60)


def test_a_piece_that_no_file_has_is_said_of_the_first(folder) -> None:
    folder.bring(*range(0, 50, 5))
    arguments = ["--data", str(folder.path), "--reader", "npz", "--crop", "0", "0", "8", "7"]
    with pytest.raises(InputError, match=r"^RADAR_20240711124500: --crop ends .* 8 x 6 pixels"):
        radar_of(parse_flags("", arguments)).past


def test_pieces_of_files_are_joined(folder) -> None:
    folder.bring(*range(0, 50, 5))
    arguments = ["--data", str(folder.path), "--reader", "npz", "--crop", "1", "2", "3", "4"]
    assert radar_of(parse_flags("", arguments)).past.rain_rate.shape == (4, 3, 4)
    one = parse_flags("", ["--data", str(next(folder.path.iterdir())), "--reader", "npz"])
    with pytest.raises(InputError, match="got 1 frames, expected 4"):
        radar_of(one).past


def test_a_zarr_store_is_one_whatever_its_name(tmp_path) -> None:
    xarray = pytest.importorskip("xarray", reason="writes Zarr")
    pytest.importorskip("zarr", reason="writes Zarr")
    metres = {axis: (axis, 1000.0 * np.arange(4), {"units": "m"}) for axis in "yx"}
    rain = xarray.DataArray(
        np.ones((4, 4, 4), np.float32),
        {"time": at(0, 5, 10, 15).astype("datetime64[ns]"), **metres},
        ("time", "y", "x"),
        "rain",
        {"standard_name": "rainfall_rate", "units": "mm h-1"},
    )
    rain.to_dataset().to_zarr(tmp_path / "radar", zarr_format=2)
    past = radar_of(parse_flags("", ["--data", str(tmp_path / "radar"), "--reader", "xarray"])).past
    assert past.rain_rate.shape == (4, 4, 4)
