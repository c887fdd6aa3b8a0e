"""Power spectra: known waves, white noise, pysteps, and what must not show in them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.data.statistics import to_rain_db
from ldcast.verification.scores.spectrum import SpectrumScore, radial_spectrum, wavelengths_px

GENERATOR = torch.Generator()  # the score leaves nothing to chance


def draw_noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_rain(*shape: int, seed: int = 0) -> Tensor:
    return 3 * draw_noise(*shape, seed=seed).relu()


def wave(height: int, width: int, wavelength: float) -> Tensor:
    """Along x."""
    return torch.cos(2 * math.pi * torch.arange(width) / wavelength).repeat(height, 1)


def score(members: Tensor, observation: Tensor) -> dict[str, np.ndarray]:
    sums = SpectrumScore().statistics(members, observation, GENERATOR)
    num_rings = len(wavelengths_px(*observation.shape))
    assert sums.shape == (2 * num_rings + 1,)
    assert sums.dtype == torch.float64
    return SpectrumScore().values(sums.numpy())


# ---- the spectrum of fields ----------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 33])
def test_spectrum_is_that_of_pysteps_for_the_tapered_field(side):
    reason = "compares with pysteps, which is not installed"
    rapsd = pytest.importorskip("pysteps.utils.spectral", reason=reason).rapsd
    field = draw_noise(side, side).double()
    taper = np.outer(np.hanning(side), np.hanning(side))
    expected = rapsd((field.numpy() - field.numpy().mean()) * taper, fft_method=np.fft)
    expected = expected[1:] * side**2 / np.sum(taper**2)  # pysteps divides by the pixels
    np.testing.assert_allclose(radial_spectrum(field[None]).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("shape", [(48, 48), (36, 60), (61, 37)])
def test_white_noise_has_its_variance_in_every_ring(shape):
    power = radial_spectrum(2 * draw_noise(400, *shape)).numpy()
    assert len(power) == len(wavelengths_px(*shape))
    # The first ring loses some to the mean that is taken off.
    np.testing.assert_allclose(power, 4, rtol=0.12)
    np.testing.assert_allclose(power[1:], 4, rtol=0.06)


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (96, 64), (65, 90)])
@pytest.mark.parametrize("wavelength", [4, 8, 16])
def test_wave_shows_at_its_wavelength_whichever_way_it_runs(shape, wavelength):
    field = wave(*shape, wavelength).double()
    found = wavelengths_px(*shape)[radial_spectrum(field[None]).argmax()]
    assert found == pytest.approx(wavelength, rel=0.6 * wavelength / min(shape))
    torch.testing.assert_close(radial_spectrum(field[None]), radial_spectrum(field.T[None]))


def test_wavelengths_start_at_the_shorter_side_and_end_above_two_pixels():
    np.testing.assert_allclose(wavelengths_px(8, 20), [8, 4, 8 / 3])
    assert wavelengths_px(256, 256)[[0, -1]].tolist() == [256, 256 / 127]


def test_crop_edges_add_no_power_at_short_wavelengths():
    slope = torch.linspace(0, 10, 64).repeat(64, 1)  # its right edge does not fit its left
    power = radial_spectrum(slope[None])
    assert 10 * torch.log10(power[0] / power[-1]) > 80


# ---- the score -----------------------------------------------------------------------------------


def test_spectra_are_those_of_rain_in_db_in_mean_over_members():
    members, observation = draw_rain(3, 20, 26), draw_rain(20, 26, seed=1)
    spectra = score(members, observation)
    power = radial_spectrum(torch.from_numpy(to_rain_db(members.numpy())))
    observed = radial_spectrum(torch.from_numpy(to_rain_db(observation.numpy()))[None])
    np.testing.assert_allclose(spectra["power_spectrum_db"], 10 * power.log10(), atol=1e-4)
    np.testing.assert_allclose(
        spectra["observed_power_spectrum_db"], 10 * observed.log10(), atol=1e-4
    )


def test_members_keep_the_power_that_their_mean_lacks():
    rain = draw_rain(9, 64, 64)
    members, observation = rain[:8], rain[8]
    of_members = score(members, observation)["spectral_distance_db"]
    of_mean = score(members.mean(dim=0, keepdim=True), observation)["spectral_distance_db"]
    assert of_mean > of_members + 5


def test_half_the_amplitude_is_six_db_away():
    rain_db = draw_noise(24, 30)
    spectra = score(torch.pow(10, 0.05 * rain_db)[None], torch.pow(10, 0.1 * rain_db))
    assert spectra["spectral_distance_db"] == pytest.approx(20 * math.log10(2), abs=1e-3)
    loss = spectra["power_spectrum_db"] - spectra["observed_power_spectrum_db"]
    np.testing.assert_allclose(loss, -20 * math.log10(2), atol=1e-3)


def test_every_octave_has_one_vote():
    num_rings = 127
    distances = []
    for rings in (slice(7, 15), slice(31, 63)):  # wavenumbers 8 to 15, 32 to 63: an octave each
        sums = np.ones(2 * num_rings + 1)
        sums[rings] = 10  # 10 dB too much
        distances.append(SpectrumScore().values(sums)["spectral_distance_db"])
    octaves = np.log2(num_rings + 0.5) + 1
    np.testing.assert_allclose(distances, 10 / np.sqrt(octaves), rtol=0.03)


def test_perfect_forecast_is_at_no_distance():
    rain = draw_rain(20, 30)
    assert score(rain[None], rain)["spectral_distance_db"] == 0


def test_pixels_not_scored_count_as_dry():
    members, observation = draw_rain(2, 20, 30), draw_rain(20, 30, seed=1)
    members[:, 3:9], observation[3:9] = 0, 0
    expected = score(members, observation)
    members[:, 3:9], observation[3:9] = torch.nan, torch.nan
    np.testing.assert_equal(score(members, observation), expected)


@pytest.mark.filterwarnings("error")
def test_dry_forecast_has_no_spectrum():
    spectra = score(torch.full((1, 50, 61), 0.09), draw_rain(50, 61))
    assert np.isnan(spectra["power_spectrum_db"]).all()
    assert np.isnan(spectra["spectral_distance_db"])
    assert np.isfinite(spectra["observed_power_spectrum_db"]).all()


@pytest.mark.filterwarnings("error")
def test_case_without_data_adds_nothing():
    empty = torch.full((3, 20, 30), torch.nan)
    nothing = SpectrumScore().statistics(empty[:2], empty[2], GENERATOR)
    assert not nothing.any()
    assert all(np.isnan(value).all() for value in SpectrumScore().values(nothing.numpy()).values())


def test_power_is_averaged_over_cases_and_values_take_any_leading_axes():
    cases = [(draw_rain(2, 16, 18, seed=k), draw_rain(16, 18, seed=k + 9)) for k in range(2)]
    sums = torch.stack([SpectrumScore().statistics(*case, GENERATOR) for case in cases]).numpy()
    nested = SpectrumScore().values(sums.reshape(1, 2, -1))
    assert nested["spectral_distance_db"].shape == (1, 2)
    for k in range(2):
        for name, value in SpectrumScore().values(sums[k]).items():
            np.testing.assert_allclose(nested[name][0, k], value)
    power = 10 ** (nested["power_spectrum_db"][0] / 10)
    pooled = SpectrumScore().values(sums.sum(axis=0))["power_spectrum_db"]
    np.testing.assert_allclose(pooled, 10 * np.log10(power.mean(axis=0)))
