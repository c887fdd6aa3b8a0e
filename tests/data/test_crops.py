"""Training examples: which windows are drawn, and that their keys alone decide."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ldcast.data.crops import (
    BatchKeys,
    Example,
    TrainingCrops,
    ValidationCrops,
    augment,
    read_window,
    valid_share,
    wet_share,
)
from ldcast.data.event import RainEvent
from ldcast.data.pickers import EqualFrequencyPicker, UniformPicker, WetPicker
from ldcast.data.spans import hold_out
from ldcast.data.tiles import CLASS_EDGES, TILE, tile_classes, tile_valid_share
from ldcast.errors import InputError
from ldcast.seeds import keyed_rng

pytestmark = pytest.mark.core

HEIGHT, WIDTH = 112, 150  # neither square nor multiples of a tile: 3 x 4 full tiles
FIVE_MINUTES = np.timedelta64(300, "s")


def make_event(num_frames: int = 10, height: int = HEIGHT, width: int = WIDTH) -> RainEvent:
    """A dry domain."""
    time = np.datetime64("2020-06-01", "s") + np.arange(num_frames) * FIVE_MINUTES
    return RainEvent(np.zeros((num_frames, height, width), dtype=np.float16), time, name="storm")


def numbered_event() -> RainEvent:
    """Every pixel of every frame has its own value."""
    event = make_event(num_frames=6, height=80, width=70)
    numbers = np.arange(event.rain_rate.size, dtype=np.float32).reshape(event.rain_rate.shape)
    return RainEvent(numbers, event.time)


def rngs(count: int):
    return (keyed_rng(5, index) for index in range(count))


# ---- pickers -------------------------------------------------------------------------------------


def test_uniform_windows_reach_every_position_with_equal_chance():
    event = make_event(num_frames=5, height=104, width=66)
    picker = UniformPicker([event], num_frames=4, crop_size=64)
    windows = [picker(rng) for rng in rngs(12300)]
    counts = np.zeros((2, 41, 3))
    for window in windows:
        counts[window.first_frame, window.y, window.x] += 1
    # 246 windows with 50 draws expected each; 5 standard deviations either way.
    assert counts.min() > 15 and counts.max() < 85
    # The rows nearest to the first tile are fewer than those nearest to the second.
    assert counts[:, :16].mean() == pytest.approx(counts[:, 16:].mean(), rel=0.1)


def test_uniform_windows_reach_the_edge_with_crops_of_one_and_a_half_tiles():
    picker = UniformPicker([make_event(num_frames=4, height=64, width=64)], 4, crop_size=48)
    assert {picker(rng).y for rng in rngs(300)} == set(range(17))


def test_uniform_draws_events_by_their_number_of_windows():
    large, small = make_event(num_frames=13), make_event(num_frames=5)  # 10 and 2 first frames
    picker = UniformPicker([small, large], num_frames=4, crop_size=64)
    share = np.mean([picker(rng).event for rng in rngs(1200)])
    assert 0.77 < share < 0.89  # 10 / 12


def test_uniform_windows_have_data():
    event = make_event(num_frames=8, height=256, width=320)
    event.rain_rate[:, :, 128:] = np.nan  # data in the west
    event.rain_rate[:3] = np.nan  # and late
    picker = UniformPicker([event], num_frames=4, crop_size=64)
    windows = [picker(rng) for rng in rngs(300)]
    assert max(window.x for window in windows) > 64  # partly without data is allowed
    valid = [
        (~read_window([event], window, 4, 64).rain_rate.isnan()).float().mean()
        for window in windows
    ]
    assert min(valid) >= 0.5 - 0.25  # judged at the nearest tiles: half a tile of 64 pixels off
    assert np.mean([share >= 0.5 for share in valid]) > 0.8


def test_uniform_finds_the_only_place_with_data():
    event = make_event(num_frames=4, height=640, width=640)
    event.rain_rate[:, :576] = np.nan
    event.rain_rate[:, :, :576] = np.nan
    picker = UniformPicker([event], num_frames=4, crop_size=64)
    windows = [picker(rng) for rng in rngs(20)]
    # A tile off along one axis still has half of its pixels, and positions half a tile off count.
    assert min(min(window.y, window.x) for window in windows) >= 576 - TILE - TILE // 2


def rain_in_one_tile() -> tuple[RainEvent, int, int, int]:
    """An event with heavy rain in one tile of one frame: (event, frame, y, x of the tile)."""
    event = make_event()
    frame, y, x = 6, TILE, 3 * TILE
    event.rain_rate[frame, y : y + TILE, x : x + TILE] = 20.0
    return event, frame, y, x


def test_equal_frequency_draws_classes_alike_and_uniform_does_not():
    event = rain_in_one_tile()[0]

    def share_of_rain(picker) -> float:
        windows = [picker(rng) for rng in rngs(400)]
        heaviest = [read_window([event], window, 4, 64).rain_rate.max() for window in windows]
        return float(np.mean([value == 20 for value in heaviest]))

    equal = EqualFrequencyPicker([event], num_frames=4, crop_size=64)
    assert np.unique(tile_classes(event), return_counts=True)[1].tolist() == [119, 1]
    rainy, uniform = share_of_rain(equal), share_of_rain(UniformPicker([event], 4, 64))
    # Half of the draws are of the heavy class; dry tiles bring it along now and then.
    assert 0.5 < rainy < 0.85
    assert uniform < rainy - 0.15


def test_wet_windows_are_drawn_by_their_wet_share():
    """Four tiles in a row of 3,000 positions each, wet in 0, 10, 20 and 100 % of their pixels."""
    event = make_event(num_frames=4, height=64, width=4 * 256)
    for column, share in enumerate((0.0, 0.1, 0.2, 1.0)):
        rows = event.rain_rate[:, :, 256 * column : 256 * (column + 1)]
        rows.reshape(4, -1)[:] = 0.0
        is_wet = np.random.default_rng(0).random(rows.shape) < share
        rows[is_wet] = 1.0
    picker = WetPicker([event, event], 4, 64)
    windows = [picker(rng) for rng in rngs(4000)]
    middles = [(window.x - 32) / 256 for window in windows]
    # Windows that lie in one of the quarters alone.
    counts = np.bincount([int(m) for m in middles if 0.15 < m % 1 < 0.6], minlength=4)
    chances = counts / counts[2]
    np.testing.assert_allclose(chances, [0.05, 0.525, 1.0, 1.0], rtol=0.15, atol=0.02)
    assert abs(np.mean([window.event for window in windows]) - 0.5) < 0.03
    assert {window.y for window in windows} == {0}


def test_equal_frequency_windows_contain_the_tile_at_every_position():
    event, frame, y, x = rain_in_one_tile()
    picker = EqualFrequencyPicker([event], num_frames=4, crop_size=64)
    picker._draw_tile = lambda rng: (0, frame, y // TILE, x // TILE)
    windows = [picker(rng) for rng in rngs(600)]
    for window in windows:
        assert window.first_frame <= frame < window.first_frame + 4
        assert window.y <= y and y + TILE <= window.y + 64
        assert window.x <= x and x + TILE <= window.x + 64
        assert read_window([event], window, 4, 64).rain_rate.shape == (1, 4, 64, 64)
    assert {window.first_frame for window in windows} == {3, 4, 5, 6}
    assert {window.y for window in windows} == set(range(0, 33))
    assert {window.x for window in windows} == set(range(64, WIDTH - 64 + 1))  # to the edge


def test_equal_frequency_names_the_right_event_and_tile():
    dry, (rainy, frame, y, x) = make_event(), rain_in_one_tile()
    picker = EqualFrequencyPicker([dry, rainy, dry], num_frames=4, crop_size=64)
    drawn = [picker._draw_tile(rng) for rng in rngs(300)]
    assert drawn.count((1, frame, y // TILE, x // TILE)) > 100
    assert {tile[0] for tile in drawn} == {0, 1, 2}


# ---- tables of tiles -----------------------------------------------------------------------------


def test_tile_classes_agree_with_a_plain_percentile():
    rng = np.random.default_rng(3)
    event = make_event(num_frames=3)
    event.rain_rate[:] = rng.lognormal(0, 2, event.rain_rate.shape) * rng.uniform(0, 3, (3, 1, 1))
    event.rain_rate[rng.random(event.rain_rate.shape) < 0.3] = np.nan
    event.rain_rate[1, :TILE, :TILE] = np.nan
    classes = tile_classes(event)
    assert classes.shape == (3, 3, 4) and classes[1, 0, 0] == -1
    for (frame, row, column), found in np.ndenumerate(classes):
        y, x = row * TILE, column * TILE
        tile = event.rain_rate[frame, y : y + TILE, x : x + TILE].astype(np.float32)
        if found >= 0:
            percentile = np.percentile(tile[~np.isnan(tile)], 99, method="inverted_cdf")
            assert found == (percentile >= CLASS_EDGES).sum()


def test_class_edges_are_as_published():
    assert len(CLASS_EDGES) == 10
    np.testing.assert_allclose([CLASS_EDGES[0], CLASS_EDGES[-1]], [0.2, 50.0])
    event = make_event(num_frames=3)
    event.rain_rate[1], event.rain_rate[2] = 0.25, 60.0
    assert tile_classes(event)[:, 0, 0].tolist() == [0, 1, 10]


def test_tiles_need_data_in_half_of_their_pixels():
    event = make_event(num_frames=2)
    event.rain_rate[0, :16, :TILE] = np.nan  # exactly half
    event.rain_rate[1, :17, :TILE] = np.nan
    assert tile_classes(event)[:, 0, 0].tolist() == [0, -1]
    assert tile_valid_share(event)[:, 0, 0].tolist() == [0.5, pytest.approx(15 / 32)]


def test_valid_share_of_tiles_counts_partial_ones():
    event = make_event(num_frames=1)
    event.rain_rate[0, 96:104, 128:150] = np.nan  # half of the last tile, 16 x 22
    shares = tile_valid_share(event)
    assert shares.shape == (1, 4, 5)
    assert shares[0, 3, 4] == pytest.approx(0.5) and (shares.ravel()[:-1] == 1).all()


# ---- data sets -----------------------------------------------------------------------------------


def crops(**changes) -> TrainingCrops:
    settings = {"num_frames": 4, "crop_size": 32, "picker": "uniform", "seed": 1, **changes}
    return TrainingCrops([numbered_event()], **settings)


@pytest.mark.parametrize("picker", ["uniform", "wet", "equal_frequency", "mixed"])
def test_crop_depends_on_its_key_alone(picker):
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 7, 3)]
    in_order = {key: crops(picker=picker)[key].rain_rate for key in keys}
    data = crops(picker=picker)
    for key in reversed(keys):
        assert torch.equal(data[key].rain_rate, in_order[key])
    for index, key in enumerate(keys):
        assert all(not torch.equal(in_order[key], in_order[other]) for other in keys[:index])
    other = crops(picker=picker, seed=2)[(0, 0, 0)].rain_rate
    assert not torch.equal(other, in_order[(0, 0, 0)])


def test_crop_is_float32_and_keeps_missing_data():
    event = make_event()
    event.rain_rate[:, ::2] = np.nan
    data = TrainingCrops([event], 4, 64, "equal_frequency", seed=0)
    crop = data[(0, 0, 0)].rain_rate
    assert crop.shape == (1, 4, 64, 64) and crop.dtype == torch.float32
    assert crop.isnan().float().mean() == 0.5 and crop.nanmean() == 0


def test_augmentation_turns_windows_all_eight_ways_and_changes_no_value():
    straight, turned = crops(use_augmentation=False), crops()
    ways = set()
    for index in range(120):
        crop, expected = (of[(0, 0, index)].rain_rate for of in (turned, straight))
        assert torch.equal(crop[0, :, :, :].flatten(1).sort().values, expected[0].flatten(1))
        # The first row of the first frame tells the way: its corner and its direction.
        corner, step = crop[0, 0, 0, 0] - expected[0, 0, 0, 0], crop[0, 0, 0, 1] - crop[0, 0, 0, 0]
        ways.add((float(corner), float(step)))
    assert len(ways) == 8


def test_augmentation_keeps_time_order():
    frames = torch.arange(4.0)[None, :, None, None].expand(1, 4, 8, 8)
    for rng in rngs(16):
        assert torch.equal(augment(Example(frames, {}), rng).rain_rate, frames)


def test_training_and_validation_share_no_frame():
    event = make_event(num_frames=60)
    event.rain_rate[:] = np.arange(60)[:, None, None]
    train, validation = hold_out([event], 5)
    trained = TrainingCrops(train, 24, 64, "equal_frequency", seed=0)
    crops_seen = [trained[(0, 0, index)].rain_rate for index in range(60)]
    seen = {float(value) for crop in crops_seen for value in crop[0, :, 0, 0]}
    held_out = ValidationCrops(validation, 24, 64, num_examples=20, seed=0)
    validated = {float(value) for crop in held_out for value in crop.rain_rate[0, :, 0, 0]}
    assert seen == set(range(36)) and validated == set(range(36, 60))


def test_validation_is_fixed_by_its_seed_and_not_turned():
    event = numbered_event()
    one, same, other = (ValidationCrops([event], 4, 32, 6, seed) for seed in (3, 3, 4))
    assert len(one) == 6 and len(set(one.windows)) == 6
    assert one.windows == same.windows != other.windows
    longer = ValidationCrops([event], 4, 32, 9, 3)
    assert longer.windows[:6] == one.windows
    for crop in (example.rain_rate for example in one):
        assert (crop.diff(dim=-1) == 1).all() and (crop.diff(dim=-2) == 70).all()


# ---- batches -------------------------------------------------------------------------------------


def test_ranks_and_micro_batches_share_out_one_global_batch():
    whole = list(BatchKeys(1, range(3, 5), batch_size=8))
    assert whole == [[(1, 3, i) for i in range(8)], [(1, 4, i) for i in range(8)]]
    parts = [
        BatchKeys(1, range(3, 5), 8, num_micro_batches=2, rank=r, world_size=2) for r in (0, 1)
    ]
    assert [len(part) for part in parts] == [4, 4]
    lists = [list(part) for part in parts]
    assert all(len(keys) == 2 for part in lists for keys in part)
    for iteration in (3, 4):
        keys = [key for part in lists for some in part for key in some if key[1] == iteration]
        assert sorted(keys) == [(1, iteration, i) for i in range(8)]
    assert [keys[0][1] for keys in lists[1]] == [3, 3, 4, 4]


def test_data_loader_workers_change_nothing():
    data, keys = crops(), BatchKeys(0, range(5, 7), batch_size=4, num_micro_batches=2)
    batches = list(DataLoader(data, batch_sampler=keys, num_workers=2))
    assert len(batches) == 4
    for batch, some in zip(batches, keys, strict=True):
        assert torch.equal(batch.rain_rate, torch.stack([data[key].rain_rate for key in some]))


def test_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(InputError, match=r"multiple of 6, such as --batch-size 12"):
        BatchKeys(0, range(1), 10, num_micro_batches=3, world_size=2)
    with pytest.raises(InputError, match="such as --batch-size 1"):
        BatchKeys(0, range(1), 0)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("picker", ["uniform", "wet", "equal_frequency", "mixed"])
def test_events_that_do_not_fit_are_refused(picker):
    def build(events, crop_size=64):
        return TrainingCrops(events, 4, crop_size, picker, seed=0, multiple=16)

    with pytest.raises(InputError, match="no event"):
        build([])
    with pytest.raises(InputError, match="storm has 3 frames, expected at least 4"):
        build([make_event(), make_event(num_frames=3)])
    with pytest.raises(InputError, match=r"112 x 150 pixels.*128 x 128; use --crop-size 80"):
        build([make_event(), make_event(height=90)], crop_size=128)
    with pytest.raises(InputError, match=r"10 x 150 pixels.*leave it out"):
        build([make_event(height=10)])
    event = make_event()
    event.time[5:] += FIVE_MINUTES
    with pytest.raises(InputError, match="10 minutes apart, expected 5"):
        build([event])
    event = make_event()
    event.rain_rate[:] = np.nan
    with pytest.raises(InputError, match=r"storm: every .* more than half without data"):
        build([make_event(), event])


def test_unknown_picker_and_crops_below_a_tile_are_refused():
    with pytest.raises(InputError, match="'even': expected uniform or wet or equal_frequency"):
        TrainingCrops([make_event()], 4, 64, "even", seed=0)
    with pytest.raises(InputError, match="at least 32 pixels"):
        EqualFrequencyPicker([make_event()], 4, 16)
    assert TrainingCrops([make_event()], 4, 16, "uniform", 0)[(0, 0, 0)].rain_rate.shape == (
        *(1, 4, 16, 16),
    )


# ---- shares --------------------------------------------------------------------------------------


def test_wet_share_counts_valid_pixels_only():
    rain_rate = torch.tensor([[0.0, 0.05, 0.1, 3.0, torch.nan, torch.nan]])
    assert wet_share(rain_rate) == 0.5
    assert wet_share(torch.full((2, 3), torch.nan)) == 0


def test_valid_share_of_latent_cells():
    rain_rate = torch.zeros(2, 1, 8, 12, 16)
    rain_rate[1, 0, 4:, 8:, :2] = torch.nan
    share = valid_share(rain_rate, 4)
    assert share.shape == (2, 1, 2, 3, 4)
    assert share[1, 0, 1, 2, 0] == 0.5 and share.sum() == share.numel() - 0.5
    assert valid_share(rain_rate, 2).shape == (2, 1, 4, 6, 8)


# ---- draws do not change -------------------------------------------------------------------------

# (event, first frame, y, x) of keys (11, 0, 0, 0..7), as the first pickers drew them: runs resume.
DRAWN = {
    "uniform": [
        *[(1, 5, 7, 9), (0, 3, 0, 1), (0, 1, 27, 44), (0, 6, 29, 42)],
        *[(0, 6, 11, 36), (0, 3, 36, 35), (1, 5, 17, 29), (0, 4, 6, 20)],
    ],
    "wet": [
        *[(1, 3, 31, 9), (0, 5, 0, 49), (0, 2, 27, 63), (1, 1, 29, 13)],
        *[(1, 0, 39, 26), (0, 6, 36, 9), (1, 5, 0, 13), (0, 7, 6, 20)],
    ],
    "equal_frequency": [
        *[(1, 3, 0, 26), (0, 2, 17, 22), (0, 1, 31, 29), (1, 0, 54, 30)],
        *[(1, 0, 0, 28), (0, 5, 26, 64), (1, 4, 29, 25), (0, 0, 48, 50)],
    ],
}


def striped_event(number: int, shape: tuple[int, int, int]) -> RainEvent:
    """Rain by arithmetic alone, so that no generator's change moves it; a corner without data."""
    frame, y, x = np.meshgrid(*map(np.arange, shape), indexing="ij")
    rain = (7 * frame + 3 * y + 11 * x + 5 * number) % 97 / 8.0 - (y * x + frame) % 13
    rain = np.maximum(0, rain) * ((y + 2 * frame) // TILE % 3 == number)
    event = make_event(*shape)
    event.rain_rate[:] = rain
    event.rain_rate[:, :20, :40] = np.nan
    return event


@pytest.mark.parametrize("name", DRAWN)
def test_draws_from_event_files_are_those_of_earlier_runs(name):
    events = [striped_event(0, (12, 96, 112)), striped_event(1, (9, 112, 80))]
    crops = TrainingCrops(events, 4, 48, name, seed=11)
    windows = [crops.picker(keyed_rng(11, 0, 0, index)) for index in range(8)]
    drawn = [(window.event, window.first_frame, window.y, window.x) for window in windows]
    assert drawn == DRAWN[name]
