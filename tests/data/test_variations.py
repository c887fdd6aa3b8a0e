"""Crops that move and rain with a factor: past, future, surroundings and fields stay consistent."""

import itertools
import math

import numpy as np
import pytest
import torch

from ldcast.data.crops import TrainingCrops, ValidationCrops, augment, read_window, with_border
from ldcast.data.event import Field, RainEvent
from ldcast.data.fields import FieldNeed
from ldcast.data.pickers import Window
from ldcast.data.variations import moving, with_factor
from ldcast.errors import InputError
from ldcast.seeds import STREAM_CROP, keyed_rng

pytestmark = pytest.mark.core

NUM_FRAMES, HEIGHT, WIDTH = 8, 90, 82
DOWN, RIGHT = 2, -3  # pixels per frame, of the rain
NEEDS = {
    "model_rain": FieldNeed(1, NUM_FRAMES),
    "lightning": FieldNeed(1, 3),
    "wind": FieldNeed(2, NUM_FRAMES, "velocity"),
    "slope": FieldNeed(2, NUM_FRAMES, "other"),
}


def moving_event() -> RainEvent:
    """Rain and fields that move unchanged; each pixel of them has a number of its own."""
    size = HEIGHT + DOWN * NUM_FRAMES, WIDTH - RIGHT * NUM_FRAMES
    pattern = np.random.default_rng(0).permutation(size[0] * size[1]).astype(np.float32)
    pattern = pattern.reshape(size) / 100
    frames = []
    for frame in range(NUM_FRAMES):
        y, x = DOWN * (NUM_FRAMES - frame), -RIGHT * frame
        frames.append(pattern[y : y + HEIGHT, x : x + WIDTH])
    rain_rate = np.stack(frames)
    time = np.datetime64("2020-06-01", "s") + np.arange(NUM_FRAMES) * np.timedelta64(300, "s")
    wind = np.zeros((NUM_FRAMES, 2, HEIGHT, WIDTH), np.float32)
    wind[:, 0], wind[:, 1] = DOWN, RIGHT
    fields = {
        "model_rain": Field(10 + rain_rate[:, None], time),
        "lightning": Field(-rain_rate[:, None], time),
        "wind": Field(wind, time),
        "slope": Field(wind, time),
        "height": Field(rain_rate[:1, None]),
    }
    return RainEvent(rain_rate, time, name="storm", fields=fields)


def crops(**changes) -> TrainingCrops:
    settings = {"num_frames": NUM_FRAMES, "crop_size": 32, "picker": "uniform", "seed": 1}
    settings |= {"fields": NEEDS, "margin": 6, "crop_motion": 2}
    return TrainingCrops([moving_event()], **(settings | changes))


def assert_moves(frames: torch.Tensor, down: int, right: int) -> None:
    """Each of the frames (T, H, W) is the one before, moved; where both are known."""
    known = 0
    for before, after in itertools.pairwise(frames):
        moved = before.roll((down, right), (0, 1))
        inside = torch.zeros_like(after, dtype=torch.bool)
        height, width = after.shape
        rows = slice(max(down, 0), height + min(down, 0))
        inside[rows, max(right, 0) : width + min(right, 0)] = True
        inside &= ~(moved.isnan() | after.isnan())
        assert torch.equal(moved[inside], after[inside])
        known += inside.sum()
    assert known > 0.5 * frames[1:].numel() * (32 / 44) ** 2


# ---- crops that move -----------------------------------------------------------------------------


@pytest.mark.parametrize("use_augmentation", [False, True])
def test_rain_and_fields_move_less_the_crops_own_velocity(use_augmentation):
    """The field of velocities says how; of turned crops, too."""
    data, motions = crops(use_augmentation=use_augmentation), set()
    for index in range(80):
        example = data[(0, 0, index)]
        rain_rate, fields = example.rain_rate, example.fields
        assert rain_rate.shape == (1, NUM_FRAMES, 44, 44)
        assert fields["wind"].shape == (NUM_FRAMES, 2, 44, 44)
        assert not rain_rate[..., 6:-6, 6:-6].isnan().any()  # it never leaves the domain
        is_known = ~rain_rate[0].isnan()
        wind, slope = (
            fields[name].transpose(0, 1)[:, is_known].int().unique(dim=1)
            for name in ("wind", "slope")
        )
        assert wind.shape == slope.shape == (2, 1)
        down, right = wind[:, 0].tolist()
        assert_moves(rain_rate[0], down, right)
        assert_moves(fields["model_rain"][:, 0], down, right)
        torch.testing.assert_close(fields["model_rain"][:, 0] - 10, rain_rate[0], equal_nan=True)
        assert torch.equal(fields["lightning"][:, 0][is_known[:3]], -rain_rate[0, :3][is_known[:3]])
        assert sorted(map(abs, slope[:, 0].tolist())) == [2, 3]  # another vector stays
        motions.add((down, right))
    if not use_augmentation:
        expected = {(DOWN - down, RIGHT - right) for down in range(-2, 3) for right in range(-2, 3)}
        assert motions <= expected and len(motions) > 20


def test_a_crop_is_in_the_middle_of_its_frames_where_it_was_drawn_if_there_is_room():
    drawn = Window(0, 3, 40, 50, 0.5)
    seen = set()
    for index in range(100):
        window = moving(drawn, 3, 9, 32, (120, 130), keyed_rng(2, index))
        assert (window.y + 4 * window.down, window.x + 4 * window.right) == (40, 50)
        assert (window.event, window.first_frame, window.weight) == (0, 3, 0.5)
        seen.add((window.down, window.right))
    assert len(seen) > 40
    for corner in ((0, 0), (24, 0), (0, 24), (24, 24)):
        for index in range(50):
            drawn = Window(0, 0, *corner)
            window = moving(drawn, 3, 9, 32, (56, 56), keyed_rng(3, index))
            for start, step in ((window.y, window.down), (window.x, window.right)):
                assert 0 <= min(start, start + 8 * step) <= max(start, start + 8 * step) <= 24


def test_a_moving_crop_of_an_edge_knows_nothing_beyond_it():
    event = moving_event()
    window = Window(0, 0, 0, 10, down=3)
    rain_rate = read_window([event], window, NUM_FRAMES, 32, margin=6).rain_rate[0]
    for frame, found in enumerate(rain_rate):
        top, beyond = 3 * frame - 6, max(0, 6 - 3 * frame)
        assert found[:beyond].isnan().all() and not found[beyond:].isnan().any()
        expected = event.rain_rate[frame, max(top, 0) : top + 44, 4:48]
        assert np.array_equal(found[beyond:], expected)


def test_without_variations_the_draws_are_those_of_earlier_runs():
    data = crops(crop_motion=0, rain_factor_db=0.0)
    for index in range(12):
        rng = keyed_rng(1, STREAM_CROP, 0, 0, index)
        window = data.picker(rng)
        margin = int(rng.integers(7))
        example = read_window([moving_event()], window, NUM_FRAMES, 32, NEEDS, margin)
        expected = augment(with_border(example, 6 - margin), rng)
        found = data[(0, 0, index)]
        pairs = [(found.rain_rate, expected.rain_rate)]
        pairs += [(found.fields[name], expected.fields[name]) for name in NEEDS]
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_varied_crop_depends_on_its_key_alone():
    settings = {"rain_factor_db": 0.6, "margin": 0}
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    alone = {key: crops(**settings)[key] for key in keys}
    data = crops(**settings)
    for key in reversed(keys):
        example = data[key]
        assert torch.equal(example.rain_rate, alone[key].rain_rate)
        assert torch.equal(example.fields["wind"], alone[key].fields["wind"])
    assert len({float(example.rain_rate.sum()) for example in alone.values()}) == 4


def test_a_pool_is_of_its_variations():
    of = {"motion": crops(), "other motion": crops(crop_motion=1), "none": crops(crop_motion=0)}
    of |= {"factor": crops(rain_factor_db=0.6), "limit": crops(max_rain_rate=200.0)}
    assert len({data.fingerprint() for data in of.values()}) == len(of)
    assert crops().fingerprint() == crops().fingerprint()


def test_validation_crops_stand_still():
    data = ValidationCrops([moving_event()], NUM_FRAMES, 32, 5, seed=0, fields=NEEDS)
    for window, example in zip(data.windows, data, strict=True):
        assert (window.down, window.right) == (0, 0)
        assert_moves(example.rain_rate[0], DOWN, RIGHT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_motion": 8}, "82 pixels, expected at least 88 x 88 .* use --data.crop-motion 7 or"),
        ({"fields": {"height": FieldNeed(1, 0)}}, "height, which does not change in time"),
        ({"fields": {"wind": FieldNeed(2, 8)}}, "the vector wind, .* vector='velocity'"),
    ],
)
def test_crops_that_cannot_move_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        crops(**changes)
    crops(**changes | {"crop_motion": 0})
    assert crops(crop_motion=7)[(0, 0, 0)].rain_rate.shape == (1, NUM_FRAMES, 44, 44)


# ---- a factor on rain ----------------------------------------------------------------------------


def test_all_frames_have_one_factor_and_fields_have_none():
    settings = {"crop_motion": 0, "margin": 0, "use_augmentation": False}
    plain, data = crops(**settings), crops(**settings, rain_factor_db=0.6)
    decibels = []
    for index in range(200):
        before, after = plain[(0, 0, index)], data[(0, 0, index)]
        factors = (after.rain_rate / before.rain_rate)[before.rain_rate > 0]
        torch.testing.assert_close(factors, factors[:1].expand_as(factors))
        decibels.append(10 * math.log10(factors[0]))
        assert torch.equal(after.fields["model_rain"], before.fields["model_rain"])
    assert np.std(decibels) == pytest.approx(0.6, rel=0.15)
    assert abs(np.mean(decibels)) < 0.15


def test_the_factor_hides_no_fault_and_makes_none():
    rain_rate = torch.tensor([0.0, 2.0, 90.0, 100.0, 101.0, torch.inf, -0.5, torch.nan])
    for index in range(20):
        found = with_factor(rain_rate, 3.0, 100.0, keyed_rng(4, index))
        factor = found[1] / 2
        assert factor != 1 and found[0] == 0
        assert found[2] == pytest.approx(min(90 * float(factor), 100))
        assert found[3] == pytest.approx(min(100 * float(factor), 100))
        assert torch.equal(found[4:7], rain_rate[4:7]) and found[7].isnan()
