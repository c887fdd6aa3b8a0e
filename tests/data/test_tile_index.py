"""Statistics of tiles, as pickers know them of archives."""

import numpy as np
import pytest

from ldcast.data.event import RainEvent
from ldcast.data.tile_index import ComputedTiles, classes_of_tiles, tile_statistics
from ldcast.data.tiles import tile_classes, tile_valid_share, tile_wet_share

RNG = np.random.default_rng(1)
RAIN = np.where(RNG.random((5, 70, 90)) < 0.4, RNG.gamma(0.4, 3, (5, 70, 90)), 0.0).astype("f4")
RAIN[:, :20, :50] = np.nan
RAIN[2] *= 30
TIME = np.datetime64("2020-06-01", "s") + np.arange(5) * np.timedelta64(300, "s")


def test_they_are_those_of_the_tables_of_an_event():
    event, tiles = RainEvent(RAIN, TIME), ComputedTiles(RAIN)
    valid_share, wet_share = tiles.rows("valid_share", 0, 5), tiles.rows("wet_share", 0, 5)
    assert valid_share.shape == (5, 3, 3)
    np.testing.assert_allclose(valid_share, tile_valid_share(event), atol=5e-4)
    np.testing.assert_allclose(wet_share, tile_wet_share(event), atol=5e-4)
    classes = classes_of_tiles(tiles.rows("percentile_99", 0, 5), valid_share, RAIN.shape[1:])
    assert (classes[:, :2, :2] == tile_classes(event)).all() and (classes[:, 2] == -1).all()
    counts = tiles.class_counts(0, 5)
    assert counts[2].tolist() == [(tile_classes(event)[2] == c).sum() for c in range(11)]
    assert (tiles.class_counts(1, 3) == counts[1:3]).all()


def test_means_are_of_the_pixels_with_data():
    frame = np.full((32, 40), np.nan, np.float32)
    frame[:16, :32] = 2.0
    found = tile_statistics(frame)
    assert found["valid_share"].tolist() == [[0.5, 0.0]]
    assert found["mean"][0, 0] == 2.0 and np.isnan(found["mean"][0, 1])
    assert found["percentile_99"][0, 0] == 2.0 and np.isnan(found["percentile_99"][0, 1])
    assert found["wet_share"].tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("name", ["valid_share", "wet_share", "mean"])
def test_no_frame_is_above_the_highest_of_its_block(name):
    rain = np.tile(RAIN, (60, 1, 1))  # 300 frames, two blocks
    rain[288:] /= 2
    tiles = ComputedTiles(rain)
    highest = tiles.highest(name)
    assert highest.shape == (2, 3, 3)
    rows = np.nan_to_num(tiles.rows(name, 0, 300))
    np.testing.assert_array_equal(highest, [rows[:288].max(axis=0), rows[288:].max(axis=0)])
