"""A feed with every fault that a radar network has, and what is due then."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.readers.services import READERS
from ldcast.data.readers.specs import read_event
from ldcast.errors import InputError
from ldcast.forecasting import feed as feed_module
from ldcast.forecasting.feed import (
    FrameFeed,
    clear_leftovers,
    forecast_path,
    next_time,
    surplus_forecasts,
)
from ldcast.frames import FrameConfig

START = np.datetime64("2016-07-11T22:00", "s")
STEP = np.timedelta64(300, "s")


class Feed:
    """A folder, the feed that looks at it, and what the feed said."""

    def __init__(self, folder: Path, num_kept: int = 50) -> None:
        self.folder, self.lines = folder, []
        self.feed = FrameFeed(folder, read_event, FrameConfig(), num_kept, self.lines.append)

    def bring(self, *numbers: int, name: str = "frame", size: int = 8, value: float = 0.0) -> None:
        for number in numbers:
            rain_rate = np.full((1, size, 6), number % 100 + value, np.float32)
            event = RainEvent(rain_rate, np.array([START + number * STEP]))
            write_event(event, self.folder / f"{name}{number:03}.npz")

    def bring_as(self, name: str, *numbers: int) -> None:
        """Frames in one file, that replaces what has the name."""
        rain_rate = np.stack([np.full((8, 6), number, np.float32) for number in numbers])
        event = RainEvent(rain_rate, START + np.array(numbers) * STEP)
        write_event(event, self.folder / name)

    def frames(self) -> list[int]:
        """Numbers of the frames that are held."""
        return sorted(int((time - START) / STEP) for time in self.feed._images)

    def look(self) -> list[int]:
        """Numbers of the frames that forecasts are due from, once all files are read."""
        self.feed.look()
        for _ in range(100):
            if not self.feed.look():
                break
        else:
            pytest.fail("there are always more files to read")
        return [int((time - START) / STEP) for time in self.feed.due()]


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return Feed(tmp_path)


def test_a_forecast_is_due_when_the_fourth_frame_is_there(feed) -> None:
    feed.bring(0, 1, 2)
    assert feed.look() == []
    feed.bring(3)
    assert feed.look() == [3]
    event = feed.feed.event(START + 3 * STEP)
    assert event.rain_rate[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert event.time.tolist() == [START + i * STEP for i in range(4)]


def test_a_file_is_read_once_it_is_the_same_in_two_looks(feed) -> None:
    feed.bring(0, 1, 2, 3)
    feed.feed.look()
    assert feed.feed.due() == []
    feed.feed.look()
    assert len(feed.feed.due()) == 1


def test_newest_first(feed) -> None:
    feed.bring(*range(6))
    assert feed.look() == [5, 4, 3]


def test_a_missing_frame_costs_its_four_forecasts_and_no_more(feed) -> None:
    feed.bring(*range(4), *range(5, 12))
    assert feed.look() == [11, 10, 9, 8, 3]


def test_a_late_frame_brings_the_forecasts_that_waited_for_it(feed) -> None:
    feed.bring(0, 1, 3, 4, 5)
    assert feed.look() == []
    feed.bring(2)
    assert feed.look() == [5, 4, 3]


def test_a_repeated_frame_changes_nothing(feed) -> None:
    feed.bring(*range(4))
    feed.look()
    feed.bring(3, name="again", value=0.5)
    assert feed.look() == [3]
    assert feed.feed.event(START + 3 * STEP).rain_rate[-1, 0, 0] == 3
    assert feed.lines == [
        "skipped again003.npz: all its frames, up to 2016-07-11T22:15, came before"
    ]


def test_a_broken_frame_is_said_once_and_taken_when_it_is_fixed(feed) -> None:
    feed.bring(*range(4))
    path = feed.folder / "frame003.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert feed.look() == feed.look() == []
    assert len(feed.lines) == 1 and feed.lines[0].startswith("skipped frame003.npz: ")
    path.write_bytes(whole)
    assert feed.look() == [3]


def test_whatever_a_reader_raises_is_passed_over(tmp_path) -> None:
    def read(path: Path) -> RainEvent:
        raise MemoryError("of a library")

    lines = []
    feed = FrameFeed(tmp_path, read, FrameConfig(), 5, lines.append)
    (tmp_path / "frame.h5").touch()
    feed.look()
    feed.look()
    assert lines == ["skipped frame.h5: of a library"]


def test_a_frame_from_the_future_does_not_make_the_others_old(feed) -> None:
    feed.bring(*range(4))
    feed.bring(12 * 24 * 365 * 200, name="wrong")
    assert feed.look() == [3]
    assert "is in the future" in feed.lines[0]


@pytest.mark.parametrize(("minutes", "is_read"), [(4, True), (6, False)])
def test_a_clock_may_be_ahead_by_one_frame(feed, minutes, is_read) -> None:
    time = np.datetime64("now") + np.timedelta64(minutes, "m")
    write_event(RainEvent(np.ones((1, 8, 6), np.float32), np.array([time])), feed.folder / "a.npz")
    feed.look()
    assert bool(feed.feed._images) is is_read
    assert len(feed.lines) == (not is_read)


def this_minute() -> np.datetime64:
    """Without seconds, which would be rounded near whole 5 minutes."""
    return np.datetime64("now").astype("datetime64[m]").astype("datetime64[s]")


def test_a_frame_that_is_ahead_makes_no_other_old(tmp_path) -> None:
    feed = Feed(tmp_path, num_kept=1)
    now = this_minute()
    for number, time in enumerate((now + STEP // 2, *(now - np.arange(4) * STEP))):
        write_event(
            RainEvent(np.ones((1, 8, 6), np.float32), np.array([time])), tmp_path / f"{number}.npz"
        )
    feed.look()
    assert feed.feed.due() == [now]


def test_an_hour_of_frames_from_a_clock_ahead_makes_no_others_old(tmp_path) -> None:
    """UTC+1 by mistake in some files, and few frames are kept."""
    feed = Feed(tmp_path, num_kept=1)
    now = this_minute()
    for number in reversed(range(12)):
        for name, time in (("right", now), ("ahead", now + np.timedelta64(1, "h"))):
            event = RainEvent(np.ones((1, 8, 6), np.float32), np.array([time - number * STEP]))
            write_event(event, tmp_path / f"{name}{number}.npz")
    feed.look()
    assert feed.feed.due()[0] == now


def test_frames_of_two_grids_give_no_forecast(feed, monkeypatch) -> None:
    feed.bring(0, 1, 2)
    feed.look()

    def read(path: Path) -> RainEvent:
        return replace(read_event(path), grid={"x1": 7.0})

    monkeypatch.setattr(feed.feed, "read", read)
    feed.bring(3)
    (due,) = feed.look()
    with pytest.raises(InputError, match="differs in x1"):
        feed.feed.event(START + due * STEP)


def test_half_precision_becomes_float32(feed, monkeypatch) -> None:
    def read(path: Path) -> RainEvent:
        event = read_event(path)
        return replace(event, rain_rate=event.rain_rate.astype(np.float16))

    monkeypatch.setattr(feed.feed, "read", read)
    feed.bring(0, 1, 2, 3)
    feed.look()
    assert feed.feed.event(START + 3 * STEP).rain_rate.dtype == np.float32


def test_a_frame_that_cannot_be_read_for_a_moment_is_tried_again(feed, monkeypatch) -> None:
    feed.bring(0, 1, 2, 3)

    def read(path: Path) -> RainEvent:
        raise OSError(errno.ESTALE, "stale file handle")

    monkeypatch.setattr(feed.feed, "read", read)
    assert feed.look() == feed.look() == []
    assert len(feed.lines) == 4  # each once
    monkeypatch.setattr(feed.feed, "read", read_event)
    assert feed.look() == [3]


def test_a_format_that_is_wrong_is_not_tried_again(feed, monkeypatch) -> None:
    feed.bring(0)
    (path,) = feed.folder.iterdir()
    read = []

    def raising(number: int | None):
        def read_in_vain(path: Path) -> RainEvent:
            read.append(path)
            raise InputError("damaged") from OSError(number, "HDF error")

        return read_in_vain

    for number, times_read in ((None, 1), (-101, 1), (errno.EIO, 4)):
        monkeypatch.setattr(feed.feed, "read", raising(number))
        read.clear()
        os.utime(path, (times_read, abs(number or 0)))  # as if written anew
        for _ in range(5):
            feed.feed.look()
        assert len(read) == times_read


def test_files_that_fail_are_no_reason_to_look_on_at_once(feed, monkeypatch) -> None:
    feed.bring(*range(20))
    read = []

    def read_in_vain(path: Path) -> RainEvent:
        read.append(path)
        raise OSError(errno.EACCES, "permission denied")

    monkeypatch.setattr(feed.feed, "read", read_in_vain)
    assert [feed.feed.look() for _ in range(6)] == [False, True, True, False, False, False]
    assert len(read) == 40 and len(set(read[:20])) == len(set(read[20:])) == 20  # all in turn


def test_frames_of_the_future_are_no_reason_to_look_on_at_once(feed) -> None:
    feed.bring(*range(10**7, 10**7 + 12))
    assert [feed.feed.look() for _ in range(5)] == [False, True, False, False, False]


def test_files_that_fail_do_not_crowd_out_the_others(feed, monkeypatch) -> None:
    feed.bring(*range(12))
    for number, path in enumerate(sorted(feed.folder.iterdir())):
        os.utime(path, (number, number))

    def read(path: Path) -> RainEvent:
        if path.name >= "frame004.npz":
            raise OSError(errno.EACCES, "permission denied")
        return read_event(path)

    monkeypatch.setattr(feed.feed, "read", read)
    for _ in range(3):
        feed.feed.look()
    assert feed.feed.due() == [START + 3 * STEP]


def test_a_clock_that_is_set_right_brings_the_frames_back(feed, monkeypatch) -> None:
    feed.bring(0, 1, 2, 3)
    monkeypatch.setattr(feed_module, "AHEAD", np.timedelta64(-100 * 365, "D"))
    assert feed.look() == []
    monkeypatch.undo()
    assert feed.look() == [3]


def test_a_link_that_leads_nowhere_is_no_frame(feed) -> None:
    (feed.folder / "loop.npz").symlink_to("loop.npz")
    feed.bring(0, 1, 2, 3)
    assert feed.look() == [3] and feed.lines == []


def test_few_files_are_read_at_a_look_the_newest_first(feed) -> None:
    feed.bring(*range(12))
    for number, path in enumerate(sorted(feed.folder.iterdir())):
        os.utime(path, (number, number))
    assert feed.feed.look() is False  # none is known to be complete
    assert feed.feed.look() is True
    assert feed.feed.due()[0] == START + 11 * STEP
    assert feed.feed.look() is False


def test_hidden_files_and_folders_that_vanish_are_left_alone(feed, monkeypatch) -> None:
    (feed.folder / ".frame000.npz.tmp").write_bytes(b"half")
    listed = [*feed.folder.iterdir(), feed.folder / "gone.npz"]
    monkeypatch.setattr(Path, "iterdir", lambda _self: iter(listed))
    assert feed.look() == [] and feed.lines == []


def test_frames_of_two_sizes_give_no_forecast(feed) -> None:
    feed.bring(0, 1, 2)
    feed.bring(3, size=9)
    (due,) = feed.look()
    with pytest.raises(InputError, match="differs in pixels"):
        feed.feed.event(START + due * STEP)


def test_what_was_dropped_is_due_again_when_a_frame_is_written_anew(feed) -> None:
    feed.bring(*range(5))
    assert feed.look() == [4, 3]
    feed.feed.drop(START + 3 * STEP)
    assert feed.look() == [4]
    feed.bring(0, value=0.25)
    assert feed.look() == [4, 3]
    assert feed.feed.event(START + 3 * STEP).rain_rate[0, 0, 0] == 0.25


def test_only_the_newest_are_due_and_frames_do_not_pile_up(tmp_path) -> None:
    feed = Feed(tmp_path, num_kept=3)
    feed.bring(*range(40))
    assert feed.look() == [39, 38, 37]
    assert len(feed.feed._images) == 6
    feed.bring(40)
    assert feed.look() == [40, 39, 38]


def test_what_is_known_of_files_and_times_does_not_pile_up(tmp_path) -> None:
    feed = Feed(tmp_path, num_kept=2)
    for number in range(0, 40, 4):
        for path in tmp_path.iterdir():
            path.unlink()
        feed.bring(*range(number, number + 4))
        feed.bring(number, name="again")
        (tmp_path / "broken.npz").write_text(str(number))
        (due, *_) = feed.look()
        feed.feed.drop(START + due * STEP)
    assert len(feed.feed._read) == len(feed.feed._seen) == 6
    assert len(feed.feed._logged) == 2
    assert len(feed.feed._dropped) <= 2


def test_a_mended_time_stamp_leaves_nothing_behind(feed) -> None:
    feed.bring(0, 1, 2)
    feed.bring_as("frame003.npz", 9)
    assert feed.look() == []
    feed.bring_as("frame003.npz", 3)
    assert feed.look() == [3] and feed.frames() == [0, 1, 2, 3]
    feed.bring(*range(4, 10))
    assert feed.look()[0] == 9 and feed.lines == []
    assert feed.feed.event(START + 9 * STEP).source.endswith("frame009.npz")


def test_a_time_stamp_that_was_too_early_gives_way(feed) -> None:
    feed.bring_as("frame003.npz", 0)
    feed.look()
    feed.bring_as("frame003.npz", 3)
    feed.look()
    feed.bring(0, 1, 2, value=0.5)
    assert feed.look() == [3]
    assert feed.feed.event(START + 3 * STEP).rain_rate[:, 0, 0].tolist() == [0.5, 1.5, 2.5, 3]
    assert feed.lines == []


def test_a_file_that_always_holds_the_newest_frame_is_a_feed(feed) -> None:
    for number in range(5):
        feed.bring_as("latest.npz", number)
        feed.look()
    assert feed.look() == [4, 3]


def test_what_was_read_well_stays_when_its_file_breaks(feed) -> None:
    feed.bring(*range(4))
    feed.look()
    (feed.folder / "frame003.npz").write_bytes(b"PK broken")
    assert feed.look() == [3] and len(feed.lines) == 1


def test_rolling_files_of_many_frames_hold_no_more_than_each_frame(feed) -> None:
    for number in range(3):
        feed.bring_as(f"roll{number}.npz", *range(number, number + 12))
        feed.look()
    assert feed.look()[0] == 13 and feed.lines == []
    for time, (frame, _path) in feed.feed._images.items():
        assert frame.rain_rate.base is None, time
    feed.bring_as("roll3.npz", *range(3))
    feed.look()
    assert feed.lines == ["skipped roll3.npz: all its frames, up to 2016-07-11T22:10, came before"]


def test_a_frame_of_no_use_gives_way_to_its_issue_from_another_file(feed) -> None:
    feed.bring(0, 1, 2)
    feed.bring(3, name="empty", value=np.nan)
    assert feed.look() == [3]
    feed.feed.drop(START + 3 * STEP)
    feed.bring(3)
    assert feed.look() == [3] and feed.lines == []
    assert feed.feed.event(START + 3 * STEP).rain_rate[-1, 0, 0] == 3
    feed.bring(3, name="again")
    feed.look()
    assert len(feed.lines) == 1  # now it is of use, and the first stays


def test_a_store_is_read_again_when_a_chunk_comes(feed, monkeypatch) -> None:
    """The entry of the folder itself stays as it is."""
    chunks = feed.folder / "frame.zarr" / "c"
    chunks.mkdir(parents=True)
    (chunks / "0").write_text("first")
    before = chunks.parent.stat()
    read = []
    monkeypatch.setattr(feed.feed, "read", lambda path: read.append(path) or read_event(path))
    feed.look()
    assert len(read) == 1
    (chunks / "1").write_text("second")
    os.utime(chunks / "1", (0, 0))  # as copied with its times
    assert chunks.parent.stat() == before
    feed.feed.look()
    assert len(read) == 1  # not yet the same in two looks
    feed.look()
    assert len(read) == 2


def test_a_folder_that_is_gone_for_a_while_is_said_once(feed) -> None:
    feed.bring(0, 1, 2)
    feed.look()
    away = feed.folder.with_name("away")
    for _ in range(2):
        feed.lines.clear()
        feed.folder.rename(away)
        assert feed.look() == feed.look() == []
        assert feed.lines == [
            f"cannot look into {feed.folder} (No such file or directory), trying again"
        ]
        away.rename(feed.folder)
        feed.look()
    feed.bring(3)
    assert feed.look() == [3] and len(feed.lines) == 1


@pytest.mark.parametrize("num_kept", [1, 50])
def test_another_cadence_is_said_once(tmp_path, num_kept) -> None:
    feed = Feed(tmp_path, num_kept)
    for number in range(0, 16, 2):
        feed.bring(number)
        assert feed.look() == []
        assert len(feed.lines) == (number >= 6)
    assert "no two of its frames are 5 minutes apart" in feed.lines[0]


def test_a_gap_is_no_other_cadence(feed) -> None:
    feed.bring(0, 2, 3, 6, 8)
    assert feed.look() == [] and feed.lines == []


def test_a_folder_of_years_is_not_read_through(tmp_path, monkeypatch) -> None:
    feed = Feed(tmp_path, num_kept=2)
    feed.bring(*range(100))
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        os.utime(path, (number, number))
    read = []
    monkeypatch.setattr(feed.feed, "read", lambda path: read.append(path) or read_event(path))
    assert feed.look() == [99, 98]
    assert len(read) == 24 and read[0].name == "frame099.npz"


def test_forecasts_are_named_by_issue_time_and_the_oldest_go_first(tmp_path) -> None:
    paths = [forecast_path(tmp_path, START + number * STEP, ".npz") for number in range(5)]
    assert paths[0].name == "forecast_20160711T2200.npz"
    for path in (*paths, tmp_path / "forecast_20160711T2200.nc", tmp_path / "mine.npz"):
        path.touch()
    assert surplus_forecasts(tmp_path, ".npz", 3) == paths[:2]
    assert surplus_forecasts(tmp_path, ".npz", 5) == []


def test_the_next_time_is_new_and_would_be_kept(tmp_path) -> None:
    times = [START + number * STEP for number in range(6)]
    for issue_time in times[1:4]:
        forecast_path(tmp_path, issue_time, ".npz").touch()
    newest_first = times[::-1]
    assert next_time(newest_first, tmp_path, ".npz", 3) == times[5]
    assert next_time(times[3::-1], tmp_path, ".npz", 3) is None  # 0 would be pruned at once
    assert next_time(times[3::-1], tmp_path, ".npz", 4) == times[0]
    assert next_time(times[3::-1], tmp_path, ".nc", 1) == times[3]


def test_only_leftovers_of_forecasts_are_removed(tmp_path) -> None:
    leftovers = [".forecast_X.npz.12.tmp", ".forecast_X.zarr.12.new", ".forecast_X.zarr.1.old"]
    kept = ["forecast_20160711T2200.npz", ".mine.tmp", ".forecast_notes"]
    for name in (*leftovers[:1], *kept):
        (tmp_path / name).touch()
    for name in leftovers[1:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").touch()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


# ---- times ---------------------------------------------------------------------------------------


def bring_at(feed: Feed, *seconds: float) -> None:
    """Frames so many seconds after the start, of as many mm/h as minutes, a file each."""
    for second in seconds:
        rain_rate = np.full((1, 8, 6), second // 60 % 400, np.float32)
        event = RainEvent(rain_rate, np.array([START + np.timedelta64(int(second), "s")]))
        write_event(event, feed.folder / f"at{int(second):06}.npz")


def due_seconds(feed: Feed) -> list[int]:
    feed.look()
    return [int((time - START) / np.timedelta64(1, "s")) for time in feed.feed.due()]


@pytest.mark.parametrize("read", [read_event, READERS["npz"]])
@pytest.mark.parametrize(
    ("seconds", "due"),
    [
        ((4, 298, 630, 875, 1203), [1200, 900]),
        ((20, 320, 620, 920), [900]),
        ((122, 418, 721, 1019), [1020]),  # another grid
        ((31, 331, 631, 931), [931]),  # exact
    ],
)
def test_times_with_seconds_are_rounded(feed, monkeypatch, read, seconds, due) -> None:
    monkeypatch.setattr(feed.feed, "read", read)
    bring_at(feed, *seconds)
    assert due_seconds(feed) == due and feed.lines == []
    event = feed.feed.event(feed.feed.due()[0])
    assert event.time[-1] == START + np.timedelta64(due[0], "s")
    as_read = [START + np.timedelta64(second, "s") for second in seconds[-4:]]
    assert event.time_as_read.tolist() == [time.item() for time in as_read]
    assert bool(event.notes) == (as_read[0] != event.time[0])


def test_seconds_cost_none_of_the_frames_that_are_kept(tmp_path) -> None:
    feed = Feed(tmp_path, num_kept=3)
    bring_at(feed, *(300 * index + (-9, 8)[index == 19] for index in range(1, 20)))
    assert due_seconds(feed) == [5700, 5400, 5100]


def test_a_frame_nearer_to_the_time_takes_its_place(feed) -> None:
    bring_at(feed, 20, 300, 600, 900)
    assert due_seconds(feed) == [900]
    bring_at(feed, 0)
    assert due_seconds(feed) == [900]
    assert feed.feed.event(START + 3 * STEP).time_as_read[0] == START


def test_what_was_dropped_is_due_again_by_a_frame_with_seconds(feed) -> None:
    bring_at(feed, 3, 300, 600, 900)
    assert due_seconds(feed) == [900]
    feed.feed.drop(START + 3 * STEP)
    assert due_seconds(feed) == []
    bring_at(feed, 1)
    assert due_seconds(feed) == [900]


@pytest.mark.parametrize(
    ("step", "every_nth", "apart"), [(60, "fifth", "1 minute"), (150, "second", "2.5 minutes")]
)
@pytest.mark.parametrize("jitter", [0, 4, 9])
def test_of_a_faster_feed_some_frames_are_used(tmp_path, step, every_nth, apart, jitter) -> None:
    feed = Feed(tmp_path, num_kept=3)
    seen = set()
    for index in range(3600 // step):
        bring_at(feed, max(index * step + jitter * (index % 3 - 1), 0))
        seen |= set(due_seconds(feed))
        assert len(feed.feed._images) <= 300 // step + 6  # those between are not held
    assert sorted(seen) == list(range(900, 3600, 300))
    assert feed.lines == [f"{tmp_path}: frames are {apart} apart: every {every_nth} one is used"]
    event = feed.feed.event(START + 11 * STEP)
    assert np.abs(event.rain_rate[:, 0, 0] - [40, 45, 50, 55]).max() <= 1


def test_a_faster_feed_that_was_there_before_is_used_on_whole_5_minutes(feed) -> None:
    bring_at(feed, *range(60, 3000, 60))
    assert due_seconds(feed) == list(range(2700, 900, -300))


def test_a_feed_that_becomes_faster_continues(feed) -> None:
    bring_at(feed, *range(120, 1500, 300))
    assert due_seconds(feed) == [1320, 1020]
    for second in range(1380, 3000, 60):
        bring_at(feed, second)
        feed.look()
    assert due_seconds(feed)[:2] == [2820, 2520]
    assert len(feed.lines) == 1


@pytest.mark.parametrize("num_kept", [1, 50])
@pytest.mark.parametrize("first", [0, 30])
@pytest.mark.parametrize("minutes", [1.5, 2, 3, 4, 6, 7, 10, 15])
def test_a_cadence_of_no_use_is_said_once(tmp_path, minutes, first, num_kept) -> None:
    feed = Feed(tmp_path, num_kept)
    for index in range(20):
        bring_at(feed, first + 60 * minutes * index)
        assert due_seconds(feed) == []
        if index < 3:
            assert feed.lines == []
    assert len(feed.lines) == 1
    assert f"5 minutes apart, but {minutes:g} minutes; expected 4 such in a row" in feed.lines[0]


def test_a_feed_whose_cadence_changes_is_said_and_continues(feed) -> None:
    bring_at(feed, *range(0, 1500, 300))
    assert due_seconds(feed) == [1200, 900]
    for second in range(1320, 2500, 120):
        bring_at(feed, second)
        feed.look()
    assert len(feed.lines) == 1 and "but 2 minutes" in feed.lines[0]
    bring_at(feed, *range(3000, 4200, 300))
    assert due_seconds(feed)[0] == 3900 and len(feed.lines) == 1


def test_frames_that_never_complete_four_are_said_once(feed) -> None:
    for number in (0, 1, 3, 4, 6, 7):
        feed.bring(number)
        feed.look()
    assert feed.lines == []  # an outage may look so
    for number in (9, 10, 12, 13, 15):
        feed.bring(number)
        feed.look()
    assert len(feed.lines) == 1 and "no 4 are 5 minutes apart" in feed.lines[0]
    feed.bring(14)
    assert feed.look() == [15] and len(feed.lines) == 1


def test_an_outage_is_no_wrong_cadence(feed) -> None:
    for number in (0, 1, 2, 20, 21, 22, 50, 51, 52):
        feed.bring(number)
        assert feed.look() == []
    feed.bring(53)
    assert feed.look() == [53]
    for number in (80, 81, 82, 100, 101):
        feed.bring(number)
        assert feed.look() == [53]
    assert all("no 4 are" in line for line in feed.lines) and len(feed.lines) == 1


def test_files_that_bring_no_newer_frame_are_said_once(feed) -> None:
    feed.bring_as("latest.npz", 0)
    feed.look()
    written = feed.folder.joinpath("latest.npz").stat().st_mtime
    for minutes in (10, 19, 21, 30, 40):
        feed.bring_as("latest.npz", 0)
        os.utime(feed.folder / "latest.npz", (written + 60 * minutes,) * 2)
        feed.look()
        assert len(feed.lines) == (minutes > 20)
    assert "without a frame after 2016-07-11T22:00" in feed.lines[0]
    feed.bring_as("latest.npz", 1)
    feed.look()
    assert len(feed.lines) == 1
