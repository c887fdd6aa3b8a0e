"""Synthetic rain and the statistics that compare it with radar."""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ldcast.data import synthetic
from ldcast.data.event import RainEvent
from ldcast.data.statistics import (
    DRY_DB,
    event_statistics,
    lag_correlation,
    markdown_table,
    spectral_slope,
    to_rain_db,
)
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError

SEEDS = range(6)


@pytest.fixture(scope="module")
def events() -> list[RainEvent]:
    return [synthetic_event(seed, num_frames=14, height=112, width=96) for seed in SEEDS]


def weather_of(seed: int) -> synthetic._Weather:
    return synthetic._draw_weather(np.random.default_rng((seed, synthetic._STREAM)))


def event_of(rain_rate: np.ndarray, minutes: int = 5) -> RainEvent:
    time = synthetic.FIRST_TIME + np.arange(len(rain_rate)) * np.timedelta64(60 * minutes, "s")
    return RainEvent(rain_rate, time, {"pixel_size_m": 1000.0})


# --- the event ---


def test_same_seed_is_bit_equal_on_any_number_of_threads_and_seeds_differ():
    num_threads = torch.get_num_threads()
    first = synthetic_event(3, 4, 48, 40)
    try:
        torch.set_num_threads(num_threads + 1)
        again = synthetic_event(3, 4, 48, 40)
        assert torch.get_num_threads() == num_threads + 1
    finally:
        torch.set_num_threads(num_threads)
    assert first.rain_rate.tobytes() == again.rain_rate.tobytes()
    assert (first.time == again.time).all() and first.name == again.name
    other = synthetic_event(4, 4, 48, 40)
    assert np.mean(first.rain_rate != other.rain_rate) > 0.02


@pytest.mark.parametrize("size", [(16, 16), (17, 91), (130, 33)])
def test_describes_itself_on_any_size(size):
    event = synthetic_event(7, 3, *size)
    assert event.rain_rate.shape == (3, *size) and event.rain_rate.dtype == np.float32
    assert event.time.dtype == np.dtype("datetime64[s]")
    assert (np.diff(event.time) == np.timedelta64(300, "s")).all()
    assert event.grid["pixel_size_m"] == 1000.0 and "synthetic" in event.grid["source"]
    assert event.name == "synthetic:7"
    assert event.rain_rate.max() > 0


def test_dry_is_zero_and_the_edge_is_a_step(events):
    for event in events:
        rain_rate = event.rain_rate
        assert np.isfinite(rain_rate).all()
        assert (rain_rate[rain_rate != 0] >= 0.1).all()
        assert 2 < rain_rate.max() <= synthetic.MAX_SYNTHETIC_RATE


@pytest.mark.parametrize("minutes", [1, 6, 10])
def test_frames_are_as_far_apart_as_is_asked(minutes):
    event = synthetic_event(7, 3, 32, 48, minutes=minutes)
    assert event.rain_rate.shape == (3, 32, 48)
    assert (np.diff(event.time) == np.timedelta64(60 * minutes, "s")).all()


def test_the_weather_is_the_same_at_any_cadence():
    def fields(num_frames: int, minutes: int) -> np.ndarray:
        rng = np.random.default_rng((3, synthetic._STREAM))
        weather = synthetic._draw_weather(rng)
        return np.stack(synthetic._make_fields(weather, rng, num_frames, minutes, (64, 48)))

    np.testing.assert_array_equal(fields(5, 5)[:, ::2], fields(3, 10))
    alike = [
        np.corrcoef(*fields(2, minutes)[0].reshape(2, -1))[0, 1] for minutes in (1, 3, 6, 12, 30)
    ]
    assert alike[0] > 0.97 and alike == sorted(alike, reverse=True)


@pytest.mark.parametrize(
    "arguments", [(-1,), (0, 0), (0, 4, 15, 64), (0, 4, 64, 15), (0, 4, 64, 64, 0)]
)
def test_impossible_requests_are_refused_in_one_line(arguments):
    with pytest.raises(InputError, match="expected") as refusal:
        synthetic_event(*arguments)
    assert "\n" not in str(refusal.value)


def test_seeds_cover_what_radars_see():
    weathers = [weather_of(seed) for seed in range(200)]
    wet = [weather.wet_fraction for weather in weathers]
    speed = [abs(weather.velocity) for weather in weathers]
    heavy = [weather.heavy_rate for weather in weathers]
    assert 0.03 <= min(wet) < 0.05 and 0.5 < max(wet) <= 0.6
    assert min(speed) < 3 and 20 < max(speed) <= 25
    assert min(heavy) < 5 and 25 < max(heavy) < 100
    directions = np.histogram([np.angle(w.velocity) for w in weathers], 4, (-np.pi, np.pi))[0]
    assert directions.min() > 25


def test_statistics_lie_where_those_of_rain_do(events):
    all_statistics = [event_statistics(event) for event in events]
    for seed, statistics in zip(SEEDS, all_statistics, strict=True):
        weather = weather_of(seed)
        assert statistics.wet_fraction == pytest.approx(weather.wet_fraction, abs=0.01)
        assert 1.8 < statistics.spectral_slope < 4.2
        assert statistics.quantiles[0] == pytest.approx(weather.median_rate, rel=0.1)
        heavy_rate = 1 / (1 / weather.heavy_rate + 1 / weather.ceiling)
        assert statistics.quantiles[2] == pytest.approx(heavy_rate, rel=0.2)
        assert statistics.quantiles[2] / statistics.quantiles[0] > 4  # a heavy tail
    correlations = np.mean([statistics.correlations for statistics in all_statistics], axis=0)
    assert correlations[0] > 0.6 and (np.diff(correlations) < -0.05).all()


# --- its parts ---


def test_small_scales_are_forgotten_sooner_and_none_fades():
    rng = np.random.default_rng(0)
    still = torch.zeros(2, 1, 1)
    correlations = {}
    for wavelength in (48, 6):
        scale = synthetic._Scale(wavelength, weather_of(0), (512, 448), rng)
        lifetime = synthetic._lifetime_minutes(wavelength) * weather_of(0).lifetime_scale
        first = scale.state[0].numpy()
        for frame in range(1, round(lifetime / 5) + 1):
            scale.advance(still.expand(2, *first.shape), rng)
            if frame == 3:
                correlations[wavelength] = np.corrcoef(first.ravel(), scale.state[0].ravel())[0, 1]
        core = (slice(40 // scale.spacing_km, -40 // scale.spacing_km),) * 2
        after = np.corrcoef(first[core].ravel(), scale.state[0].numpy()[core].ravel())[0, 1]
        assert after == pytest.approx(np.exp(-1), abs=0.12)
        assert scale.state.std((-2, -1)).numpy() == pytest.approx(1, abs=0.03)
    assert correlations[48] > correlations[6] + 0.2


def test_octaves_have_their_wavelength_and_fall_off_with_the_slope():
    weather = dataclasses.replace(weather_of(0), slope=3.0, organised_km=1000.0, stretch=1.0)
    scales = synthetic._build_scales(weather, (384, 384), np.random.default_rng(0))
    amplitudes = torch.stack([scale.amplitude[0, 0, 0] for scale in scales])
    assert (amplitudes**2).sum() == pytest.approx(1, rel=1e-5)
    assert (amplitudes[:-1] / amplitudes[1:]).numpy() == pytest.approx(2**0.5, rel=1e-4)
    by_wavelength = {scale.wavelength_km: scale for scale in scales}
    power = torch.fft.fft2(by_wavelength[24].state[0]).abs() ** 2
    frequency = torch.fft.fftfreq(power.shape[0], by_wavelength[24].spacing_km)
    radius = torch.hypot(frequency[:, None], frequency)
    outside = (radius < 1 / 48) | (radius > 1 / 12)
    assert power[outside].sum() < 1e-6 * power.sum()


def test_small_scales_are_livelier_where_large_ones_are_wet():
    scales = synthetic._build_scales(weather_of(0), (256, 256), np.random.default_rng(0))

    def details(clustering: float) -> np.ndarray:
        total, _ = synthetic._sum_of_scales(scales, clustering)
        large = synthetic._resampled(scales[2].amplitude * scales[2].state, total.shape)[0]
        small = total - torch.nn.functional.avg_pool2d(total[None], 9, 1, 4)[0]
        return np.array([small[large > large.quantile(q)].std() for q in (0.8, 0)])

    wet, all_over = details(0.6) / details(0.0)
    assert wet > 1.1 * all_over


def test_texture_makes_rain_uneven_and_leaves_its_edges():
    rng = np.random.default_rng(0)
    wetness, texture = rng.normal(size=(2, 3, 40, 40)).astype(np.float32)
    weather = dataclasses.replace(weather_of(0), wet_fraction=0.3)
    rain_rate = synthetic._to_rain_rate(wetness, texture, weather)
    flat = synthetic._to_rain_rate(wetness, 0 * texture, weather)
    wet = rain_rate > 0
    assert (wet == (flat > 0)).all()
    assert np.corrcoef(np.log(rain_rate[wet]), texture[wet])[0, 1] > 0.3


def test_what_has_left_does_not_come_round():
    weather = dataclasses.replace(weather_of(0), lifetime_scale=1000.0)
    rng = np.random.default_rng(1)
    scale = synthetic._Scale(48, weather, (192, 192), rng)
    first = scale.state[0].clone()
    once_round = 192 / 24 / 0.3  # m/s, through the whole padded domain in 24 frames
    velocity = torch.tensor([once_round, 0.0])[:, None, None].expand(2, *first.shape)
    for _ in range(24):
        scale.advance(velocity, rng)
    middle = (slice(8, -8), slice(8, -8))
    seen_again = np.corrcoef(first[middle].ravel(), scale.state[0][middle].ravel())[0, 1]
    assert abs(seen_again) < 0.6


def test_moved_takes_the_pattern_downstream_and_round():
    pattern = torch.randn(2, 12, 15, generator=torch.Generator().manual_seed(0))
    displacement = torch.tensor([3.0, -2.0])[:, None, None].expand(2, 12, 15)
    expected = torch.roll(pattern, (-2, 3), dims=(1, 2))
    assert torch.allclose(synthetic._moved(pattern, displacement), expected, atol=1e-4)

    phase = 2 * torch.pi * torch.arange(32) / 32
    wave, expected = (torch.cos(phase - shift * phase[1]).expand(1, 20, 32) for shift in (0, 2.5))
    displacement = torch.tensor([2.5, 0.5])[:, None, None].expand(2, 20, 32)
    assert torch.allclose(synthetic._moved(wave, displacement), expected, atol=0.01)


def test_motion_varies_in_space_without_divergence():
    weather = dataclasses.replace(weather_of(0), velocity=12 - 5j, eddy_speed=3.0)
    rng = np.random.default_rng(0)
    motion = synthetic._Motion(weather, (384, 320), rng)
    finest = synthetic._Scale(3, weather, (384, 320), rng)
    east, south = motion.velocity(0, finest)
    assert east.mean() == pytest.approx(12, abs=0.5) and south.mean() == pytest.approx(-5, abs=0.5)
    assert 1 < east.std() < 5 and 1 < south.std() < 5
    eddy_east, eddy_south = motion.eddies[0]
    along_east = torch.roll(eddy_east, -1, 1) - torch.roll(eddy_east, 1, 1)
    along_south = torch.roll(eddy_south, -1, 0) - torch.roll(eddy_south, 1, 0)
    assert (along_east + along_south).abs().max() < 1e-4 * along_east.abs().max()


def test_rain_is_seen_to_move_with_the_drawn_velocity():
    def is_fast(seed: int) -> bool:
        weather = weather_of(seed)
        return abs(weather.velocity) > 15 and weather.wet_fraction > 0.3

    seed = next(seed for seed in range(100) if is_fast(seed))
    rain_db = to_rain_db(synthetic_event(seed, 8, 144, 144).rain_rate)
    shifts = [
        np.mean([best_shift(*rain_db[frame : frame + 2], y, x) for frame in range(7)], axis=0)
        for y in (20, 76)
        for x in (20, 76)
    ]
    velocity = weather_of(seed).velocity
    expected = 0.3 * np.array([velocity.imag, velocity.real])  # pixels per frame, (y, x)
    assert np.linalg.norm(np.mean(shifts, axis=0) - expected) < 0.4 * np.linalg.norm(expected)
    assert np.ptp(shifts, axis=0).max() > 0.5  # not the same everywhere


def best_shift(first: np.ndarray, second: np.ndarray, y: int, x: int) -> tuple[int, int]:
    """(dy, dx) by which a square of 48 pixels at (y, x) of `second` came from `first`."""
    square = second[y : y + 48, x : x + 48].ravel()
    shifts = [(dy, dx) for dy in range(-12, 13) for dx in range(-12, 13)]
    earlier = [first[y - dy : y - dy + 48, x - dx : x - dx + 48].ravel() for dy, dx in shifts]
    errors = [np.mean((square - candidate) ** 2) for candidate in earlier]
    return shifts[int(np.argmin(errors))]


# --- the statistics ---


def random_fields(spectrum: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(4, 256, 256) with this power as a function of wavenumber in cycles per pixel."""
    frequency = np.fft.fftfreq(256)
    wavenumber = np.hypot(frequency[:, None], frequency)
    wavenumber[0, 0] = np.inf
    white = np.random.default_rng(0).normal(size=(4, 256, 256))
    fields = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(spectrum(wavenumber))).real
    return fields / fields.std()


@pytest.mark.parametrize("slope", [2.0, 4.0])  # 4 leaks, were there no taper
def test_slope_of_a_known_spectrum(slope):
    fields = random_fields(lambda wavenumber: wavenumber**-slope)
    assert spectral_slope(fields) == pytest.approx(slope, abs=0.2)


def test_slope_is_that_of_4_to_64_km():
    fields = random_fields(lambda wavenumber: np.maximum(wavenumber, 1 / 32) ** -3.0)
    assert spectral_slope(fields, pixel_km=2.0) == pytest.approx(3, abs=0.25)  # up to 32 pixels
    assert spectral_slope(fields, pixel_km=0.125) == pytest.approx(0, abs=0.4)  # from 32 pixels


def test_squares_without_data_or_rain_do_not_enter_the_slope():
    rng = np.random.default_rng(0)
    rain_db = np.full((1, 128, 256), DRY_DB)
    rain_db[:, 64, ::64] = 0.0
    assert np.isnan(spectral_slope(rain_db))
    rain_db[:, :, :128] = rng.normal(size=(128, 128))
    rain_db[:, :, 128:] = np.nan
    assert spectral_slope(rain_db) == pytest.approx(spectral_slope(rain_db[:, :, :128]))
    rain_db[:, ::2, ::2] = np.nan
    assert np.isnan(spectral_slope(rain_db))


def test_wet_fraction_and_quantiles_leave_out_what_is_no_data():
    rain_rate = np.zeros((2, 40, 50), dtype=np.float32)
    rain_rate[:, :10] = np.nan  # 1500 pixels are left in each frame
    rain_rate[:, 10:20, :30] = 0.09  # below the threshold: dry
    rain_rate[:, 20:26] = np.linspace(1, 101, 300).reshape(6, 50)
    statistics = event_statistics(event_of(rain_rate))
    assert statistics.wet_fraction == pytest.approx(300 / 1500)
    assert statistics.quantiles == pytest.approx((51, 91, 100, 100.9), abs=0.35)
    assert statistics.maximum == 101


def test_rain_db_of_both_precisions():
    for dtype in (np.float16, np.float32):
        rain_db = to_rain_db(np.array([0, 0.05, 0.1, 1, 100, np.nan], dtype=dtype))
        assert rain_db.dtype == np.float32
        assert rain_db[:5] == pytest.approx([DRY_DB, DRY_DB, -10, 0, 20], abs=1e-3)
        assert np.isnan(rain_db[5])


def test_correlation_uses_pixels_valid_in_both_frames():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(20, 30))
    second = 2 * first + 1
    second[:5] = np.nan
    third = -first
    third[5:] += rng.normal(size=(15, 30)) * 1e-9
    frames = np.stack([first, second, third])
    assert lag_correlation(frames[:2], 1) == pytest.approx(1)
    assert lag_correlation(frames, 2) == pytest.approx(-1)
    assert lag_correlation(frames, 1) == pytest.approx(0, abs=1e-6)  # the mean of 1 and -1
    assert np.isnan(lag_correlation(frames, 3))


def test_lags_are_minutes_whatever_the_cadence():
    rng = np.random.default_rng(0)
    rain_rate = rng.uniform(0.2, 5, size=(7, 20, 20)).astype(np.float32)
    rain_rate[3] = rain_rate[6] = rain_rate[0]
    correlations = event_statistics(event_of(rain_rate, minutes=10)).correlations
    assert np.isnan(correlations[:2]).all()  # 5 and 15 minutes are no multiples of 10
    assert correlations[2] > 0.45  # two of four pairs are equal
    assert correlations[3] == pytest.approx(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(event_statistics(event_of(rain_rate[:1])).correlations).all()


def test_table_shows_a_value_a_range_and_a_gap():
    dry = event_statistics(event_of(np.zeros((2, 20, 20), dtype=np.float32)))
    wet = dataclasses.replace(dry, wet_fraction=0.5, maximum=20.0)
    table = markdown_table([("dry", [dry]), ("both", [dry, wet])]).splitlines()
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| dry | 0.0 | - |")
    assert table[3].startswith("| both | 25.0 (0.0 to 50.0) | - |")
    assert "| 10.0 (0.0 to 20.0) |" in table[3]
