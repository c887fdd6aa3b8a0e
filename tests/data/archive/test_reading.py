"""Archives that are read in place give what reading them as a whole gives."""

import argparse
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from archives import days_of_rain, make_archive, write_archive, xarray
from torch.utils.data import DataLoader

from ldcast.data.archive import patience
from ldcast.data.archive.building import build_index
from ldcast.data.archive.days import PARTS, DaySplit
from ldcast.data.archive.events import find_archive, for_one_forecast, read_events
from ldcast.data.archive.sidecar import index_address
from ldcast.data.archive.store import ArchiveStore
from ldcast.data.crops import BatchKeys, TrainingCrops, read_window
from ldcast.data.event import check_distinct, notes_of
from ldcast.data.past import past_event
from ldcast.data.pickers import Window
from ldcast.data.readers.gridded import read_gridded
from ldcast.data.readers.specs import read_event
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError, UnreadableError
from ldcast.frames import FrameConfig
from ldcast.training.arguments import read_run_events, read_split_events
from ldcast.verification.arguments import case_parser, split_of
from ldcast.verification.cases import draw_cases
from ldcast.verification.seen import is_trained_on

COUNTS = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Twenty days of 30 frames, with a frame that is missing and one without data."""
    times, rain_rate = days_of_rain(20, 30)
    rain_rate[45] = np.nan
    keep = np.arange(len(times)) != 100
    path = tmp_path_factory.mktemp("archives") / "radar.zarr"
    write_archive(path, times[keep], rain_rate[keep])
    build_index(path, index_address(path), AS_STATED, 1, lambda num: None)
    return path


# ---- slices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        {"version": 2},
        {"version": 2, "is_consolidated": False, **COUNTS},
        {"is_consolidated": False},
        {"chunks": (24, 32, 32)},
        {"chunks": (1, 24, 40), "shards": (24, 48, 80)},
        {"dtype": "f2"},
        {"is_consolidated": False, "dtype": "i2", "scale_factor": 0.01, "_FillValue": -1},
    ],
)
def test_parts_are_those_of_the_whole(tmp_path, layout):
    path = make_archive(tmp_path / "a.zarr", num_days=1, **layout)
    whole = read_gridded(path)
    (event,) = find_archive(str(path), AS_STATED).events(24, 5)
    assert event.rain_rate.shape == whole.rain_rate.shape and (event.time == whole.time).all()
    assert event.grid == whole.grid
    part = slice(3, 27), slice(5, 48), slice(0, 33)
    assert event.rain_rate[part].dtype == np.float32
    np.testing.assert_array_equal(event.rain_rate[part], whole.rain_rate[part])
    np.testing.assert_array_equal(event.rain_rate[4], whole.rain_rate[4])
    np.testing.assert_array_equal(np.asarray(event.rain_rate), whole.rain_rate)
    later = event.select(slice(10, 20))
    np.testing.assert_array_equal(later.rain_rate[2:4, 10:12], whole.rain_rate[12:14, 10:12])
    few = event.select(np.array([4, 9, 14]))
    np.testing.assert_array_equal(few.rain_rate, whole.rain_rate[[4, 9, 14]])
    assert not few.is_stored and later.is_stored


def test_a_store_that_goes_south_and_is_an_amount_is_turned_and_divided(tmp_path):
    times, rain_rate = days_of_rain(1, 30)
    rain = xarray.DataArray(
        rain_rate[:, ::-1],
        dims=("time", "lat", "lon"),
        coords={
            "time": ("time", times.astype("M8[ns]"), {"standard_name": "time"}),
            "lat": ("lat", 40 + 0.01 * np.arange(48), {"units": "degrees_north"}),
            "lon": ("lon", 5 + 0.01 * np.arange(80), {"units": "degrees_east"}),
        },
        attrs={"standard_name": "rainfall_amount", "units": "kg m-2"},
    )
    rain.to_dataset(name="rr").to_zarr(tmp_path / "a.zarr")
    build_index(tmp_path / "a.zarr", tmp_path / "i.index.zarr", AS_STATED, 1, lambda num: None)
    (event,) = find_archive(str(tmp_path / "i.index.zarr"), AS_STATED).events(24, 5)  # by its index
    np.testing.assert_allclose(event.rain_rate[:], 12 * rain_rate, rtol=1e-6)
    assert event.grid["projection"].startswith("+proj=longlat")


def test_a_window_has_the_same_rain_in_each_process(archive):
    events = find_archive(str(archive), AS_STATED).events(24, 5)
    crops = TrainingCrops(events, 24, 32, "importance", seed=0)
    keys = BatchKeys(0, range(2), batch_size=2)
    here = [batch for batch in DataLoader(crops, batch_sampler=keys)]
    there = [batch for batch in DataLoader(crops, batch_sampler=keys, num_workers=2)]
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.rain_rate.nan_to_num(-1), other.rain_rate.nan_to_num(-1))
        assert torch.equal(one.draw_weight, other.draw_weight) and one.draw_weight.shape == (2,)
        assert (one.draw_weight != 1).any()


@pytest.mark.parametrize("chunks", [(1, 48, 80), (24, 16, 16)])
@pytest.mark.parametrize(("down", "right"), [(1, -2), (-1, 0), (0, 2)])
def test_a_window_that_moves_is_read_once_and_no_further_than_it_moves(
    tmp_path, monkeypatch, chunks, down, right
):
    path = make_archive(tmp_path / "a.zarr", num_days=1, chunks=chunks)
    (stored,) = find_archive(str(path), AS_STATED).events(12, 5)
    in_memory = replace(stored, rain_rate=stored.rain_rate[:])
    asked, read = [], ArchiveStore.read
    monkeypatch.setattr(
        ArchiveStore, "read", lambda *args: (asked.append(args[1:]), read(*args))[1]
    )
    window = Window(0, 3, 12 - down, 30, down=down, right=right)
    found, expected = (
        read_window([event], window, 12, 24, margin=2) for event in (stored, in_memory)
    )
    torch.testing.assert_close(found.rain_rate, expected.rain_rate, rtol=0, atol=0, equal_nan=True)
    ((frames, rows, columns),) = asked
    assert (frames.start, frames.stop) == (3, 15)
    assert rows.stop - rows.start == 28 + 11 * abs(down)
    assert columns.stop - columns.start == 28 + 11 * abs(right)


def test_varied_windows_are_the_same_in_each_process(archive):
    events = find_archive(str(archive), AS_STATED).events(12, 5)
    crops = TrainingCrops(events, 12, 32, "importance", 0, crop_motion=1, rain_factor_db=0.6)
    keys = BatchKeys(0, range(4), batch_size=2)
    here = [batch for batch in DataLoader(crops, batch_sampler=keys)]
    there = [batch for batch in DataLoader(crops, batch_sampler=keys, num_workers=2)]
    still = TrainingCrops(events, 12, 32, "importance", 0)
    for one, other, some in zip(here, there, keys, strict=True):
        assert torch.equal(one.rain_rate.nan_to_num(-1), other.rain_rate.nan_to_num(-1))
        assert torch.equal(one.draw_weight, other.draw_weight)
        unvaried = torch.stack([still[key].draw_weight for key in some])
        assert torch.equal(one.draw_weight, unvaried)  # of the window as it was drawn
    with pytest.raises(InputError, match="48 x 80 pixels, expected at least 54 x 54"):
        TrainingCrops(events, 12, 32, "importance", 0, crop_motion=2)


# ---- runs and days -------------------------------------------------------------------------------


def test_runs_are_events_that_end_at_gaps(archive):
    events = find_archive(str(archive), AS_STATED).events(24, 5)
    lengths = [len(event.time) for event in events]
    assert lengths == [30] * 18  # days 1 and 3 have no run of 24 frames
    assert len({event.name for event in events}) == 1
    assert "without data" in events[0].notes[0] and "missing times" in events[0].notes[0]
    for event in events:
        assert (np.diff(event.time) == np.timedelta64(300, "s")).all()
        assert not np.isnan(event.rain_rate[0]).all()
    check_distinct(events)


def test_each_day_is_of_one_part(archive):
    found, split = find_archive(str(archive), AS_STATED), DaySplit((0.5, 0.3, 0.2))
    days = [
        {str(event.time[0].astype("M8[D]")) for event in found.events(24, 5, part, split)}
        for part in PARTS
    ]
    assert all(days) and not days[0] & days[1] and not days[0] & days[2] and not days[1] & days[2]
    assert len(set.union(*days)) == 18


def test_a_span_selects_frames(archive):
    span = f"{archive}@2020-06-06/2020-06-08T01:00"
    events = find_archive(span, AS_STATED).events(6, 5)
    assert [len(event.time) for event in events] == [30, 30, 12]
    assert events[0].name == "radar@2020-06-06T00:00/2020-06-08T01:00"
    np.testing.assert_array_equal(events[0].rain_rate[:2], days_of_rain(20, 30)[1][150:152])
    with pytest.raises(InputError, match="selects no frame"):
        find_archive(f"{archive}@2021-06-06/", AS_STATED)


def test_training_and_validation_share_no_day(archive, event_path):
    split = DaySplit((0.6, 0.2, 0.2))
    train, validation = read_split_events([str(archive), str(event_path)], None, 5, 24, 24, split)
    files = [event for event in train + validation if not event.is_stored]
    assert len(files) == 2 and "@" in files[0].name  # as without an archive
    days = [
        {str(event.time[0].astype("M8[D]")) for event in of if event.is_stored}
        for of in (train, validation)
    ]
    assert days[0] and days[1] and not days[0] & days[1]
    name = next(event.name for event in train if event.is_stored)
    assert name == "radar#training:0.6,0.2,0.2"


def test_spans_that_share_a_day_are_refused(archive):
    spans = [f"{archive}@2020-06-05/2020-06-06T00:50"], [f"{archive}@2020-06-06T01:00/2020-06-08"]
    with pytest.raises(InputError, match="share 1 days of archives, from 2020-06-06"):
        read_split_events(*spans, 5, 6, 24)
    spans = [f"{archive}@/2020-06-06"], [f"{archive}@2020-06-06/"]
    train, validation = read_split_events(*spans, 5, 24, 24)
    assert len(train) == 3 and len(validation) == 15


def test_an_archive_without_a_long_run_is_refused(archive):
    with pytest.raises(InputError, match=r"radar has no 60 frames in a row.*by missing times"):
        read_split_events([str(archive)], None, 5, 60, 24)


def test_frames_of_another_cadence_are_not_offered(archive):
    assert find_archive(str(archive), Reading(minutes=10)).events(3, 10) == []
    with pytest.raises(InputError, match=r"3 frames in a row, 10 minutes apart.*another cadence"):
        read_split_events([str(archive)], None, 10, 3, 24)


def test_without_an_index_a_store_is_an_event_as_before(tmp_path):
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(1, 60))
    assert find_archive(str(path), AS_STATED) is None
    train, validation = read_split_events([str(path)], None, 5, 24, 24)
    assert [len(event.time) for event in (*train, *validation)] == [36, 24]
    assert not train[0].is_stored


def test_a_piece_is_read_as_a_whole(archive):
    how = Reading(crop=(0, 0, 40, 40))
    assert find_archive(str(archive), how) is None


# ---- verification --------------------------------------------------------------------------------


def test_cases_of_an_archive_are_by_day(archive):
    events = read_events([str(archive)], AS_STATED, 24)
    cases = draw_cases(events, FrameConfig(), 6, 32, seed=0)
    assert len({case.source for case in cases}) > 2
    for case in cases:
        day = str(case.issue_time.astype("M8[D]"))
        assert case.event == f"radar@{day}" and case.source.endswith(f"radar.zarr@{day}")


def test_days_for_testing_are_not_those_that_were_trained_on(archive):
    split = DaySplit((0.5, 0.3, 0.2))
    train, _ = read_split_events([str(archive)], None, 5, 24, 24, split)
    trained_on = {"data": [train[0].name]}
    tested = read_events([str(archive)], AS_STATED, 24, split)
    assert all(is_trained_on(event, trained_on) for event in train)
    assert tested and not any(is_trained_on(event, trained_on) for event in tested)
    whole = read_event(f"{archive}@2020-06-01/2020-07-01")
    assert is_trained_on(whole, trained_on)


def test_verify_takes_the_days_for_testing_by_a_flag():
    parser = case_parser("verify", "scores")
    flags = parser.parse_args(["--data", "radar.zarr", "--split-days", "0.5", "0.3", "0.2"])
    assert split_of(flags) == DaySplit((0.5, 0.3, 0.2))
    assert split_of(parser.parse_args(["--data", "radar.zarr"])) is None


def test_a_forecast_starts_from_an_archive(archive):
    (*_, event) = find_archive(str(archive), AS_STATED).events(24, 5)
    past = past_event(event, FrameConfig())
    assert not past.is_stored and past.time[-1] == event.time[-1]
    np.testing.assert_array_equal(past.rain_rate, days_of_rain(20, 30)[1][-4:])


@pytest.mark.parametrize("issue_time", [None, "2020-06-11T01:00"])
def test_of_a_large_store_a_forecast_reads_its_last_hours(archive, monkeypatch, issue_time):
    time = None if issue_time is None else np.datetime64(issue_time, "s")
    spec, frames = str(archive), FrameConfig()
    assert for_one_forecast(spec, AS_STATED, frames, time) == spec
    monkeypatch.setattr("ldcast.data.archive.events.MAX_BYTES", 1000)
    part = read_event(for_one_forecast(spec, AS_STATED, frames, time))
    assert len(part.time) <= 30  # of one day
    past, whole = (past_event(event, frames, time) for event in (part, read_event(spec)))
    assert (past.time == whole.time).all()
    np.testing.assert_array_equal(past.rain_rate, whole.rain_rate)


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.fixture
def no_waiting(monkeypatch) -> list[float]:
    """What would have been waited."""
    waits: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("encoding", [{}, {"dtype": "i2", "scale_factor": 0.01}])
def test_chunks_that_are_gone_are_no_rain(tmp_path, no_waiting, encoding):
    """They read as NaN of the one store, and as 0 of the other."""
    times, rain_rate = days_of_rain(1, 40)
    path = write_archive(tmp_path / "a.zarr", times, np.nan_to_num(rain_rate), **encoding)
    build_index(path, index_address(path), AS_STATED, 1, lambda num: None)
    (event,) = find_archive(str(path), AS_STATED).events(24, 5)
    window = slice(2, 26), slice(0, 48), slice(0, 72)
    before = event.rain_rate[window]
    shutil.move(path / "rain" / "c" / "5", tmp_path / "5")
    with pytest.raises(UnreadableError, match=r"frame 5 holds nothing.*tried 5 times in 80 sec"):
        event.rain_rate[window]
    assert no_waiting == [1, 4, 15, 60]
    with pytest.raises(UnreadableError):
        event.rain_rate[window]
    assert len(no_waiting) == 4  # it is known to be gone
    shutil.move(tmp_path / "5", path / "rain" / "c" / "5")
    np.testing.assert_array_equal(event.rain_rate[window], before)


def test_a_store_that_comes_back_is_read_on(tmp_path, monkeypatch):
    path = make_archive(tmp_path / "a.zarr", num_days=1)
    (event,) = find_archive(str(path), AS_STATED).events(24, 5)
    before = event.rain_rate[:4]
    path.rename(tmp_path / "away.zarr")
    monkeypatch.setattr(patience.time, "sleep", lambda _: (tmp_path / "away.zarr").rename(path))
    np.testing.assert_array_equal(event.rain_rate[:4], before)


def test_an_index_that_is_gone_is_named(tmp_path, no_waiting):
    path = make_archive(tmp_path / "a.zarr", num_days=1)
    events = find_archive(str(path), AS_STATED).events(24, 5)
    crops = TrainingCrops(events, 24, 32, "uniform", seed=0)
    shutil.rmtree(index_address(path))
    with pytest.raises(UnreadableError, match="is gone, expected the index"):
        crops[0, 0, 0]


def test_a_pool_knows_another_archive(tmp_path):
    first = make_archive(tmp_path / "a.zarr", num_days=2)
    times, rain_rate = days_of_rain(2, 40)
    second = write_archive(tmp_path / "b.zarr", times, 2 * rain_rate)
    build_index(second, index_address(second), AS_STATED, 1, lambda num: None)
    prints = [
        TrainingCrops(
            find_archive(str(of), AS_STATED).events(24, 5), 24, 32, "wet", 0
        ).fingerprint()
        for of in (first, first, second)
    ]
    assert prints[0] == prints[1] != prints[2]


# ---- days that are to be kept apart, and are not ---------------------------------------------


def as_event(archive, day: str, path, **grid):
    """A day of an archive as an event file, on the archive's grid or on another."""
    found = find_archive(str(archive), AS_STATED)
    is_wanted = found.time.astype("M8[D]") == np.datetime64(day)
    frames = slice(is_wanted.argmax(), is_wanted.argmax() + is_wanted.sum())
    rain_rate = found.store.read(frames, *(slice(0, size) for size in found.store.shape[1:]))
    corners = {name: found.grid[name] for name in ("x1", "y1", "x2", "y2")} | grid
    np.savez(path, rain_rate=rain_rate, time=found.time[frames], **corners)
    return path


def test_an_event_file_that_the_archive_holds_is_refused(archive, tmp_path):
    """So its frames do not train, whatever the archive keeps its day for."""
    copy = as_event(archive, "2020-06-06", tmp_path / "copy.npz")
    for data, validation in (
        ([str(archive), str(copy)], None),
        ([str(copy)], [str(archive)]),
        ([str(archive)], [str(copy)]),
    ):
        with pytest.raises(InputError, match=r"copy and the archive radar.*share 30 frames.*copy"):
            read_split_events(data, validation, 5, 6, 24)
    elsewhere = as_event(archive, "2020-06-06", tmp_path / "away.npz", x1=5e5, x2=5.8e5)
    read_split_events([str(archive), str(elsewhere)], None, 5, 6, 24)
    before = f"{archive}@2020-06-10/"
    read_split_events([before, str(copy)], None, 5, 6, 24)


def test_an_archive_without_a_day_of_the_part_is_left_out_and_named(archive, tmp_path):
    days = np.arange("2020-06-01", "2020-06-21", dtype="M8[D]")
    part = DaySplit().part_of(days)
    of_validation = days[part == 1][0]
    alone = f"{archive}@{of_validation}/{of_validation + 1}"
    with pytest.raises(InputError, match=r"its days for training: by shares of 0.8,0.1,0.1, its "
                       r"days are 0 for training, 1 for validation, 0 for test"):  # fmt: skip
        read_split_events([alone], None, 5, 6, 24)
    other = tmp_path / "other.zarr"
    write_archive(other, *days_of_rain(20, 30, 64, 64))
    build_index(other, index_address(other), AS_STATED, 1, lambda num: None)
    train, validation = read_split_events([alone, str(other)], None, 5, 6, 24)
    assert {event.name.partition("#")[0] for event in train} == {"other"}
    assert len({event.name.partition("@")[0].partition("#")[0] for event in validation}) == 2
    assert any("has no 6 frames in a row" in note for note in notes_of(train))
    with pytest.raises(InputError, match="its days for test"):
        read_events([alone], AS_STATED, 6, DaySplit())
    tested = read_events([alone, str(other)], AS_STATED, 6, DaySplit())
    assert tested and any("its days for test" in note for note in notes_of(tested))


def test_days_are_not_split_without_an_index(archive, event_path, tmp_path):
    path = write_archive(tmp_path / "a.zarr", *days_of_rain(1, 60))
    for specs in ([str(path)], [str(archive), str(path)]):
        with pytest.raises(InputError, match=r"--split-days for .*a.zarr, which has no index"):
            read_events(specs, AS_STATED, 24, DaySplit())
    with pytest.raises(InputError, match="got --split-days and no archive with an index"):
        read_events([str(event_path)], AS_STATED, 24, DaySplit())
    flags = argparse.Namespace(
        data=[str(event_path)], validation_data=None, split_days=[0.8, 0.1, 0.1]
    )
    with pytest.raises(InputError, match="got --split-days and no archive with an index"):
        read_run_events(flags, None, FrameConfig(), 24)
