"""The residual autoencoder: what it starts from, what it sees, its latent's scale, its training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stages import Stage, same_gradients, state
from tiny_models import rain, tiny_config

from ldcast import LDCast
from ldcast.errors import InputError
from ldcast.models import autoencoder_loss
from ldcast.models.registry import build_autoencoder
from ldcast.models.residual_autoencoder import (
    LatentScale,
    ResidualAutoencoder,
    ResidualAutoencoderConfig,
    patch_cosines,
)
from ldcast.models.slices import decode_in_slices, encode_in_slices
from ldcast.nowcast.ldcast import build
from ldcast.nowcast.model_folder import load_weights, read_description

TINY = ResidualAutoencoderConfig(channels=2, latent_channels=3, coarse_channels=6)
REACH = 4  # latent cells: two blocks of two convolutions of 3 x 3
SEAM = 1  # latent cells; more than the two convolutions at full resolution see


def stirred(config: ResidualAutoencoderConfig = TINY) -> ResidualAutoencoder:
    """With weights that all do something, and a latent scale other than 0 and 1."""
    torch.manual_seed(0)
    network = ResidualAutoencoder(config).requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    network.latent_scale.mean.copy_(torch.randn(config.latent_channels))
    network.latent_scale.deviation.copy_(1 + torch.rand(config.latent_channels))
    return network


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("latent_channels", [3, 8])
@pytest.mark.parametrize("coarse_channels", [6, 70])
@pytest.mark.parametrize("num_blocks", [0, 1])
def test_sizes_follow_the_settings(channels, latent_channels, coarse_channels, num_blocks) -> None:
    config = ResidualAutoencoderConfig(channels, latent_channels, coarse_channels)
    blocks = {"num_encoder_blocks": num_blocks, "num_decoder_blocks": 2 - num_blocks}
    network = ResidualAutoencoder(replace(config, **blocks))
    rain_norm = torch.randn(2, 1, 8, 12, 20)
    reconstruction, z_mean, z_log_var = network(rain_norm)
    assert z_mean.shape == z_log_var.shape == (2, latent_channels, 2, 3, 5)
    assert reconstruction.shape == rain_norm.shape
    assert len(network.encoder) == 2 + num_blocks and len(network.decoder) == 4 + 2 - num_blocks
    assert network.channels == network.decoder[-1].in_channels == channels
    assert network.decoder[0].out_channels == coarse_channels


def test_cosines_are_orthonormal_and_the_lowest_come_first() -> None:
    cosines, frequency = patch_cosines(4)
    flat = cosines.flatten(1).double()
    torch.testing.assert_close(flat @ flat.T, torch.eye(64).double(), rtol=0, atol=1e-6)
    assert (frequency.diff() >= 0).all() and frequency[0] == 0
    assert torch.allclose(cosines[0], torch.full((4, 4, 4), 1 / 8))
    changes = [cosines[1].diff(dim=axis).abs().max() > 0.1 for axis in range(3)]
    assert changes == [True, False, False]  # the next lowest is in time


def test_it_starts_as_the_projection_on_the_lowest_cosines() -> None:
    network = ResidualAutoencoder(replace(TINY, coarse_channels=64)).requires_grad_(False)
    lowest = patch_cosines(4)[0][:3]
    patch = torch.einsum("k,ktyx->tyx", torch.tensor([5.0, -1.0, 2.0]), lowest)
    rain_norm = patch.tile(2, 3, 5)[None, None]
    torch.testing.assert_close(network(rain_norm)[0], rain_norm)
    higher = patch_cosines(4)[0][7].tile(2, 3, 5)[None, None]
    torch.testing.assert_close(network(rain_norm + higher)[0], rain_norm)


@pytest.mark.parametrize(
    "shape", [(1, 1, 5, 8, 8), (1, 1, 4, 10, 8), (1, 1, 4, 8, 9), (1, 2, 4, 8, 8), (1, 4, 8, 8)]
)
def test_rain_that_does_not_fit_is_refused(shape) -> None:
    network = ResidualAutoencoder(TINY)
    for call in (network.encode, network):
        with pytest.raises(InputError, match="multiples of 4"):
            call(torch.zeros(shape))


def test_a_crop_of_an_encoded_field_is_the_encoded_crop_but_for_a_margin() -> None:
    network = stirred()
    rain_norm = torch.randn(1, 1, 8, 96, 112)
    z = network.encode(rain_norm)[0]
    z_crop = network.encode(rain_norm[..., 16:80, 20:100])[0]
    inside = slice(REACH, -REACH)
    expected = z[..., 4:20, 5:25][..., inside, inside]
    torch.testing.assert_close(z_crop[..., inside, inside], expected, rtol=0, atol=1e-5)
    assert (z_crop - z[..., 4:20, 5:25]).abs().max() > 1e-3  # the blocks do look around
    made, made_crop = network.decode(z), network.decode(z[..., 4:20, 5:25])
    margin = 4 * (REACH + SEAM)
    inside = slice(margin, -margin)
    expected = made[..., 16:80, 20:100][..., inside, inside]
    torch.testing.assert_close(made_crop[..., inside, inside], expected, rtol=0, atol=1e-5)


def test_a_latent_frame_is_encoded_from_its_own_frames_alone() -> None:
    network = stirred()
    rain_norm = torch.randn(1, 1, 24, 16, 24)
    apart = [network.encode(part)[0] for part in rain_norm.split([4, 20], dim=2)]
    torch.testing.assert_close(network.encode(rain_norm)[0], torch.cat(apart, dim=2))


def test_the_coarse_blocks_of_the_decoder_see_their_neighbours_in_time() -> None:
    """Two latent frames away is further than the block at full resolution sees."""
    network = stirred()
    z = torch.randn(1, 3, 3, 4, 6)
    difference = network.decode(z)[:, :, :4] - network.decode(z[:, :, :2])[:, :, :4]
    assert difference.abs().max() > 1e-4


def test_noise_has_deviation_one_and_is_standardised_with_the_latent() -> None:
    network = stirred()
    rain_norm, noise = torch.randn(1, 1, 4, 8, 12), torch.randn(1, 3, 1, 2, 3)
    drawn, z_mean, z_log_var = network(rain_norm, noise)
    assert (z_log_var == 0).all()
    z_standard, log_var = network.encode(rain_norm)
    torch.testing.assert_close(network.latent_scale.undo(z_standard), z_mean)
    assert log_var.shape == z_standard.shape
    torch.testing.assert_close(drawn, network.decode(z_standard + (0.5 * log_var).exp() * noise))
    torch.testing.assert_close(network(rain_norm)[0], network.decode(z_standard))


def test_a_measured_scale_standardises_and_is_undone() -> None:
    scale = LatentScale(3)
    z = torch.tensor([2.0, 5.0, 1.0])[:, None] * torch.randn(3, 4000) + 7
    z = z - z.mean(1, keepdim=True) + 7
    field = z.reshape(1, 3, 4, 20, 50)
    with scale.measured(z.mean(1), z.std(1)):
        standard = scale(field)
        torch.testing.assert_close(standard[0].flatten(1).std(1), torch.ones(3))
        torch.testing.assert_close(standard.mean((0, 2, 3, 4)), torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(scale.undo(standard), field)
    assert torch.equal(scale(field), field)


def test_a_channel_that_is_hardly_used_is_not_blown_up() -> None:
    scale = LatentScale(2)
    with scale.measured(torch.zeros(2), torch.tensor([4.0, 1e-9])):
        torch.testing.assert_close(scale.deviation, torch.tensor([4.0, 0.2]))


# 26 columns make two halves, with 7 the slices end amid a cell.
@pytest.mark.parametrize("num_columns", [2, 7, 26])
def test_slices_equal_one_piece(num_columns) -> None:
    network = stirred()
    rain_norm, z = 3 + 2 * torch.randn(2, 1, 8, 40, 52), torch.randn(2, 3, 2, 10, 13)
    sizes = {"whole_bytes": 0, "slice_bytes": num_columns * 4 * 2 * 2 * 8 * 40}
    encoded, decoded = network.encode(rain_norm)[0], network.decode(z)
    for result, exact in (
        (encode_in_slices(network, rain_norm, **sizes), encoded),
        (decode_in_slices(network, z, **sizes), decoded),
    ):
        torch.testing.assert_close(result, exact, rtol=0, atol=1e-5 * exact.abs().max().item())


def test_every_parameter_gets_a_gradient_after_an_update() -> None:
    torch.manual_seed(0)
    network = ResidualAutoencoder(TINY)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(3):  # the ends of blocks start at zero and hold back what is before them
        optimizer.zero_grad()
        rain_norm, noise = torch.randn(2, 1, 4, 8, 8), torch.randn(2, 3, 1, 2, 2)
        autoencoder_loss(rain_norm, *network(rain_norm, noise)).sum().backward()
        optimizer.step()
    assert [n for n, p in network.named_parameters() if not p.grad.abs().max() > 0] == []


@pytest.fixture(scope="module")
def trained(event_path, autoencoder_run, tmp_path_factory) -> tuple[Stage, list[str], Path]:
    """The first stage, flags of the residual kind, and a run with them."""
    stage = Stage("autoencoder", event_path, autoencoder_run)
    sizes = ["--autoencoder.channels", "2", "--autoencoder.coarse-channels", "6"]
    sizes += ["--autoencoder.latent-channels", "4", "--autoencoder.num-encoder-blocks", "1"]
    flags = ["--autoencoder.kind", "residual", *sizes]
    return stage, flags, stage.run(tmp_path_factory.mktemp("residual") / "run", 2, *flags)


def test_it_is_trained_with_flags_of_its_own_and_its_own_defaults(trained) -> None:
    network = build_from(trained[2])
    assert network.config == ResidualAutoencoderConfig(
        channels=2, latent_channels=4, coarse_channels=6, num_encoder_blocks=1
    )


def build_from(folder: Path) -> ResidualAutoencoder:
    """The autoencoder of a model folder."""
    network = build_autoencoder(read_description(folder).model.autoencoder)
    load_weights(folder, autoencoder=network)
    return network.requires_grad_(False)


def test_the_folder_holds_the_scale_of_its_latents_and_the_training_does_not(trained) -> None:
    weights = load_file(trained[2] / "model.safetensors")
    deviation = weights["autoencoder.latent_scale.deviation"]
    assert (deviation > 0).all() and not torch.allclose(deviation, torch.ones(4))
    tensors = {n: t for n, t in state(trained[2]).items() if "latent_scale.deviation" in n}
    assert tensors and all(torch.equal(t, torch.ones(4)) for t in tensors.values())


def test_a_resumed_run_equals_an_unbroken_one(trained, tmp_path) -> None:
    stage, flags, unbroken = trained
    resumed = stage.run(stage.run(tmp_path / "run", 1, *flags), 2, *flags)
    same_gradients(resumed, unbroken)
    scale = "autoencoder.latent_scale.deviation"
    first, second = (load_file(run / "model.safetensors")[scale] for run in (resumed, unbroken))
    torch.testing.assert_close(first, second)


def test_it_is_saved_loaded_and_forecast_with(tmp_path) -> None:
    config = replace(tiny_config(), autoencoder=replace(TINY, latent_channels=4))
    torch.manual_seed(0)
    model = build(config).eval()
    model.autoencoder.latent_scale.deviation.fill_(3.0)
    forecast = model.predict(rain(30, 44), 2)
    assert forecast.shape == (2, 20, 30, 44) and torch.isfinite(forecast).all()
    model.save_pretrained(tmp_path)
    loaded = LDCast.from_pretrained(tmp_path, device="cpu")
    assert loaded.config == config and (loaded.autoencoder.latent_scale.deviation == 3).all()
    assert torch.equal(loaded.predict(rain(30, 44), 2), forecast)
