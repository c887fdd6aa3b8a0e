"""Pickers that look at an index of tiles alone draw as those of arrays do."""

import numpy as np
import pytest

from ldcast.data.crops import read_window
from ldcast.data.event import RainEvent
from ldcast.data.index_pickers import INDEX_PICKERS
from ldcast.data.picking import ARRAY_PICKERS, build_picker, describe_draws
from ldcast.data.tiles import TILE, tile_classes
from ldcast.errors import InputError
from ldcast.seeds import keyed_rng

FIVE_MINUTES = np.timedelta64(300, "s")
NUM_DRAWS = 3000


def make_event(num_frames: int, height: int, width: int, first: str = "2020-06-01") -> RainEvent:
    time = np.datetime64(first, "s") + np.arange(num_frames) * FIVE_MINUTES
    return RainEvent(np.zeros((num_frames, height, width), np.float32), time, name="storm")


@pytest.fixture(scope="module")
def events() -> list[RainEvent]:
    """Two events of which parts are without data, and parts are wet or heavy; two blocks."""
    rng = np.random.default_rng(2)
    long, short = make_event(300, 104, 150), make_event(8, 96, 96, "2020-07-01")
    for event in (long, short):
        rain = event.rain_rate
        rain[:, 30:80, 60:] = rng.gamma(0.5, 2, rain[:, 30:80, 60:].shape)
        rain[:, :, :40] = np.nan
    long.rain_rate[:150] *= 0.02
    long.rain_rate[290:, :40] = 30.0
    return [long, short]


def drawn(picker) -> np.ndarray:
    """(draws, 4) of event, first frame in sixths of 300, and row and column in tiles."""
    windows = [picker(keyed_rng(3, index)) for index in range(NUM_DRAWS)]
    return np.array([(w.event, w.first_frame // 50, w.y // TILE, w.x // TILE) for w in windows])


def chi_squared(first_draws: np.ndarray, second_draws: np.ndarray) -> float:
    """Above 1 where two samples are hardly of one distribution: four deviations beyond its mean."""
    both = first_draws, second_draws
    kinds = np.unique(np.concatenate(both), axis=0)
    counts = [[(of == kind).all(axis=1).sum() for kind in kinds] for of in both]
    first, second = np.array(counts, float)
    freedom = len(kinds) - 1
    assert freedom > 8
    statistic = ((first - second) ** 2 / (first + second)).sum()
    return statistic / (freedom + 4 * np.sqrt(2 * freedom))


@pytest.mark.parametrize("name", ARRAY_PICKERS)
def test_draws_have_the_chances_of_the_array_pickers(events, name):
    read = events, 4, 48
    by_index, by_array = drawn(INDEX_PICKERS[name](*read, 5, 1)), drawn(ARRAY_PICKERS[name](*read))
    assert chi_squared(by_index, by_array) < 1


@pytest.mark.parametrize("pickers", [ARRAY_PICKERS, INDEX_PICKERS])
def test_mixed_draws_half_as_wet_and_half_as_equal_frequency(events, pickers):
    mixed, wet, heavy = (
        drawn(pickers[name](events, 4, 48, 5, 1)) for name in ("mixed", "wet", "equal_frequency")
    )
    kinds = np.unique(np.concatenate([mixed, wet, heavy]), axis=0)
    counts = [[(of == kind).all(axis=1).sum() for kind in kinds] for of in (mixed, wet, heavy)]
    found, *parts = np.array(counts, float)
    expected = sum(parts) / 2
    variance = found + sum(parts) / 4
    freedom = len(kinds) - 1
    assert ((found - expected) ** 2 / variance).sum() < freedom + 4 * np.sqrt(2 * freedom)
    assert any(((found - part) ** 2 / (found + part).clip(1)).sum() > 2 * freedom for part in parts)


def rain_to_come() -> RainEvent:
    """One window in time: rain in the west in its first 2 frames, in the east in the other 22."""
    event = make_event(24, 32, 256)
    event.rain_rate[:2, :, :64] = 8.0
    event.rain_rate[2:, :, 192:] = 8.0
    return event


@pytest.mark.parametrize("pickers", [ARRAY_PICKERS, INDEX_PICKERS])
@pytest.mark.parametrize("name", ["wet", "equal_frequency", "mixed"])
def test_windows_are_judged_by_what_is_known_where_that_is_asked_for(pickers, name):
    """Rain that is yet to come is drawn as dry windows are, not more often."""

    def share_in_the_east(num_judged):
        picker = pickers[name]([rain_to_come()], 24, 32, 5, 1, num_judged)
        x = np.array([picker(keyed_rng(7, index)).x for index in range(500)])
        return (x > 176).mean(), (x < 48).mean()

    east, west = share_in_the_east(0)
    assert east > 1.2 * west
    east, west = share_in_the_east(2)
    assert west > 2 * east > 0  # it is still seen


@pytest.mark.parametrize("pickers", [ARRAY_PICKERS, INDEX_PICKERS])
@pytest.mark.parametrize("name", ["uniform", "wet", "equal_frequency", "mixed"])
def test_windows_without_a_past_are_not_drawn(pickers, name):
    """Their later frames have data, so they count where all frames are judged."""
    event = make_event(24, 32, 256)
    event.rain_rate[:] = 2.0
    event.rain_rate[:4, :, :128] = np.nan

    def drawn_in_the_west(num_judged):
        picker = pickers[name]([event], 24, 32, 5, 1, num_judged)
        return sum(picker(keyed_rng(7, index)).x < 96 for index in range(200))

    assert drawn_in_the_west(0) > 20
    assert drawn_in_the_west(4) == 0


@pytest.mark.parametrize("name", INDEX_PICKERS)
def test_judged_by_all_frames_draws_are_the_same(events, name):
    alike = (build_picker(name, events, 4, 48, num_judged_frames=judged) for judged in (0, 4))
    draws = [[picker(keyed_rng(9, index)) for index in range(50)] for picker in alike]
    assert draws[0] == draws[1]


def rain_in_places() -> RainEvent:
    """Heavy rain in one of eight tiles in each frame, another one each time."""
    event = make_event(60, 64, 128)
    order = np.random.default_rng(1).integers(8, size=60)
    for frame, tile in enumerate(order):
        row, column = divmod(int(tile), 4)
        event.rain_rate[frame, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 20.0
    return event


@pytest.mark.parametrize("name", ARRAY_PICKERS)
@pytest.mark.parametrize("num_judged", [1, 2])
def test_judged_by_some_frames_both_kinds_draw_alike(name, num_judged):
    """And unlike those that are judged by all four."""

    def draws(pickers, num_judged):
        picker = pickers[name]([rain_in_places()], 4, 32, 5, 1, num_judged)
        windows = [picker(keyed_rng(3, index)) for index in range(4 * NUM_DRAWS)]
        return np.array([(w.first_frame, round(w.y / 32), round(w.x / 32)) for w in windows])

    by_index, by_array = (draws(pickers, num_judged) for pickers in (INDEX_PICKERS, ARRAY_PICKERS))
    assert chi_squared(by_index, by_array) < 1
    by_all = draws(ARRAY_PICKERS, 4)
    assert bool(chi_squared(by_index, by_all) > 1.2) is (name != "uniform")


def test_more_judged_frames_than_a_window_has_are_refused(events):
    with pytest.raises(InputError, match=r"got 5 judged frames, expected up to 4"):
        build_picker("wet", events, 4, 48, num_judged_frames=5)


def test_windows_have_data(events):
    picker = build_picker("importance", events, 4, 48)
    for index in range(200):
        rain = read_window(events, picker(keyed_rng(0, index)), 4, 48).rain_rate
        assert (~rain.isnan()).float().mean() > 0.25  # judged at the nearest tiles


def test_importance_draws_rain_and_its_weights_undo_that(events):
    """The weighted mean over draws is the mean over all windows, of anything."""
    uniform, importance = (build_picker(name, events, 4, 48) for name in ("uniform", "importance"))

    def look(picker):
        windows = [picker(keyed_rng(4, index)) for index in range(NUM_DRAWS)]
        rain = [read_window(events, window, 4, 48).rain_rate.nanmean() for window in windows]
        return np.array(rain), np.array([window.weight for window in windows])

    (plain, ones), (rainy, weights) = look(uniform), look(importance)
    assert (ones == 1).all() and rainy.mean() > 1.5 * plain.mean()
    assert weights.mean() == pytest.approx(1, abs=0.06)
    for of in (lambda rain: rain, lambda rain: rain > 0.5, lambda rain: rain < 0.1):
        values = weights * of(rainy)
        error = np.hypot(values.std(), of(plain).std()) / np.sqrt(NUM_DRAWS)
        assert abs(values.mean() - of(plain).mean()) < 4 * error + 0.05 * of(plain).mean()
    assert weights.max() <= importance.mean_chance / importance.DRY_CHANCE + 1e-6


def test_equal_frequency_windows_contain_a_tile_of_their_class(events):
    picker = INDEX_PICKERS["equal_frequency"](events, 4, 48)
    heavy = 0
    for index in range(300):
        rain = read_window(events, picker(keyed_rng(0, index)), 4, 48).rain_rate
        heavy += bool((rain >= 29).any())
    classes = np.concatenate([tile_classes(event).ravel() for event in events])
    num_classes = len(np.unique(classes[classes >= 0]))
    assert heavy > 300 / num_classes / 2


def test_no_window_with_data_is_an_error_at_once():
    event = make_event(6, 64, 64)
    event.rain_rate[:] = np.nan
    for name in INDEX_PICKERS:
        with pytest.raises(InputError, match="has data in half"):
            INDEX_PICKERS[name]([event], 4, 32, 5, 1)


def test_windows_that_only_seem_to_have_data_end_in_an_error():
    """Each tile has data at some time, no window has."""
    event = make_event(40, 64, 64)
    event.rain_rate[:] = np.nan
    event.rain_rate[::4] = 0.0
    picker = build_picker("importance", [make_event(40, 64, 64)], 4, 32)
    with pytest.raises(InputError, match="has data in half"):
        INDEX_PICKERS["uniform"]([event], 4, 32, 5, 1)(keyed_rng(0))
    assert picker(keyed_rng(0)).weight == pytest.approx(1)


def test_unknown_pickers_are_refused(events):
    with pytest.raises(InputError, match="uniform or wet or equal_frequency or importance"):
        build_picker("random", events, 4, 48)


def test_what_a_picker_shows_is_described():
    dry, wet = make_event(30, 64, 64), make_event(30, 64, 64, "2020-07-01")
    wet.rain_rate[:] = 5.0
    picker = build_picker("uniform", [dry, wet], 4, 48)
    line = describe_draws(picker, [dry, wet], 4, 48)
    share = float(line.split("% wet")[0].split()[-1])
    assert 35 < share < 65 and "mm/h" in line and "as if from 2 days of 2" in line
