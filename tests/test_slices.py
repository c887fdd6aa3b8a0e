"""The autoencoder in slices against the autoencoder in one piece."""

import pytest
import torch

from ldcast.models import AutoencoderKL
from ldcast.models.autoencoder import AutoencoderConfig
from ldcast.models.slices import decode_in_slices, encode_in_slices

TOLERANCE = 1e-5  # of the largest value; float32 sums in another order


@pytest.fixture(params=[0, 6], ids=["same width", "another width"])
def autoencoder(request: pytest.FixtureRequest) -> AutoencoderKL:
    torch.manual_seed(0)
    config = AutoencoderConfig(channels=4, coarse_channels=request.param, latent_channels=3)
    autoencoder = AutoencoderKL(config).eval()
    for parameter in autoencoder.parameters():  # norms and biases that do something
        parameter.data += 0.2 * torch.randn_like(parameter)
    return autoencoder


def close(result: torch.Tensor, exact: torch.Tensor) -> bool:
    return (result - exact).abs().max() <= TOLERANCE * exact.abs().max()


# 40 x 52: neither square nor a multiple of a slice. 2 columns are the least, with 7 the slices end
# amid a cell of the coarser level, 26 make two halves.
@pytest.mark.parametrize("num_columns", [1, 2, 7, 26])
@torch.no_grad()
def test_slices_equal_one_piece(autoencoder, num_columns) -> None:
    rain_norm = 3 + 2 * torch.randn(2, 1, 8, 40, 52)
    z = torch.randn(2, 3, 2, 10, 13)
    slice_bytes = num_columns * 4 * 2 * 4 * 8 * 40
    sizes = {"whole_bytes": 0, "slice_bytes": slice_bytes}
    assert close(
        encode_in_slices(autoencoder, rain_norm, **sizes), autoencoder.encode(rain_norm)[0]
    )
    assert close(decode_in_slices(autoencoder, z, **sizes), autoencoder.decode(z))


@torch.no_grad()
def test_no_activation_is_larger_than_a_slice(autoencoder) -> None:
    sizes = []

    def note(module, inputs, output):
        sizes.append(output.shape[1] * output.shape[2] * output.shape[3] * output.shape[4])

    for conv in (autoencoder.decoder[3].conv1, autoencoder.encoder[0].conv1):
        conv.register_forward_hook(note)
    column = 4 * 8 * 40
    sizes_given = {"whole_bytes": 0, "slice_bytes": 4 * 5 * column}
    decode_in_slices(autoencoder, torch.randn(1, 3, 2, 10, 13), **sizes_given)
    encode_in_slices(autoencoder, torch.randn(1, 1, 8, 40, 52), **sizes_given)
    assert max(sizes) <= (5 + 4) * column  # two margins of two columns


@torch.no_grad()
def test_what_is_small_goes_in_one_piece(autoencoder) -> None:
    z = torch.randn(1, 3, 2, 10, 13)
    torch.testing.assert_close(
        decode_in_slices(autoencoder, z), autoencoder.decode(z), rtol=0, atol=0
    )


@torch.no_grad()
def test_statistics_keep_their_digits_on_large_offsets(autoencoder) -> None:
    """A dry field's standard deviation is small beside its mean."""
    z = 50 + torch.randn(1, 3, 2, 24, 40)
    exact = autoencoder.double().decode(z.double())
    result = decode_in_slices(autoencoder.float(), z, whole_bytes=0, slice_bytes=2**14)
    assert close(result.double(), exact)


@torch.no_grad()
def test_slices_work_under_autocast(autoencoder) -> None:
    z = torch.randn(1, 3, 2, 10, 13)
    with torch.autocast("cpu", torch.bfloat16):
        result = decode_in_slices(autoencoder, z, whole_bytes=0, slice_bytes=2**13)
        expected = autoencoder.decode(z)
    assert (result - expected).abs().max() < 0.05 * expected.abs().max()
