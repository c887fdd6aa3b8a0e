"""The cosine autoencoder: what it starts from, what it sees, its latent's scale, its training."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stages import Stage, same_gradients, state
from tiny_models import rain, tiny_config
from torch import nn

from ldcast import LDCast
from ldcast.config import ModelConfig
from ldcast.errors import InputError
from ldcast.models import autoencoder_loss, slices
from ldcast.models.cosine_autoencoder import (
    CosineAutoencoder,
    CosineAutoencoderConfig,
    LatentScale,
    at_edges,
    edge_mixing,
    patch_cosines,
)
from ldcast.models.registry import build_autoencoder
from ldcast.models.slices import decode_in_slices, encode_in_slices
from ldcast.nowcast.ldcast import build
from ldcast.nowcast.model_folder import load_weights, read_description

TINY = CosineAutoencoderConfig(channels=2, latent_channels=3, coarse_channels=6)
LINEAR = CosineAutoencoderConfig(latent_channels=3, decoder="linear")
LAPPED = replace(LINEAR, lapped=True)
REACH = 5  # latent cells: two blocks of two convolutions of 3 x 3, and seams at full resolution


def stirred(config: CosineAutoencoderConfig = TINY) -> CosineAutoencoder:
    """With weights that all do something, and a latent scale other than 0 and 1."""
    torch.manual_seed(0)
    network = CosineAutoencoder(config).requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    network.latent_scale.mean.copy_(torch.randn(config.latent_channels))
    network.latent_scale.deviation.copy_(1 + torch.rand(config.latent_channels))
    return network


@pytest.mark.core
@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("latent_channels", [3, 64])
@pytest.mark.parametrize("num_decoder_blocks", [0, 1])
def test_sizes_follow_the_settings(channels, latent_channels, num_decoder_blocks) -> None:
    config = CosineAutoencoderConfig(channels, latent_channels, 6)
    network = CosineAutoencoder(replace(config, num_decoder_blocks=num_decoder_blocks))
    rain_norm = torch.randn(2, 1, 8, 12, 20)
    reconstruction, z_mean, z_log_var = network(rain_norm)
    assert z_mean.shape == z_log_var.shape == (2, latent_channels, 2, 3, 5)
    assert reconstruction.shape == rain_norm.shape
    assert len(network.details) == 2 + num_decoder_blocks
    assert network.channels == network.finish[-1].in_channels == channels
    assert network.details[0].out_channels == 6


@pytest.mark.core
def test_cosines_are_orthonormal_and_the_lowest_come_first() -> None:
    cosines = patch_cosines(4)
    flat = cosines.flatten(1).double()
    torch.testing.assert_close(flat @ flat.T, torch.eye(64).double(), rtol=0, atol=1e-6)
    assert torch.allclose(cosines[0], torch.full((4, 4, 4), 1 / 8))
    changes = [cosines[1].diff(dim=axis).abs().max() > 0.1 for axis in range(3)]
    assert changes == [True, False, False]  # the next lowest is in time


@pytest.mark.core
@pytest.mark.parametrize("config", [TINY, LINEAR])
def test_it_starts_as_the_projection_on_the_lowest_cosines(config) -> None:
    network = CosineAutoencoder(config).requires_grad_(False)
    lowest = patch_cosines(4)[:3]
    patch = torch.einsum("k,ktyx->tyx", torch.tensor([5.0, -1.0, 2.0]), lowest)
    rain_norm = patch.tile(2, 3, 5)[None, None]
    torch.testing.assert_close(network(rain_norm)[0], rain_norm)
    z = network.encode(rain_norm)[0]
    torch.testing.assert_close(z[0, :, 1, 2, 4], torch.tensor([5.0, -1.0, 2.0]))
    higher = patch_cosines(4)[7].tile(2, 3, 5)[None, None]
    torch.testing.assert_close(network(rain_norm + higher)[0], rain_norm)


@pytest.mark.core
@pytest.mark.parametrize("config", [TINY, LAPPED])
@pytest.mark.parametrize("size", [(12, 20), (4, 8), (4, 4)])
def test_all_cosines_lose_nothing(config, size) -> None:
    network = CosineAutoencoder(replace(config, latent_channels=64)).requires_grad_(False)
    rain_norm = torch.randn(1, 1, 8, *size)
    torch.testing.assert_close(network(rain_norm)[0], rain_norm, rtol=0, atol=1e-5)


@pytest.mark.core
def test_pixels_are_mixed_across_edges_as_in_the_source() -> None:
    """By hand for patches of 4 pixels, with angles of pi/8."""
    cosine, sine = math.cos(math.pi / 8), math.sin(math.pi / 8)
    turn = torch.tensor([[1.6 * sine + cosine, 1.6 * cosine - sine],
                         [1.6 * sine - cosine, 1.6 * cosine + sine]]) / 2**0.5  # fmt: skip
    mixing = edge_mixing(4)
    for inner, outer in ((1.0, 0.0), (0.0, 1.0)):
        even = torch.tensor([outer, inner, inner, outer])
        torch.testing.assert_close(mixing @ even, even)
        odd = torch.tensor([-outer, -inner, inner, outer])
        right = turn @ torch.tensor([inner, outer])  # of the edge, from it on
        expected = torch.cat([-right.flip(0), right])
        torch.testing.assert_close(mixing @ odd, expected)
    steps = torch.arange(12.0).expand(1, 12)
    mixed = at_edges(mixing, steps.expand(1, 1, 1, 12, 12))[0, 0, 0]
    assert torch.equal(mixed[:2, :2], steps[:, :2].expand(2, 2))  # the ends stay
    torch.testing.assert_close(mixed[0, 2:6], mixing @ steps[0, 2:6])
    torch.testing.assert_close(mixed[0, 6:10], mixing @ steps[0, 6:10])
    turned = at_edges(mixing, steps.T.expand(1, 1, 1, 12, 12))[0, 0, 0]
    torch.testing.assert_close(turned, mixed.T)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        within = at_edges(mixing, steps.expand(1, 1, 1, 12, 12))[0, 0, 0]
    assert torch.equal(within, mixed)


@pytest.mark.core
def test_patches_that_are_a_little_wrong_meet_where_they_are_lapped() -> None:
    """Of latents with new noise in each patch: changes across edges over those within patches."""
    torch.manual_seed(0)
    smooth = nn.functional.avg_pool2d(torch.randn(400, 44, 44), 13, 1).reshape(20, 1, 20, 32, 32)
    ratios = []
    for config in (LINEAR, LAPPED):
        network = CosineAutoencoder(replace(config, latent_channels=24)).requires_grad_(False)
        z = network.encode(smooth)[0]
        z = z + 0.5 * z.std((0, 2, 3, 4), keepdim=True) * torch.randn_like(z)
        change = network.decode(z).diff(dim=-1).abs().mean((0, 1, 2, 3))
        is_edge = torch.arange(len(change)) % 4 == 3
        ratios.append((change[is_edge].mean() / change[~is_edge].mean()).item())
    assert ratios[0] > 2.2 and ratios[1] < 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_channels": 65}, "65, expected at most 64"),
        ({"kl_weight": 0.1}, "expected 0"),
        ({"decoder": "linear"}, "channels: got 2 with a linear decoder, which has none"),
        ({"lapped": True}, "lapped: got true with decoder residual, expected linear"),
        ({"decoder": "cubic"}, "decoder: got 'cubic'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message) -> None:
    with pytest.raises(InputError, match=message):
        replace(TINY, **changes)


@pytest.mark.core
@pytest.mark.parametrize(
    "shape", [(1, 1, 5, 8, 8), (1, 1, 4, 10, 8), (1, 1, 4, 8, 9), (1, 2, 4, 8, 8), (1, 4, 8, 8)]
)
def test_rain_that_does_not_fit_is_refused(shape) -> None:
    network = CosineAutoencoder(TINY)
    for call in (network.encode, network):
        with pytest.raises(InputError, match="multiples of 4"):
            call(torch.zeros(shape))


@pytest.mark.core
def test_a_crop_of_an_encoded_field_is_the_encoded_crop() -> None:
    network = stirred()
    rain_norm = torch.randn(1, 1, 8, 96, 112)
    z = network.encode(rain_norm)[0]
    z_crop = network.encode(rain_norm[..., 16:80, 20:100])[0]
    torch.testing.assert_close(z_crop, z[..., 4:20, 5:25])
    made, made_crop = network.decode(z), network.decode(z[..., 4:20, 5:25])
    inside = slice(4 * REACH, -4 * REACH)
    expected = made[..., 16:80, 20:100][..., inside, inside]
    torch.testing.assert_close(made_crop[..., inside, inside], expected, rtol=0, atol=1e-5)
    assert (made_crop - made[..., 16:80, 20:100]).abs().max() > 1e-3  # the blocks do look around


@pytest.mark.core
def test_a_lapped_crop_is_the_encoded_crop_but_for_the_outermost_cells() -> None:
    network = stirred(LAPPED)
    rain_norm = torch.randn(1, 1, 8, 96, 112)
    z, z_crop = (network.encode(of)[0] for of in (rain_norm, rain_norm[..., 16:80, 20:100]))
    torch.testing.assert_close(z_crop[..., 1:-1, 1:-1], z[..., 5:19, 6:24])
    assert (z_crop[..., 0, :] - z[..., 4, 5:25]).abs().max() > 1e-3


@pytest.mark.core
def test_a_linear_decoder_makes_each_patch_of_its_own_latents() -> None:
    network = stirred(LINEAR)
    z = torch.randn(2, 3, 2, 4, 5)
    made = network.decode(z)
    torch.testing.assert_close(made[:, :, 4:, 8:12, 12:16], network.decode(z[:, :, 1:, 2:3, 3:4]))
    zero = network.decode(torch.zeros_like(z))
    torch.testing.assert_close(network.decode(2 * z) - zero, 2 * (made - zero))


@pytest.mark.core
@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("config", [TINY, LINEAR, LAPPED])
@torch.no_grad()
def test_weights_in_bf16_encode_and_decode(config, is_autocast) -> None:
    """As `--encoder-dtype bfloat16` has them, of rain in either type."""
    network = stirred(config).to(torch.bfloat16)
    for dtype in (torch.float32, torch.bfloat16):
        rain_norm = torch.ones(1, 1, 8, 16, 24, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
            z = network.encode(rain_norm)[0]
            assert network.decode(z).shape == rain_norm.shape


@pytest.mark.parametrize("config", [LINEAR, LAPPED])
@torch.no_grad()
def test_the_transforms_are_exact_in_half_precision(config) -> None:
    network, rain_norm = stirred(config), torch.randn(1, 1, 8, 16, 24)
    z = network.encode(rain_norm)[0]
    decoded = network.decode(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network.encode(rain_norm)[0], z)
        assert torch.equal(network.decode(z), decoded)


def test_the_number_of_latent_frames_does_not_matter() -> None:
    """It is trained on two, and decodes five: but for the seams a frame is made from its own."""
    network = stirred()
    rain_norm = torch.randn(1, 1, 20, 16, 24)
    apart = torch.cat([network.encode(part)[0] for part in rain_norm.split(4, dim=2)], dim=2)
    torch.testing.assert_close(network.encode(rain_norm)[0], apart)
    z = torch.randn(1, 3, 5, 4, 6)
    made, alone = network.decode(z), network.decode(z[:, :, 1:3])
    torch.testing.assert_close(made[:, :, 6:10], alone[:, :, 2:6])  # all that see both neighbours
    assert (made[:, :, 4] - alone[:, :, 0]).abs().max() > 1e-4


def test_noise_is_in_model_units_and_is_standardised_with_the_latent() -> None:
    network = stirred()
    rain_norm, noise = torch.randn(1, 1, 4, 8, 12), torch.randn(1, 3, 1, 2, 3)
    z, log_var = network.encode(rain_norm)
    assert log_var.shape == z.shape
    deviation = (0.5 * log_var[0, :, 0, 0, 0]).exp() * network.latent_scale.deviation
    torch.testing.assert_close(deviation, torch.full((3,), 0.1))
    drawn, _, _ = network(rain_norm, noise)
    torch.testing.assert_close(drawn, network.decode(z + (0.5 * log_var).exp() * noise))
    torch.testing.assert_close(network(rain_norm)[0], network.decode(z))
    silent = CosineAutoencoder(replace(TINY, noise=0.0))
    torch.testing.assert_close(silent(rain_norm, noise)[0], silent(rain_norm)[0])


@pytest.mark.core
def test_a_measured_scale_standardises_and_is_undone() -> None:
    scale = LatentScale(3)
    z = torch.tensor([2.0, 5.0, 1.0])[:, None] * torch.randn(3, 4000) + 7
    field = z.reshape(1, 3, 4, 20, 50)
    assert torch.equal(scale(field), field)
    scale.measure(z)
    standard = scale(field)
    torch.testing.assert_close(standard[0].flatten(1).std(1), torch.ones(3))
    torch.testing.assert_close(standard.mean((0, 2, 3, 4)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(scale.undo(standard), field)


def test_rain_that_never_changes_is_not_blown_up() -> None:
    scale = LatentScale(2)
    scale.measure(torch.stack([torch.randn(50), torch.full((50,), 3.0)]))
    assert scale.deviation[1] == pytest.approx(0.01)
    assert scale(torch.full((1, 2, 1, 1, 1), 3.0))[0, 1] == 0


def test_sizes_of_channels_are_as_in_rain_and_of_unit_size_together() -> None:
    scale = LatentScale(2)
    scale.deviation.copy_(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(scale.sizes(), torch.tensor([3.0, 4.0]) / 12.5**0.5)


# 26 columns make two halves, with 7 the slices end amid a cell.
@pytest.mark.parametrize("num_columns", [2, 7, 26])
@pytest.mark.parametrize("config", [TINY, LINEAR, LAPPED])
def test_slices_equal_one_piece(num_columns, config) -> None:
    network = stirred(config)
    rain_norm, z = 3 + 2 * torch.randn(2, 1, 8, 40, 52), torch.randn(2, 3, 2, 10, 13)
    sizes = {"whole_bytes": 0, "slice_bytes": num_columns * 4 * 2 * 2 * 8 * 40}
    encoded, decoded = network.encode(rain_norm)[0], network.decode(z)
    for result, exact in (
        (encode_in_slices(network, rain_norm, **sizes), encoded),
        (decode_in_slices(network, z, **sizes), decoded),
    ):
        torch.testing.assert_close(result, exact, rtol=0, atol=1e-5 * exact.abs().max().item())


def test_slices_are_as_wide_as_asked_for(monkeypatch) -> None:
    """A step of the decoder that is not known by slices would be made column by column."""
    widths, conv3d = [], slices.conv3d
    monkeypatch.setattr(
        slices, "conv3d", lambda x, *rest: widths.append(x.shape[-1]) or conv3d(x, *rest)
    )
    z = torch.randn(1, 3, 2, 10, 13)
    decode_in_slices(stirred(), z, whole_bytes=0, slice_bytes=26 * 4 * 2 * 2 * 8 * 40)
    assert widths and min(widths) > 5


@pytest.mark.core
@pytest.mark.parametrize("config", [TINY, LINEAR])
def test_every_parameter_gets_a_gradient_after_an_update(config) -> None:
    torch.manual_seed(0)
    network = CosineAutoencoder(config)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(2):  # the end of the decoder starts at zero and holds back what is before it
        optimizer.zero_grad()
        rain_norm, noise = torch.randn(2, 1, 4, 8, 8), torch.randn(2, 3, 1, 2, 2)
        autoencoder_loss(rain_norm, *network(rain_norm, noise)).sum().backward()
        optimizer.step()
    assert [n for n, p in network.named_parameters() if not p.grad.abs().max() > 0] == []


@pytest.fixture(scope="module")
def trained(event_path, autoencoder_run, tmp_path_factory) -> tuple[Stage, list[str], Path]:
    """The first stage, flags of the cosine kind, and a run with them."""
    stage = Stage("autoencoder", event_path, autoencoder_run)
    sizes = ["--autoencoder.channels", "2", "--autoencoder.coarse-channels", "6"]
    sizes += ["--autoencoder.latent-channels", "4", "--autoencoder.num-decoder-blocks", "1"]
    flags = ["--autoencoder.kind", "cosine", *sizes]
    return stage, flags, stage.run(tmp_path_factory.mktemp("cosine") / "run", 2, *flags)


def test_it_is_trained_with_flags_of_its_own_and_its_own_defaults(trained) -> None:
    network = build_from(trained[2])
    assert network.config == CosineAutoencoderConfig(
        channels=2, latent_channels=4, coarse_channels=6, num_decoder_blocks=1
    )


def test_a_linear_decoder_is_trained_saved_and_loaded(trained, tmp_path) -> None:
    stage, _, _ = trained
    flags = ["--autoencoder.kind", "cosine", "--autoencoder.decoder", "linear"]
    run = stage.run(tmp_path / "run", 2, *flags)
    network = build_from(run)
    assert network.config == CosineAutoencoderConfig(decoder="linear")
    assert sum(p.numel() for p in network.parameters()) == 24 * 64 + 1
    assert not torch.equal(network.inverse.weight, network.cosines)
    torch.testing.assert_close(network.inverse.weight, network.cosines, rtol=0, atol=0.1)


def build_from(folder: Path) -> CosineAutoencoder:
    """The autoencoder of a model folder."""
    network = build_autoencoder(read_description(folder).model.autoencoder)
    load_weights(folder, autoencoder=network)
    return network.requires_grad_(False)


def test_latents_are_measured_before_the_training_and_stay(trained) -> None:
    deviation = load_file(trained[2] / "model.safetensors")["autoencoder.latent_scale.deviation"]
    assert (deviation > 0).all() and deviation[0] == deviation.max()
    tensors = [t for n, t in state(trained[2]).items() if "latent_scale.deviation" in n]
    assert tensors and all(torch.allclose(t, deviation) for t in tensors)


def test_a_resumed_run_equals_an_unbroken_one(trained, tmp_path) -> None:
    stage, flags, unbroken = trained
    resumed = stage.run(stage.run(tmp_path / "run", 1, *flags), 2, *flags)
    same_gradients(resumed, unbroken)


def natural(config: ModelConfig) -> ModelConfig:
    """With cosines for latents whose channels are as large as in rain."""
    diffusion = replace(
        config.diffusion, prediction="v", schedule="cosine", channel_sizes="natural"
    )
    autoencoder = replace(TINY, latent_channels=4)
    return replace(config, autoencoder=autoencoder, diffusion=diffusion)


def test_it_is_saved_loaded_and_forecast_with(tmp_path) -> None:
    config = natural(tiny_config())
    torch.manual_seed(0)
    model = build(config).eval()
    model.autoencoder.latent_scale.deviation.copy_(torch.tensor([8.0, 4.0, 2.0, 1.0]))
    forecast = model.predict(rain(30, 44), 2)
    assert forecast.shape == (2, 20, 30, 44) and torch.isfinite(forecast).all()
    model.save_pretrained(tmp_path)
    loaded = LDCast.from_pretrained(tmp_path, device="cpu")
    assert loaded.config == config
    assert torch.equal(loaded.predict(rain(30, 44), 2), forecast)


def test_natural_sizes_need_an_autoencoder_that_knows_them() -> None:
    config = natural(tiny_config())
    with pytest.raises(InputError, match="kind kl, which has no latent_scale"):
        build(replace(config, autoencoder=tiny_config().autoencoder))
