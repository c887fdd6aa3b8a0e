"""The autoencoder and its loss: as published, masked, and in other sizes than the published."""

from dataclasses import replace

import pytest
import torch
from golden_arrays import (
    assert_close,
    assert_norms_close,
    below,
    gradient_norms,
    load,
    load_autoencoder,
    notes,
    record_outputs,
)
from tiny_models import rain

from ldcast.config import TINY_AUTOENCODER
from ldcast.models import AutoencoderConfig, AutoencoderKL, autoencoder_loss
from ldcast.models.autoencoder import kl_divergence
from ldcast.published.names import autoencoder_name
from ldcast.rain import from_model_units, to_model_units
from train_autoenc import training_loss

pytestmark = pytest.mark.core

ARRAYS = load("autoencoder")
UNITS = load("units")
TINY = AutoencoderConfig(channels=6, latent_channels=3)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def published():
    return load_autoencoder(AutoencoderKL(), below(ARRAYS, "state.")).requires_grad_(False)


@pytest.mark.parametrize("case", ["", "xb_"])
def test_encoder_is_as_published(published, case):
    z_mean, z_log_var = published.encode(ARRAYS["xb" if case else "x"])
    assert_close(z_mean, ARRAYS[case + "mean"])
    assert_close(z_log_var, ARRAYS[case + "log_var"])


def test_each_stage_of_the_encoder_is_as_published():
    network = load_autoencoder(AutoencoderKL(), below(ARRAYS, "state."))
    stages = record_outputs(**{f"{k}": network.encoder[k] for k in (1, 2, 3)})
    network.encode(ARRAYS["x"])
    for k, output in stages.items():
        assert_close(output, ARRAYS[f"inter.encoder.{k}"])


@pytest.mark.parametrize(("latent", "decoded"), [("mean", "dec_mean"), ("z", "dec_z")])
def test_decoder_is_as_published(published, latent, decoded):
    assert_close(published.decode(ARRAYS[latent]), ARRAYS[decoded])


def test_loss_and_its_gradients_are_as_published():
    network = load_autoencoder(AutoencoderKL(), below(UNITS, "ae.state."))
    rain_norm = UNITS["ae.x"]
    reconstruction, z_mean, z_log_var = network(rain_norm, UNITS["ae.eps"])
    loss = autoencoder_loss(rain_norm, reconstruction, z_mean, z_log_var, kl_weight=0.01).mean()
    loss.backward()
    assert_close((rain_norm - reconstruction).abs().mean(), UNITS["ae.rec"])
    assert_close(kl_divergence(z_mean, z_log_var).mean(), UNITS["ae.kl"])
    assert_close(loss, UNITS["ae.total"])
    names = notes("units")["ae_gradnorm_names"]
    assert_norms_close(gradient_norms(names, network, autoencoder_name), UNITS["ae.gradnorm"])


def test_kl_divergence_is_as_published():
    assert_close(kl_divergence(UNITS["kl.mean"], UNITS["kl.log_var"]).mean(), UNITS["kl.value"])


def test_kl_divergence_of_a_standard_normal_is_zero_and_grows_with_the_mean():
    zero, two = torch.zeros(2, 3, 1, 2, 2), torch.full((2, 3, 1, 2, 2), 2.0)
    assert kl_divergence(zero, zero).tolist() == [0.0, 0.0]
    assert kl_divergence(two, zero).tolist() == [2.0, 2.0]  # half the squared mean


@pytest.mark.parametrize("channels", [6, 10])
@pytest.mark.parametrize("latent_channels", [2, 5])
@pytest.mark.parametrize("coarse_channels", [0, 4])
def test_sizes_follow_the_settings(channels, latent_channels, coarse_channels):
    network = AutoencoderKL(AutoencoderConfig(channels, latent_channels, coarse_channels))
    rain_norm = torch.randn(2, 1, 8, 12, 20)
    reconstruction, z_mean, z_log_var = network(rain_norm)
    assert z_mean.shape == z_log_var.shape == (2, latent_channels, 2, 3, 5)
    assert reconstruction.shape == rain_norm.shape
    assert network.encoder[0].conv1.out_channels == channels
    assert network.to_decoder.out_channels == (coarse_channels or channels)


def test_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = AutoencoderKL()
    assert sum(p.numel() for p in network.parameters()) == 400_482  # and one there of no use


def test_noise_is_scaled_by_the_standard_deviation_of_the_latent():
    network = AutoencoderKL(TINY).requires_grad_(False)
    rain_norm, noise = torch.randn(1, 1, 4, 8, 8), torch.randn(1, 3, 1, 2, 2)
    z_mean, z_log_var = network.encode(rain_norm)
    drawn, _, _ = network(rain_norm, noise)
    torch.testing.assert_close(drawn, network.decode(z_mean + z_log_var.exp().sqrt() * noise))
    mean, _, _ = network(rain_norm)
    torch.testing.assert_close(mean, network.decode(z_mean))


def test_an_example_is_encoded_alike_in_any_batch():
    network = AutoencoderKL(TINY).requires_grad_(False)
    rain_norm = torch.randn(3, 1, 4, 8, 12)
    torch.testing.assert_close(network.encode(rain_norm)[0][1:2], network.encode(rain_norm[1:2])[0])


@pytest.mark.parametrize(
    "shape", [(1, 1, 5, 8, 8), (1, 1, 4, 10, 8), (1, 1, 4, 8, 9), (1, 2, 4, 8, 8), (1, 4, 8, 8)]
)
def test_rain_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        AutoencoderKL(TINY).encode(torch.zeros(shape))


def test_every_parameter_gets_a_gradient():
    network = AutoencoderKL(TINY)
    rain_norm = torch.randn(2, 1, 4, 8, 8)
    autoencoder_loss(rain_norm, *network(rain_norm, torch.randn(2, 3, 1, 2, 2))).sum().backward()
    assert [n for n, p in network.named_parameters() if not p.grad.abs().max() > 0] == []


def test_loss_is_per_example():
    rain_norm, latent = torch.zeros(2, 1, 4, 4, 4), torch.zeros(2, 3, 1, 1, 1)
    reconstruction = torch.tensor([1.0, -3.0]).reshape(2, 1, 1, 1, 1).expand_as(rain_norm)
    loss = autoencoder_loss(rain_norm, reconstruction, latent, latent)
    assert loss.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("kl_weight", [0.0, 0.25])
def test_kl_weight_scales_the_kl_divergence(kl_weight):
    rain_norm, z_mean = torch.zeros(1, 1, 4, 4, 4), torch.full((1, 3, 1, 1, 1), 2.0)
    loss = autoencoder_loss(rain_norm, rain_norm, z_mean, torch.zeros_like(z_mean), kl_weight)
    assert loss.item() == 2.0 * kl_weight


@pytest.mark.parametrize("filler", [torch.nan, torch.inf, 1e30])
def test_masked_pixels_carry_neither_loss_nor_gradient(filler):
    is_valid = torch.rand(2, 1, 4, 4, 4) > 0.5
    truth, latent = torch.randn(2, 1, 4, 4, 4), torch.zeros(2, 3, 1, 1, 1)
    reconstruction = torch.randn(2, 1, 4, 4, 4).requires_grad_()
    loss = autoencoder_loss(
        truth.masked_fill(~is_valid, filler), reconstruction, latent, latent, is_valid=is_valid
    )
    loss.sum().backward()
    error = (truth - reconstruction).abs().detach()
    expected = [error[b][is_valid[b]].mean() for b in range(2)]
    torch.testing.assert_close(loss.detach(), torch.stack(expected))
    assert (reconstruction.grad[~is_valid] == 0).all()
    assert (reconstruction.grad[is_valid] != 0).all()


def test_one_valid_pixel_makes_the_loss_and_none_makes_none():
    rain_norm, latent = torch.ones(2, 1, 4, 4, 4), torch.zeros(2, 3, 1, 1, 1)
    is_valid = torch.zeros_like(rain_norm, dtype=torch.bool)
    is_valid[0, 0, 1, 2, 3] = True
    loss = autoencoder_loss(rain_norm, -rain_norm, latent, latent, is_valid=is_valid)
    assert loss.tolist() == [2.0, 0.0]


@pytest.mark.parametrize("rain_weight", [0.0, 0.5])
def test_rain_weight_adds_the_error_in_mmh(rain_weight):
    config = replace(TINY, rain_weight=rain_weight)
    settings = replace(TINY_AUTOENCODER, autoencoder=config)
    network = AutoencoderKL(config).requires_grad_(False)
    rain_rate = rain(16, 24)[None, None]
    rain_rate[..., :5] = torch.nan
    loss = training_loss(network, settings, rain_rate, [torch.Generator().manual_seed(5)])
    noise = torch.randn(1, 3, 1, 4, 6, generator=torch.Generator().manual_seed(5))
    rain_norm, is_valid = to_model_units(rain_rate, settings.rain), ~rain_rate.isnan()
    made, z_mean, z_log_var = network(rain_norm, noise)
    expected = autoencoder_loss(rain_norm, made, z_mean, z_log_var, is_valid=is_valid)
    error = (from_model_units(made, settings.rain) - rain_rate)[is_valid].abs().mean()
    torch.testing.assert_close(loss, expected + rain_weight * error)
