"""The shared blocks: as published, and what the Fourier filter does to single modes."""

import pytest
import torch
from golden_arrays import assert_close, below, load, relative_error
from tiny_models import rain, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from ldcast.models import blocks
from ldcast.models.blocks import (
    MLP,
    AFNOBlock,
    AFNOFilter,
    Conv3d,
    ResBlock3d,
    cell_averages,
    inverse_real_fft,
    linear,
    sinusoids,
    spread_out,
    store_channels_last,
)

pytestmark = pytest.mark.core

GRIDS = range(3)  # of the published arrays: 5 x 12 x 10, 3 x 6 x 13 (wide), 1 x 8 x 8
WIDE_GRID = 1
UNITS = load("units")


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def published_filter(drop_wide_modes: bool) -> AFNOFilter:
    network = AFNOFilter(16, 8, drop_wide_modes)
    network.load_state_dict(below(UNITS, "afno.state."))
    return network.requires_grad_(False)


def published_block(drop_wide_modes: bool) -> AFNOBlock:
    network = AFNOBlock(16, 8, drop_wide_modes)
    network.load_state_dict(below(UNITS, "afnoblock.state."))
    return network.requires_grad_(False)


@pytest.mark.parametrize("grid", GRIDS)
def test_filter_is_as_published(grid):
    assert_close(published_filter(True)(UNITS[f"afno.{grid}.x"]), UNITS[f"afno.{grid}.y"])


@pytest.mark.parametrize("grid", GRIDS)
def test_filter_block_is_as_published(grid):
    assert_close(published_block(True)(UNITS[f"afno.{grid}.x"]), UNITS[f"afnoblock.{grid}.y"])


@pytest.mark.parametrize("grid", GRIDS)
def test_keeping_all_modes_differs_on_the_wide_grid_only(grid):
    x, y = UNITS[f"afno.{grid}.x"], UNITS[f"afnoblock.{grid}.y"]
    error = relative_error(published_block(False)(x), y)
    assert error > 1e-2 if grid == WIDE_GRID else error < 1e-5


def identity_filter(drop_wide_modes: bool) -> AFNOFilter:
    """Passes a mode with positive parts on, less the shrinkage."""
    network = AFNOFilter(2, 1, drop_wide_modes).requires_grad_(False)
    for weight, bias in ((network.w1, network.b1), (network.w2, network.b2)):
        weight[0], weight[1] = torch.eye(2), 0.0
        bias.zero_()
    return network


def test_filter_drops_the_finest_column_of_a_wide_grid_only_if_told():
    """Alternating columns are one mode, the Nyquist one, of amplitude sqrt(number of cells)."""
    num_rows, num_columns = 2, 8
    columns = 1.0 - 2.0 * (torch.arange(num_columns) % 2)
    x = columns.expand(1, 1, num_rows, num_columns)[..., None].repeat(1, 1, 1, 1, 2)
    passed = 1 - AFNOFilter.SHRINKAGE / (num_rows * num_columns) ** 0.5
    assert_close(identity_filter(False)(x), x * (1 + passed))
    assert_close(identity_filter(True)(x), x)  # nothing but the filter's own skip


def test_filter_shrinks_weak_modes_to_nothing():
    x = torch.full((1, 1, 4, 4, 2), 0.9 * AFNOFilter.SHRINKAGE / 4)
    assert torch.equal(identity_filter(False)(x), x)


def test_filter_computes_in_float32_under_autocast():
    x = UNITS["afno.0.x"]
    expected = published_filter(False)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(published_filter(False)(x), expected)
        assert published_filter(False)(x.bfloat16()).dtype == torch.bfloat16


def test_filter_needs_channels_that_split_into_its_blocks():
    with pytest.raises(ValueError, match="got 10 channels for 8 AFNO blocks"):
        AFNOFilter(10, 8)


@pytest.mark.parametrize("width", [6, 7])
def test_inverse_fft_undoes_the_forward_one(width):
    x = torch.randn(2, 3, 4, width, 2)
    modes = torch.fft.rfftn(x, dim=(1, 2, 3), norm="ortho")
    torch.testing.assert_close(inverse_real_fft(modes, width), x)


@pytest.mark.parametrize(("width", "column"), [(6, 0), (6, 3), (7, 0)])
def test_inverse_fft_drops_what_no_real_field_has(width, column):
    """Imaginary means of the first and the Nyquist column; an odd width has no Nyquist column."""
    modes = torch.zeros(1, 2, 4, width // 2 + 1, 1, dtype=torch.complex64)
    modes[0, 0, 0, column] = 1j
    assert inverse_real_fft(modes, width).abs().max() < 1e-7
    modes[0, 0, 0, column] = 1.0
    assert inverse_real_fft(modes, width).abs().max() > 0.1


@pytest.mark.parametrize(("width", "real_columns"), [(6, [0, 3]), (7, [0])])
def test_inverse_fft_leaves_no_choice_to_the_library(width, real_columns, monkeypatch):
    """Libraries differ in what they make of imaginary parts in those columns: they get none."""
    given, irfft = [], torch.fft.irfft
    monkeypatch.setattr(
        torch.fft, "irfft", lambda lines, **kwargs: given.append(lines) or irfft(lines, **kwargs)
    )
    inverse_real_fft(torch.randn(1, 2, 4, width // 2 + 1, 1, dtype=torch.complex64), width)
    has_imaginary = given[0].imag.abs().amax((0, 1, 2, 4)) > 0
    assert [k for k, imaginary in enumerate(has_imaginary) if not imaginary] == real_columns


@pytest.mark.parametrize("case", ["gn", "nonorm"])
def test_residual_block_is_as_published(case):
    state = below(UNITS, f"resblock3d_{case}.state.")
    kernel_size = tuple(state["conv1.weight"].shape[2:])
    block = ResBlock3d(4, 6, kernel_size, use_norm=case == "gn")
    block.load_state_dict(state)
    assert_close(block(UNITS["blocks.x"]), UNITS[f"resblock3d_{case}.y"])


def test_residual_block_without_kernel_in_time_keeps_frames_apart():
    block = ResBlock3d(3, 3, kernel_size=(1, 3, 3), use_norm=False)
    x = torch.randn(2, 3, 4, 5, 7)
    torch.testing.assert_close(block(x)[:, :, 1:2], block(x[:, :, 1:2]))
    assert isinstance(block.proj, torch.nn.Identity)


def test_mlp_widens_and_narrows():
    assert MLP(3, 12, 5)(torch.randn(2, 4, 3)).shape == (2, 4, 5)


# float32 holds angles near 1000 to 6e-5 only, and exp differs by a rounding between CPUs.
ANGLE_TOLERANCE = 1e-4


@pytest.mark.parametrize("kind", ["temb", "temb_float"])
@pytest.mark.parametrize("size", [8, 256])
def test_sinusoids_embed_diffusion_steps_as_published(kind, size):
    step = UNITS["temb.t" if kind == "temb" else "temb.t_float"]
    sine, cosine = sinusoids(step, size // 2)
    assert_close(torch.cat([cosine, sine], -1), UNITS[f"{kind}.{size}"], ANGLE_TOLERANCE)


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("size", [16, 128])
def test_sinusoids_embed_frames_as_published(index, size):
    sine, cosine = sinusoids(UNITS[f"pe.pos{index}"], size // 2)
    assert_close(torch.cat([sine, cosine], -1), UNITS[f"pe{index}.{size}"])


def test_sinusoids_have_frequencies_from_one_downwards():
    sine, cosine = sinusoids(torch.tensor([[0, 1], [2, 3]]), 2)
    assert sine.shape == cosine.shape == (2, 2, 2)
    assert_close(sine[1, 1], torch.tensor([3.0, 0.03]).sin())  # 1 and 10000^(-1/2)
    assert_close(cosine[0, 0], torch.ones(2))


def test_storing_channels_last_changes_no_value():
    conv = torch.nn.Conv3d(4, 5, 3)
    before = conv.weight.clone()
    store_channels_last(conv)
    assert torch.equal(conv.weight, before)
    assert conv.weight.stride(1) == 1  # channels are the innermost axis


@pytest.mark.parametrize("module", [MLP(16, 32, 8), AFNOFilter(16)], ids=["MLP", "AFNOFilter"])
def test_chunks_of_positions_give_the_same(module, monkeypatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 7, 16)
    whole = module(x).detach()
    monkeypatch.setattr(blocks, "CHUNK", 50)  # of 210 positions: the last chunk is shorter
    with torch.no_grad():
        torch.testing.assert_close(module(x), whole, rtol=1e-6, atol=1e-6)


def test_chunks_only_without_gradients(monkeypatch) -> None:
    monkeypatch.setattr(blocks, "CHUNK", 50)
    sizes = []

    def double(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return 2 * x

    x = torch.randn(120, 4)
    torch.testing.assert_close(blocks.each_position(double, x), 2 * x)
    with torch.no_grad():
        torch.testing.assert_close(blocks.each_position(double, x), 2 * x)
    assert sizes == [120, 50, 50, 20]


# ---- convolutions --------------------------------------------------------------------------------

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN"
)


class CalledOperators(TorchDispatchMode):
    """The names of PyTorch's operators that run inside; convolutions up need no unfolding."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        is_transposed = function is torch.ops.aten.convolution.default and args[6]
        if not is_transposed:
            self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def same_convolution(conv: Conv3d) -> torch.nn.Conv3d:
    """PyTorch's own with the same settings and weights."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    settings = {name: getattr(conv, name) for name in names}
    own = torch.nn.Conv3d(conv.in_channels, conv.out_channels, conv.kernel_size, **settings)
    own.load_state_dict(conv.state_dict())
    return own


@pytest.mark.parametrize("size", [(5, 8, 40), (5, 40, 8), (4, 16, 16)])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": (1, 2, 2), "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": "same"},
    ],
    ids=str,
)
def test_convolutions_are_pytorchs(size, settings) -> None:
    conv = Conv3d(4, 6, **settings)
    x = torch.randn(1, 4, *size)
    pytorchs = same_convolution(conv)
    expected = pytorchs(x)
    y = conv(x)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, pytorchs.weight.grad, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            conv.double()(x.double()), expected.double(), rtol=1e-5, atol=1e-5
        )


def test_convolutions_take_the_type_that_autocast_says() -> None:
    x = torch.randn(1, 4, 3, 5, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert Conv3d(4, 4, 3)(x).dtype == torch.bfloat16


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("shape", [(12,), (1, 12), (2, 5, 7, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_maps_are_the_same_with_and_without_gradients(num_groups, shape, dtype) -> None:
    x = torch.randn(shape, dtype=dtype)
    weight = torch.randn(6, 12 // num_groups, dtype=dtype)
    bias = torch.randn(6, dtype=dtype)
    groups = x.chunk(num_groups, -1), weight.chunk(num_groups), bias.chunk(num_groups)
    of_groups = [part @ matrix.T + b for part, matrix, b in zip(*groups, strict=True)]
    expected = torch.cat(of_groups, dim=-1)
    torch.testing.assert_close(linear(x, weight, bias, num_groups), expected)
    with torch.no_grad():
        y = linear(x, weight, bias, num_groups)
        nothing = linear(torch.zeros(0, 12, dtype=dtype), weight, bias, num_groups)
    assert nothing.shape == (0, 6) and y.is_contiguous()
    torch.testing.assert_close(y, expected)


@needs_onednn
@pytest.mark.parametrize("size", [(16, 112), (112, 16)])
def test_no_convolution_of_a_forecast_unfolds_its_input(size) -> None:
    """Unfolding takes 27 times the memory, and PyTorch chooses it by rows, not by columns."""
    with CalledOperators() as called:
        tiny_model().predict(rain(*size), num_members=1, amp="off")
    assert "mkldnn_convolution" in called.names
    assert "convolution" not in called.names


@needs_onednn
@pytest.mark.parametrize("layer", [Conv3d(3, 4, 3, padding=1), MLP(6, 8, 5)])
def test_layers_can_be_compiled(layer) -> None:
    """PyTorch's compiler does not know oneDNN's convolution. Only traced here, which is quick."""
    x = torch.randn(2, 3, 4, 5, 6)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x))


@needs_onednn
@pytest.mark.filterwarnings("ignore:TF32")  # of the switch itself
def test_whoever_turns_onednn_off_is_without_it() -> None:
    with torch.backends.mkldnn.flags(enabled=False), torch.no_grad(), CalledOperators() as called:
        Conv3d(4, 4, 3)(torch.randn(1, 4, 3, 5, 6))
    assert "mkldnn_convolution" not in called.names


@pytest.mark.core
def test_averages_are_over_whole_squares_of_cells_and_fewer_at_the_ends() -> None:
    values = torch.arange(7.0).expand(1, 2, 3, 5, 7)
    averages = cell_averages(values, 4)
    assert averages.shape == (1, 2, 3, 2, 2)
    torch.testing.assert_close(averages[0, 1, 2], torch.tensor([[1.5, 5.0]]).expand(2, 2))
    made = spread_out(averages, 4, (5, 7))
    # Between the middles of the squares, as if both were whole: 1.5 and 5.5.
    expected = torch.tensor([1.5, 1.5, 1.5 + 3.5 / 8, 1.5 + 3 * 3.5 / 8, 5 - 3 * 3.5 / 8])
    torch.testing.assert_close(made[0, 0, 0, 0, :5], expected)
    torch.testing.assert_close(spread_out(cell_averages(values, 1), 1, (5, 7)), values)
