"""Fields beside the rain: read, cut, joined, turned with crops, refused where they do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ldcast.data.cadence import round_event, unrounded
from ldcast.data.crops import Example, TrainingCrops, ValidationCrops, augment, read_window
from ldcast.data.event import Field, RainEvent
from ldcast.data.fields import FieldNeed, check_fields, fields_at, joined_fields, notes_of_unused
from ldcast.data.past import past_event
from ldcast.data.pieces import cut
from ldcast.data.readers.specs import read_event
from ldcast.data.reading import Reading
from ldcast.errors import InputError
from ldcast.frames import FrameConfig

NEEDS = {"height": FieldNeed(1, 0), "model_rain": FieldNeed(1, 4)}
START = np.datetime64("2020-01-01T00:00:00", "s")


def times(num_frames: int, first: int = 0, step: int = 5) -> np.ndarray:
    return START + np.timedelta64(60 * step, "s") * np.arange(first, first + num_frames)


def event(num_frames: int = 6, height: int = 40, width: int = 50, later: int = 2) -> RainEvent:
    """Rain, a height and a model's rain hold numbers of their own for each pixel."""
    numbers = np.arange(num_frames * height * width, dtype=np.float32)
    rain_rate = numbers.reshape(num_frames, height, width) / 1000
    more = np.arange(num_frames + later)[:, None, None, None] + rain_rate[:1, None]
    return RainEvent(
        rain_rate,
        times(num_frames),
        name="event",
        fields={
            "height": Field(-rain_rate[:1, None]),
            "model_rain": Field(more, times(num_frames + later)),
        },
    )


def write(path, **arrays) -> None:
    given = event()
    np.savez(path, rain_rate=given.rain_rate, time=given.time, **arrays)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "num_times", "expected"),
    [
        ((40, 50), None, (1, 1, 40, 50)),
        ((6, 40, 50), None, (6, 1, 40, 50)),
        ((9, 40, 50), 9, (9, 1, 40, 50)),
        ((6, 2, 40, 50), None, (6, 2, 40, 50)),
        ((2, 40, 50), None, (1, 2, 40, 50)),
    ],
)
def test_layouts_of_an_event_file(shape, num_times, expected, tmp_path) -> None:
    own = {} if num_times is None else {"more_time": times(num_times)}
    write(tmp_path / "e.npz", more=np.ones(shape, np.int16), **own)
    read = read_event(tmp_path / "e.npz")
    field = read.fields["more"]
    assert field.values.shape == expected and read.notes == ()
    if expected[0] > 1:
        assert np.array_equal(field.time, times(num_times or 6))
    else:
        assert field.time is None


@pytest.mark.parametrize("shape", [(40, 51), (5, 40, 50), (6, 3, 40, 50), (7,)])
def test_other_arrays_are_said_to_be_unused(shape, tmp_path) -> None:
    write(tmp_path / "e.npz", more=np.ones(shape))
    read = read_event(tmp_path / "e.npz")
    assert read.fields == {} and read.notes == ("its arrays more are not used",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"more": np.ones((9, 40, 51))},
            r"more, .* has shape \(9, 40, 51\).*40 x 50 pixels",
        ),
        ({"more": np.ones((8, 40, 50))}, "expected one time for each of 8 frames"),
        ({"more_time": times(9)[::-1]}, "expected times that increase"),
        ({"more": np.ones((40, 50))}, r"more, which has times, has shape \(40, 50\)"),
    ],
)
def test_fields_whose_times_do_not_fit_are_refused(change, message, tmp_path) -> None:
    arrays = {"more": np.ones((9, 40, 50)), "more_time": times(9)} | change
    write(tmp_path / "e.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_event(tmp_path / "e.npz")


def test_pieces_and_past_frames_keep_their_fields() -> None:
    given = event()
    piece = cut(given, Reading(crop=(8, 4, 24, 32)))
    for name, field in piece.fields.items():
        whole = given.fields[name]
        assert np.array_equal(field.values, whole.values[..., 8:32, 4:36])
        assert np.array_equal(field.time, whole.time)
    past = past_event(given, FrameConfig())
    found = fields_at(
        past, {"model_rain": FieldNeed(1, 3)}, past.time[-1] + np.timedelta64(5, "m") * np.arange(3)
    )
    assert np.array_equal(found["model_rain"], given.fields["model_rain"].values[5:8])


def test_fields_of_the_frames_follow_their_times_as_they_are_rounded() -> None:
    given = event(later=0)
    off = given.time + np.array([0, 7, -4, 3, 9, 2]).astype("timedelta64[s]")
    fields = {name: of.retimed(given.time, off) for name, of in given.fields.items()}
    read = replace(given, time=off, fields=fields)
    rounded = round_event(read, 5)
    assert np.array_equal(rounded.time, given.time)
    check_fields([rounded], NEEDS)
    check_fields([unrounded(rounded)], NEEDS)


@pytest.mark.parametrize("shift", [12, -20])
def test_fields_with_the_clock_of_the_rain_go_on_by_it(shift) -> None:
    """Rain and field are some seconds off alike, also after the last frame of the rain."""
    given = event()
    off = np.timedelta64(shift, "s")
    moved = {
        name: of if of.time is None else Field(of.values, of.time + off)
        for name, of in given.fields.items()
    }
    rounded = round_event(replace(given, time=given.time + off, fields=moved), 5)
    assert np.array_equal(rounded.fields["model_rain"].time, given.fields["model_rain"].time)
    exact = replace(given, time=given.time + off)  # the field has the whole minutes already
    assert np.array_equal(
        round_event(exact, 5).fields["model_rain"].time, given.fields["model_rain"].time
    )


@pytest.mark.parametrize(
    ("name", "need", "message"),
    [
        ("height", FieldNeed(1, 2), "one number for each pixel, without a time, expected one"),
        ("model_rain", FieldNeed(1, 0), "one for each frame, expected .* without a time"),
        ("model_rain", FieldNeed(2, 2), r"one number for each pixel.*expected a vector"),
    ],
)
def test_another_layout_is_refused(name, need, message) -> None:
    with pytest.raises(InputError, match=message):
        fields_at(event(), {name: need}, times(2))
    with pytest.raises(InputError, match=message):
        check_fields([event()], {name: need})


def test_the_newest_file_says_what_is_to_come() -> None:
    older, newer = event(num_frames=1), event(num_frames=1)
    newer = replace(newer, time=times(1, first=1))
    newer.fields["model_rain"] = Field(100 + newer.fields["model_rain"].values, times(3, first=1))
    newer.fields["height"] = Field(newer.fields["height"].values + 1)
    for files in ([older, newer], [newer, older]):
        joined = joined_fields(files)
        assert np.array_equal(joined["height"].values, newer.fields["height"].values)
        assert np.array_equal(joined["model_rain"].time, times(4))
        assert joined["model_rain"].values[:, 0, 0, 0].tolist() == [0, 100, 101, 102]


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        ("wind", times(2), "event has no wind, .* it has height, model_rain"),
        ("model_rain", times(2, first=7), "ends too soon .* no frame of 2020-01-01T00:40"),
        ("model_rain", times(2, step=2), "no frame of 2020-01-01T00:02"),
    ],
)
def test_what_is_missing_is_named(name, at, message) -> None:
    with pytest.raises(InputError, match=message):
        fields_at(event(), {name: FieldNeed(1, 2)}, at)
    assert fields_at(event(), {"height": FieldNeed(1, 0)}, at)["height"].shape == (1, 1, 40, 50)


def test_unused_fields_are_named() -> None:
    assert notes_of_unused([event()], ["height"]) == ["event: its arrays model_rain are not used"]
    assert notes_of_unused([event()], ["height", "model_rain"]) == []


# ---- crops ---------------------------------------------------------------------------------------


def test_fields_are_cut_with_the_rain() -> None:
    given, names = event(), NEEDS
    crops = ValidationCrops([given], 4, 16, 5, seed=0, fields=names)
    for window, crop in zip(crops.windows, crops, strict=True):
        assert crop.fields["height"].shape == (1, 1, 16, 16)
        own = given.rain_rate[:1, window.y : window.y + 16, window.x : window.x + 16]
        assert np.array_equal(crop.fields["height"][:, 0], -own)
        frames = window.first_frame + np.arange(4)
        expected = frames[:, None, None, None] + own[:, None]
        np.testing.assert_allclose(crop.fields["model_rain"], expected, rtol=1e-6)


def test_a_margin_knows_a_part_of_the_surroundings() -> None:
    given, names = event(), {"height": FieldNeed(1, 0)}
    settings = ([given], 4, 16, "uniform", 0)
    crops = TrainingCrops(*settings, use_augmentation=False, fields=names, margin=12)
    bare = TrainingCrops(*settings, use_augmentation=False)
    widths = set()
    for index in range(60):
        (rain_rate, fields, _), alone = crops[(0, 0, index)], bare[(0, 0, index)].rain_rate
        assert rain_rate.shape == (1, 4, 40, 40) and fields["height"].shape == (1, 1, 40, 40)
        assert torch.equal(rain_rate[..., 12:-12, 12:-12], alone)
        is_known = ~rain_rate[0, 0].isnan()
        rows, columns = (torch.nonzero(is_known.any(axis)).flatten() for axis in (1, 0))
        assert is_known.sum() == len(rows) * len(columns)  # a rectangle
        assert torch.equal(~fields["height"][0, 0].isnan(), is_known)
        assert (rain_rate[0, 0][is_known] == -fields["height"][0, 0][is_known]).all() or (
            rain_rate[0, 0][is_known] > -fields["height"][0, 0][is_known]
        ).all()  # of the first frame, or of a later one
        widths.add(max(12 - int(rows[0]), int(rows[-1]) - 27))
    assert widths >= {0, 1, 11, 12}


def test_what_is_outside_the_domain_is_not_known() -> None:
    given = event()
    crops = ValidationCrops([given], 4, 40, 1, seed=0)
    rain_rate = read_window([given], crops.windows[0], 4, 40, margin=8).rain_rate
    assert rain_rate.shape == (1, 4, 56, 56)
    assert rain_rate[..., :8, :].isnan().all() and rain_rate[..., -8:, :].isnan().all()
    x = crops.windows[0].x
    known_columns = (~rain_rate[0, 0, 10].isnan()).sum()
    assert known_columns == min(x + 48, 50) - max(x - 8, 0)


def test_vectors_turn_with_the_rain() -> None:
    """The gradient of a turned field is the turned gradient, all eight ways."""
    axes = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    field = (0.3 * axes[0] + 0.07 * axes[1] + 0.02 * axes[0] * axes[1])[None, None]
    gradient = torch.stack(torch.gradient(field[0, 0]))[None]
    ways = set()
    for seed in range(64):
        turned = augment(Example(field, {"slope": gradient}), np.random.default_rng(seed))
        expected = torch.stack(torch.gradient(turned.rain_rate[0, 0]))[None]
        torch.testing.assert_close(turned.fields["slope"], expected)
        ways.add(tuple(turned.fields["slope"][0, :, 8, 8].tolist()))
    assert len(ways) == 8
