"""The autoencoder in slices against the autoencoder in one piece."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ldcast.models import AutoencoderKL, slices
from ldcast.models.autoencoder import AutoencoderConfig
from ldcast.models.blocks import ResBlock3d, conv3d
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
def test_no_activation_is_larger_than_a_slice(autoencoder, monkeypatch) -> None:
    """At full resolution; what is a quarter as wide and high is kept whole."""
    sizes = []

    def note(x: torch.Tensor, *settings: object) -> torch.Tensor:
        y = conv3d(x, *settings)
        sizes.append(max(x[0].numel(), y[0].numel()))
        return y

    monkeypatch.setattr(slices, "conv3d", note)
    column = 4 * 8 * 40
    sizes_given = {"whole_bytes": 0, "slice_bytes": 4 * 5 * column}
    decode_in_slices(autoencoder, torch.randn(1, 3, 2, 10, 13), **sizes_given)
    encode_in_slices(autoencoder, torch.randn(1, 1, 8, 40, 52), **sizes_given)
    assert len(sizes) > 50
    assert max(sizes) <= (5 + 4) * column  # two margins of two columns


class EditedBlock(ResBlock3d):
    """What someone may make of a block: another norm, another order, a share of the skip."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(torch.tanh(self.norm1(x)))
        y = 0.5 + self.conv2(self.norm2(self.activation(y)))
        return y + 0.3 * self.proj(x)


def edits() -> dict[str, Callable[[nn.Module], None]]:
    """Each changes every block of an autoencoder in place."""

    def forward(block: nn.Module) -> None:
        block.__class__ = EditedBlock

    def groups(block: nn.Module) -> None:
        block.norm2 = nn.GroupNorm(2, block.norm2.num_channels) if even(block) else nn.Identity()

    def batch_norm(block: nn.Module) -> None:
        block.norm2 = nn.BatchNorm3d(block.norm2.num_channels, track_running_stats=False)

    def no_norm(block: nn.Module) -> None:
        block.norm1 = block.norm2 = nn.Identity()

    def activation(block: nn.Module) -> None:
        block.activation = nn.Softsign()

    def wider_kernel(block: nn.Module) -> None:
        width = block.conv2.in_channels, block.conv2.out_channels
        block.conv2 = nn.Conv3d(*width, (1, 3, 5), padding=(0, 1, 4), dilation=(1, 1, 2))

    def mirrored_edges(block: nn.Module) -> None:
        width = block.conv2.in_channels, block.conv2.out_channels
        block.conv2 = nn.Conv3d(*width, 3, padding=1, padding_mode="replicate")

    def even(block: nn.Module) -> bool:
        return block.norm2.num_channels % 2 == 0

    return {
        edit.__name__: edit
        for edit in (forward, groups, batch_norm, no_norm, activation, wider_kernel, mirrored_edges)
    }


@pytest.mark.parametrize("edit", edits().values(), ids=edits())
@torch.no_grad()
def test_edited_blocks_are_the_same_in_slices(autoencoder, edit) -> None:
    """None of them may be ignored in large fields."""
    rain_norm, z = 3 + 2 * torch.randn(2, 1, 8, 40, 52), torch.randn(2, 3, 2, 10, 13)
    before = autoencoder.encode(rain_norm)[0], autoencoder.decode(z)
    for block in autoencoder.modules():
        if isinstance(block, ResBlock3d):
            edit(block)
    sizes = {"whole_bytes": 0, "slice_bytes": 7 * 4 * 2 * 4 * 8 * 40}
    encoded, decoded = autoencoder.encode(rain_norm)[0], autoencoder.decode(z)
    assert close(encode_in_slices(autoencoder, rain_norm, **sizes), encoded)
    assert close(decode_in_slices(autoencoder, z, **sizes), decoded)
    assert not close(before[0], encoded) and not close(before[1], decoded)


class Squares(nn.Module):
    """Another autoencoder: means of 4 x 4 x 4 pixels and, to decode, a field that it is given."""

    compression, latent_channels, channels = 4, 1, 1

    def encode(self, rain_norm: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = nn.functional.avg_pool3d(rain_norm, 4)
        return z, torch.zeros_like(z)

    def decode(self, z: torch.Tensor, detail: torch.Tensor | None = None) -> torch.Tensor:
        coarse = nn.functional.interpolate(z, scale_factor=4)
        return coarse if detail is None else coarse + detail


@torch.no_grad()
def test_any_autoencoder_works_for_any_size() -> None:
    rain_norm = torch.randn(1, 1, 8, 40, 52)
    autoencoder, sizes = Squares(), {"whole_bytes": 0, "slice_bytes": 4096}
    z = encode_in_slices(autoencoder, rain_norm, **sizes)
    assert close(z, autoencoder.encode(rain_norm)[0])
    detail = torch.randn(1, 1, 8, 40, 52)
    made = decode_in_slices(autoencoder, z, **sizes, detail=detail)
    assert close(made, autoencoder.decode(z, detail))


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
