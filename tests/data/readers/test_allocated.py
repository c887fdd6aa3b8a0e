"""Stores and files that have room for frames which are not there yet."""

import json
from pathlib import Path

import numpy as np
import pytest

import infer
from ldcast import LDCast
from ldcast.data.past import past_event
from ldcast.data.readers.chunks import written_frames
from ldcast.data.readers.gridded import event_from_dataarray
from ldcast.data.readers.specs import read_event
from ldcast.data.reading import AS_STATED, Reading
from ldcast.errors import InputError, run_script
from ldcast.forecasting.feed import FrameFeed
from ldcast.frames import FrameConfig

xarray = pytest.importorskip("xarray", reason="reads NetCDF and Zarr")
zarr = pytest.importorskip("zarr", minversion="3", reason="writes the stores")

NUM_FRAMES, NUM_WRITTEN, HEIGHT, WIDTH = 14, 6, 16, 12
RAIN = np.random.default_rng(0).gamma(1, 2, (NUM_FRAMES, HEIGHT, WIDTH)).round(2).astype("f4")
NO_DATA = "no data in 8 frames from 2020-06-01T00:30 to 2020-06-01T01:05 at the end of the store"
OR_DRY = "not written yet, or all 0, which Zarr does not write"


def allocate(
    path: Path,
    fill: float = 0.0,
    version: int = 3,
    frames: int = 1,
    shards: tuple[int, ...] | None = None,
    is_packed: bool = False,
    is_consolidated: bool = False,
    written: tuple[int, ...] = tuple(range(NUM_WRITTEN)),
    **keys: dict,
) -> Path:
    """A store of 14 frames, of which some are written; `frames` in a chunk, which is half a frame.

    fill: of what is not written, in mm/h.
    """
    group = zarr.open_group(path, mode="w", zarr_format=version)

    def add(name, values, dims, attrs, write=slice(None), **settings):
        if version == 3:
            settings["dimension_names"] = dims
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, **settings)
        array.attrs.update(attrs | ({"_ARRAY_DIMENSIONS": dims} if version == 2 else {}))
        for part in [write] if isinstance(write, slice) else write:
            array[part] = values[part]
        return array

    minutes = 5 * np.arange(NUM_FRAMES)
    add("time", minutes, ["time"], {"standard_name": "time", "units": "minutes since 2020-06-01"})
    for name, size in (("y", HEIGHT), ("x", WIDTH)):  # from 0: the fill value of what has none
        attrs = {"standard_name": f"projection_{name}_coordinate", "units": "m"}
        add(name, 1000.0 * np.arange(size), [name], attrs)
    attrs = {"standard_name": "rainfall_rate", "units": "mm h-1"}
    values, code = RAIN, fill
    if is_packed:
        values, code = (RAIN * 100).round().astype("u2"), 65535 if np.isnan(fill) else fill * 100
        attrs |= {"scale_factor": 0.01, **({"_FillValue": 65535} if np.isnan(fill) else {})}
    chunks = frames, HEIGHT // 2, WIDTH
    settings = {"chunks": chunks, "fill_value": code, **({"shards": shards} if shards else {})}
    add("rain", values, ["time", "y", "x"], attrs, written, **settings, **keys)
    if is_consolidated:
        zarr.consolidate_metadata(path)
    return path


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("is_consolidated", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("fill", [0.0, np.nan])
@pytest.mark.parametrize(
    ("version", "frames", "shards"),
    [
        (2, 1, None),
        (2, 3, None),
        (3, 1, None),
        (3, 3, None),
        (3, 1, (7, 16, 12)),
        (3, 3, (6, 8, 12)),
    ],
)
def test_unwritten_frames_at_the_end_are_no_data(
    tmp_path, version, frames, shards, fill, is_packed, is_consolidated
):
    path = allocate(
        tmp_path / "radar.zarr", fill, version, frames, shards, is_packed, is_consolidated
    )
    event = read_event(path)
    np.testing.assert_allclose(event.rain_rate, RAIN[:NUM_WRITTEN, ::-1], atol=1e-3)
    (note,) = event.notes
    assert note.startswith(NO_DATA) and note.endswith(
        "not written yet" if np.isnan(fill) else OR_DRY
    )
    past = past_event(event, FrameConfig())
    assert past.time[-1] == np.datetime64("2020-06-01T00:25") and past.notes == event.notes


@pytest.mark.parametrize(("version", "shards"), [(2, None), (3, None), (3, (7, 16, 12))])
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_unwritten_frames_amid_others_are_what_the_fill_is(tmp_path, version, shards, fill):
    path = allocate(tmp_path / "a.zarr", fill, version, shards=shards, written=(0, 1, 3, 4, 5))
    event = read_event(path)
    np.testing.assert_array_equal(event.rain_rate[2], np.full((HEIGHT, WIDTH), fill))
    said = [note for note in event.notes if "without a chunk in the store, read as dry" in note]
    assert len(said) == (fill == 0) and all("2020-06-01T00:10 " in note for note in said)
    part = read_event(f"{path}@2020-06-01T00:15/")
    assert len(part.time) == 3 and len(part.notes) == 1  # none that the span does not have


def test_a_frame_that_is_partly_written_is_written(tmp_path):
    path = allocate(tmp_path / "a.zarr", shards=(7, 16, 12))
    array = zarr.open_group(path)["rain"]
    array[NUM_WRITTEN, : HEIGHT // 2] = RAIN[NUM_WRITTEN, : HEIGHT // 2]
    event = read_event(path)
    assert len(event.time) == NUM_WRITTEN + 1
    np.testing.assert_array_equal(event.rain_rate[-1, HEIGHT // 2 :], RAIN[NUM_WRITTEN, 7::-1])
    assert (event.rain_rate[-1, : HEIGHT // 2] == 0).all()


def test_a_store_of_which_nothing_is_written(tmp_path):
    path = allocate(tmp_path / "a.zarr", written=())
    with pytest.raises(
        InputError, match=r"none of the 14 frames .* has a chunk: .*if all are dry with"
    ):
        read_event(path)


def test_a_dry_frame_that_was_written_is_dry(tmp_path):
    path = allocate(tmp_path / "a.zarr")
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_group(path)["rain"][NUM_WRITTEN] = 0
    event = read_event(path)
    assert len(event.time) == NUM_WRITTEN + 1 and (event.rain_rate[-1] == 0).all()


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_frames_that_share_a_chunk_with_written_ones(tmp_path, fill):
    event = read_event(allocate(tmp_path / "a.zarr", fill, frames=4))  # 4 to 7 in one chunk
    assert len(event.time) == NUM_WRITTEN
    assert "2020-06-01T00:30, 2020-06-01T00:35 at the end" in event.notes[-1]


def test_rain_that_fades_within_a_chunk_is_believed(tmp_path):
    path = allocate(tmp_path / "a.zarr", frames=4)
    array = zarr.open_group(path)["rain"]
    array[5] = 0
    array[5, 3, 3] = 0.2  # one pixel of 192
    event = read_event(path)
    assert len(event.time) == 8 and (event.rain_rate[-2:] == 0).all()


@pytest.mark.parametrize("is_west", [False, True])
def test_rain_that_leaves_a_piece_has_not_ended(tmp_path, is_west):
    path = allocate(tmp_path / "a.zarr", frames=NUM_FRAMES)
    zarr.open_group(path, mode="r+")["rain"][NUM_WRITTEN - 2 : NUM_WRITTEN, :, :6] = 0
    piece = Reading(crop=(0, 0, HEIGHT, 6)) if is_west else AS_STATED
    event = read_event(path, piece)
    assert len(event.time) == NUM_WRITTEN
    (note,) = event.notes
    assert "8 frames from 2020-06-01T00:30 to 2020-06-01T01:05 at the end, exactly 0" in note


@pytest.mark.parametrize(("frames", "is_said"), [(NUM_FRAMES, True), (1, False)])
def test_a_dry_end_of_several_frames_in_a_chunk_is_doubted(tmp_path, frames, is_said):
    path = allocate(tmp_path / "a.zarr", frames=frames)
    rain = zarr.open_group(path, mode="r+")["rain"]
    rain[:NUM_WRITTEN, :, :6] = 0
    event = read_event(path, Reading(crop=(0, 0, HEIGHT, 6)))
    said = [note for note in event.notes if "exactly 0 everywhere at the end" in note]
    assert len(said) == is_said and len(event.time) == (NUM_FRAMES if is_said else NUM_WRITTEN)
    if is_said:
        part = read_event(f"{path}@2020-06-01T00:40/")
        assert any("2020-06-01T01:05, of a store" in note for note in part.notes)
        rain[NUM_FRAMES - 1, 3, 9] = 1  # elsewhere: so it was written
        assert read_event(path, Reading(crop=(0, 0, HEIGHT, 6))).notes == ()


def test_times_that_are_not_written_either(tmp_path):
    path = allocate(tmp_path / "a.zarr")
    times = zarr.open_group(path)["time"]
    times[NUM_WRITTEN:] = 0  # as where nothing was written: the fill value
    event = read_event(path)
    assert len(event.time) == NUM_WRITTEN and event.notes[0].startswith("no data in ")


def test_an_axis_order_of_its_own(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    array = group.create_array("rain", shape=(4, 8, 6), chunks=(4, 8, 1), dtype="f4")
    array[..., :2] = 1.0
    assert (
        written_frames(tmp_path / "a.zarr", "rain", 2, 6).frames.tolist()
        == [True] * 2 + [False] * 4
    )
    assert written_frames(tmp_path / "a.zarr", "rain", 0, 4).frames.all()


@pytest.mark.parametrize(
    "encoding",
    [
        {"name": "v2", "separator": "."},
        {"name": "v2", "separator": "/"},
        {"name": "default", "separator": "."},
    ],
)
def test_chunks_by_other_names(tmp_path, encoding):
    path = allocate(tmp_path / "a.zarr", chunk_key_encoding=encoding)
    assert len(read_event(path).time) == NUM_WRITTEN


@pytest.mark.parametrize("location", ["start", "end"])
def test_a_shard_has_its_index_at_either_end(tmp_path, location):
    shards = {"shape": (7, 16, 12), "index_location": location}
    path = allocate(tmp_path / "a.zarr", shards=shards)
    assert len(read_event(path).time) == NUM_WRITTEN


def test_what_is_not_known_counts_as_written(tmp_path):
    path = allocate(tmp_path / "a.zarr")
    assert written_frames(path, "none", 0, 3) is None
    document = json.loads((path / "rain/zarr.json").read_text())
    document["chunk_grid"]["name"] = "rectangular"
    (path / "rain/zarr.json").write_text(json.dumps(document))
    assert written_frames(path, "rain", 0, NUM_FRAMES) is None


def test_a_zero_of_zarr_2_is_masked_where_the_attributes_say_so(tmp_path):
    path = allocate(tmp_path / "a.zarr", version=2, is_packed=True)
    rain = zarr.open_group(path)["rain"]
    rain[5, 3, 3] = 0
    assert read_event(path).rain_rate[5, HEIGHT - 4, 3] == 0
    rain.attrs["_FillValue"] = 0
    assert np.isnan(read_event(path).rain_rate[5, HEIGHT - 4, 3])
    del rain.attrs["_FillValue"]
    rain.attrs["add_offset"] = -0.01  # so that 0 is a code of its own
    assert np.isnan(read_event(path).rain_rate[5, HEIGHT - 4, 3])


# ---- NetCDF and DataArrays, which have no chunks to look at --------------------------------------


def save_netcdf(path: Path, fill: float, attrs: dict) -> Path:
    netcdf = pytest.importorskip("netCDF4", reason="writes NetCDF")
    with netcdf.Dataset(path, "w") as file:
        for name, size in (("time", None), ("y", HEIGHT), ("x", WIDTH)):
            file.createDimension(name, size)
        time = file.createVariable("time", "i4", "time")
        time.units, time[:] = "minutes since 2020-06-01", 5 * np.arange(NUM_FRAMES)
        for name, size in (("y", HEIGHT), ("x", WIDTH)):
            axis = file.createVariable(name, "f8", name)
            axis.units, axis[:] = "m", 1000.0 * np.arange(size)
        rain = file.createVariable("rain", "f4", ("time", "y", "x"), **attrs)
        rain.standard_name, rain.units = "rainfall_rate", "mm h-1"
        rain[:NUM_WRITTEN] = RAIN[:NUM_WRITTEN]
        if fill is not None:
            rain[NUM_WRITTEN:] = fill
    return path


@pytest.mark.parametrize(
    ("fill", "attrs"),
    [(np.nan, {}), (-1, {"fill_value": -1}), (None, {"fill_value": np.nan}), (None, {})],
    ids=["NaN", "stated", "stated NaN", "never written"],
)
def test_netcdf_without_data_at_its_end(tmp_path, fill, attrs):
    event = read_event(save_netcdf(tmp_path / "a.nc", fill, attrs))
    np.testing.assert_array_equal(event.rain_rate, RAIN[:NUM_WRITTEN, ::-1])
    note = "no data in 8 frames from 2020-06-01T00:30 to 2020-06-01T01:05 at the end"
    assert event.notes == (note,)


def test_zeros_right_after_rain_are_doubted_in_netcdf(tmp_path):
    event = read_event(save_netcdf(tmp_path / "a.nc", 0, {}))
    assert len(event.time) == NUM_FRAMES  # they may be dry
    (note,) = event.notes
    assert "T00:30 to 2020-06-01T01:05 at the end, exactly 0 everywhere right after rain" in note


def test_a_file_that_is_blank_throughout_stays(tmp_path):
    path = save_netcdf(tmp_path / "a.nc", np.nan, {})
    with xarray.open_dataset(path) as dataset:
        dataset.isel(time=[-1]).to_netcdf(tmp_path / "b.nc")
    event = read_event(tmp_path / "b.nc")
    assert len(event.time) == 1 and np.isnan(event.rain_rate).all() and event.notes == ()


# ---- who reads them ------------------------------------------------------------------------------


def test_a_feed_takes_frames_of_a_store_as_they_are_written(tmp_path):
    path, told = allocate(tmp_path / "in" / "a.zarr", written=(0, 1, 2, 3)), []
    feed = FrameFeed(path.parent, read_event, FrameConfig(), 10, told.append)
    look_twice(feed)
    assert feed.due() == [np.datetime64("2020-06-01T00:15")]
    zarr.open_group(path)["rain"][4] = RAIN[4]
    look_twice(feed)
    assert feed.due()[0] == np.datetime64("2020-06-01T00:20") and told == []
    np.testing.assert_array_equal(feed.event(feed.due()[0]).rain_rate[-1], RAIN[4, ::-1])


def look_twice(feed: FrameFeed) -> None:
    """A file is read once it is the same at two looks."""
    feed.look()
    feed.look()


def test_infer_starts_from_what_was_written_and_says_so(tmp_path, model_folder, capsys):
    path, out = allocate(tmp_path / "a.zarr"), tmp_path / "forecast.npz"
    arguments = ["--model", str(model_folder), "--members", "1", "--steps", "1"]
    arguments += ["--data", str(path), "--out", str(out)]
    assert run_script(lambda: infer.main(arguments)) == 0
    assert f"note: a: {NO_DATA}" in capsys.readouterr().out
    with np.load(out) as file:
        assert file["issue_time"] == np.datetime64("2020-06-01T00:25")


def test_a_dataarray_that_ends_in_zeros_is_doubted_in_its_forecast(tmp_path, model_folder):
    rain = xarray.open_zarr(allocate(tmp_path / "a.zarr"), consolidated=False)["rain"]
    rain = rain.load().isel(time=slice(8))
    model = LDCast.from_pretrained(model_folder, device="cpu")
    with pytest.warns(UserWarning, match="exactly 0 everywhere right after rain"):
        model.predict_xarray(rain, num_members=1, num_sampling_steps=1)
    assert event_from_dataarray(rain[:6]).notes == ()
