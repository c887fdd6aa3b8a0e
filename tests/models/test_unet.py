"""The denoiser: as published part by part, and in other sizes than the published."""

import pytest
import torch
from golden_arrays import (
    assert_close,
    below,
    load,
    load_denoiser,
    published_state,
    record_outputs,
    relative_error,
)

from ldcast.errors import InputError
from ldcast.models import DenoiserConfig, DenoiserUNet
from ldcast.models.blocks import Conv3d
from ldcast.models.unet import (
    AFNOCrossAttention,
    ContextResBlock,
    Entrance,
    LinearPath,
    Upsample,
    coarse,
    downsample,
)
from ldcast.published.names import denoiser_name

pytestmark = pytest.mark.core

ARRAYS = load("unet")
UNITS = load("units")
TINY = {
    "channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_levels": (0,),
    "num_afno_blocks": 4,
}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def published() -> DenoiserUNet:
    config = DenoiserConfig(channels=8, num_res_blocks=1, drop_wide_modes=True)
    network = DenoiserUNet(config, context_channels=(16, 32, 64))
    return load_denoiser(network, below(ARRAYS, "state.")).requires_grad_(False)


def run_published(network: DenoiserUNet) -> torch.Tensor:
    context = [ARRAYS[f"context.{size}"] for size in ("16x16", "8x8", "4x4")]
    return network(ARRAYS["x"], ARRAYS["t"], context)


def test_denoiser_is_as_published():
    assert_close(run_published(published()), ARRAYS["y"])


def test_each_part_is_as_published():
    """The stored parts are of the first example alone."""
    network = published()
    outputs = record_outputs(
        **{
            "time_embed": network.step_embedding,
            "input_blocks.0": network.enter[0],
            "input_blocks.1": network.down[0][0],
            "middle_block": network.middle[1],
            "output_blocks.0": network.up[0][0],
            "output_blocks.5": network.up[2][1],
        }
    )
    run_published(network)
    for name, got in outputs.items():
        # The embedding of steps: float32 angles, and their exp between CPUs; see test_blocks.py.
        tolerance = 1e-4 if name == "time_embed" else 1e-5
        assert_close(got[:1], ARRAYS[f"inter.{name}"], tolerance)


def test_residual_block_is_as_published():
    config = DenoiserConfig(channels=3)  # 12 channels of the step's embedding
    block = ContextResBlock(4, 6, None, config)
    state = below(UNITS, "unet_resblock.state.")
    block.load_state_dict(published_state(block, state, name_in_res_block))
    x = UNITS["blocks.x"]
    assert_close(block(x, UNITS["blocks.emb"], context=None), UNITS["unet_resblock.y"])


def name_in_res_block(name: str) -> str:
    published = denoiser_name("down.0.0." + name, DenoiserConfig())
    return published.removeprefix("input_blocks.1.0.")


def test_changes_of_resolution_are_as_published():
    x = UNITS["blocks.x"]
    layer = downsample(4)
    layer.load_state_dict(below(UNITS, "downsample.state.op."))
    assert_close(layer(x), UNITS["downsample.y"])
    layers = Upsample(4)
    layers[1].load_state_dict(below(UNITS, "upsample.state.conv."))
    assert_close(layers(x), UNITS["upsample.y"])


def cross_attention(drop_wide_modes: bool) -> AFNOCrossAttention:
    network = AFNOCrossAttention(8, 16, 8, drop_wide_modes)
    network.load_state_dict(below(UNITS, "xatt.state."))
    return network.requires_grad_(False)


@pytest.mark.parametrize("grid", [0, 1])  # 5 x 12 x 10, and 5 x 6 x 14: wide
def test_cross_attention_is_as_published(grid):
    x, context, y = (UNITS[f"xatt.{grid}.{name}"] for name in ("x", "context", "y"))
    assert_close(cross_attention(True)(x, context), y)
    error = relative_error(cross_attention(False)(x, context), y)
    assert error > 1e-3 if grid == 1 else error < 1e-5  # all modes differ on the wide grid only


def make(input_channels: int = 0, **changes) -> tuple[DenoiserUNet, list[torch.Tensor]]:
    """A small denoiser that answers something, and a context for latents of 8 x 12."""
    torch.manual_seed(0)
    config = DenoiserConfig(**(TINY | changes))
    num_levels = len(config.channel_multipliers)
    widths = [8 * 2**level for level in range(num_levels)]
    network = DenoiserUNet(config, 3, widths, input_channels)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    context = [torch.randn(2, width, 5, 8 >> k, 12 >> k) for k, width in enumerate(widths)]
    return network, context


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("channels", (8, 16)),
        ("channel_multipliers", ((1, 2), (1, 1, 3))),
        ("num_res_blocks", (1, 2)),
        ("attention_levels", ((), (0, 1))),
        ("num_afno_blocks", (2, 8)),
        ("drop_wide_modes", (False, True)),
        ("use_linear_path", (False, True)),
    ],
)
def test_every_setting_runs_and_changes_the_network(name, values):
    made = []
    for value in values:
        network, context = make(**{name: value})
        z_noisy = torch.randn(2, 3, 5, 8, 12, generator=torch.Generator().manual_seed(1))
        prediction = network(z_noisy, torch.tensor([3, 900]), context)
        assert prediction.shape == z_noisy.shape
        made.append(([p.shape for p in network.parameters()], prediction))
    (shapes, prediction), (other_shapes, other_prediction) = made
    assert shapes != other_shapes or not torch.equal(prediction, other_prediction)


@torch.no_grad()
def test_prediction_depends_on_step_and_context_of_every_level():
    network, context = make(attention_levels=(0, 1))
    z_noisy = torch.randn(2, 3, 5, 8, 12)
    step = torch.tensor([3, 900])
    before = network(z_noisy, step, context)
    after = network(z_noisy, torch.tensor([3, 901]), context)
    assert torch.equal(after[0], before[0])  # examples do not see one another
    assert not torch.equal(after[1], before[1])
    for level in range(len(context)):
        changed = [c + 1 if k == level else c for k, c in enumerate(context)]
        assert not torch.equal(network(z_noisy, step, changed), before)


def test_what_all_examples_share_may_be_given_once() -> None:
    """Step, context and inputs of one example are those of all, as members of a forecast need."""
    settings = {"use_linear_path": True, "linear_path_scales": (2,)}
    network, context = make(5, attention_levels=(0, 1), **settings)
    context = [level[:1] for level in context]
    z_noisy, inputs = torch.randn(3, 3, 5, 8, 12), torch.randn(1, 5, 5, 8, 12)
    step = torch.tensor([700])
    copies = [level.repeat(3, 1, 1, 1, 1) for level in context]
    expected = network(z_noisy, step.repeat(3), copies, inputs.repeat(3, 1, 1, 1, 1))
    assert_close(network(z_noisy, step.expand(3), context, inputs), expected)
    assert_close(network(z_noisy[:1], step, context, inputs), expected[:1])
    assert not torch.allclose(network(z_noisy, step, context, inputs + 1), expected, atol=1e-3)


def test_entrance_joins_the_channels_of_its_parts() -> None:
    layer = Entrance(7, 4)
    joined = Conv3d(7, 4, kernel_size=3, padding=1)
    joined.load_state_dict(layer.state_dict())
    x = torch.randn(2, 7, 3, 6, 5, requires_grad=True)
    answer, expected = layer(x.split([3, 4], dim=1)), joined(x)
    torch.testing.assert_close(answer, expected)
    of_parts, of_one = (
        torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
        for y, module in ((answer, layer), (expected, joined))
    )
    torch.testing.assert_close(of_parts, of_one)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1, 4])
def test_linear_paths_join_the_channels_of_their_parts(scale) -> None:
    config = DenoiserConfig(**TINY)
    path = LinearPath(4, 3, config)
    for parameter in path.parameters():
        parameter += torch.randn_like(parameter)
    seen, embedding = torch.randn(2, 4, 5, 8, 12), torch.randn(2, config.step_channels)
    parts = seen.split([1, 3], dim=1)
    joined, of_parts = (
        path(x, embedding) if scale == 1 else coarse(path, x, embedding, scale)
        for x in ([seen], parts)
    )
    assert_close(of_parts, joined)


@pytest.mark.parametrize(
    ("num_steps", "inputs"),
    [
        (5, (1, 5, 5, 8, 12)),  # of z_noisy's three examples none
        (1, (2, 5, 5, 8, 12)),
        (1, (1, 5, 1, 8, 12)),  # would be one frame for all
        (1, (1, 5, 5, 1, 1)),
        (1, (1, 4, 5, 8, 12)),
        (1, None),
    ],
)
def test_what_does_not_fit_the_latents_is_refused(num_steps, inputs) -> None:
    network, context = make(5)
    context = [level[:1] for level in context]
    inputs = None if inputs is None else torch.randn(inputs)
    step = torch.tensor([700]).expand(num_steps)
    with pytest.raises(ValueError, match=r"^got .*, expected (1 or 3|one of \[\(1, 5, 5, 8, 12\))"):
        network(torch.randn(3, 3, 5, 8, 12), step, context, inputs)


@torch.no_grad()
def test_linear_path_weighs_channels_by_step_and_latent_frame():
    torch.manual_seed(0)
    config = DenoiserConfig(**TINY)
    path = LinearPath(4, 3, config)
    for parameter in path.parameters():
        parameter += torch.randn_like(parameter)
    seen, embedding = torch.randn(2, 4, 5, 4, 6), torch.randn(2, config.step_channels)
    answer = path([seen], embedding)
    assert answer.shape == (2, 3, 5, 4, 6)
    one_cell = torch.zeros_like(seen)
    one_cell[:, :, 1, 2, 3] = seen[:, :, 1, 2, 3]
    expected = torch.zeros_like(answer) + path.proj.bias[:, None, None, None]
    expected[:, :, 1, 2, 3] = answer[:, :, 1, 2, 3]
    torch.testing.assert_close(path([one_cell], embedding), expected)
    alike = seen[:, :, :1].expand(-1, -1, 5, -1, -1)
    assert not torch.allclose(path([alike], embedding)[:, :, 0], path([alike], embedding)[:, :, 4])
    assert not torch.allclose(path([seen], embedding + 1), answer)


@torch.no_grad()
def test_coarse_paths_see_averages_over_many_cells():
    """What is alike in all cells passes as it is; single cells hardly count."""
    torch.manual_seed(0)
    config = DenoiserConfig(**TINY)
    path = LinearPath(4, 3, config)
    path.proj.weight += torch.randn_like(path.proj.weight)
    embedding = torch.randn(2, config.step_channels)
    alike = torch.randn(2, 4, 5, 1, 1).expand(-1, -1, -1, 8, 12)
    answer = coarse(path, [alike], embedding, 4)
    torch.testing.assert_close(answer, path([2.0 * alike], embedding))  # sqrt(4)
    noise = torch.randn(2, 4, 5, 64, 64)
    sizes = [
        f(noise).std()
        for f in (lambda x: path([x], embedding), lambda x: coarse(path, [x], embedding, 8))
    ]
    assert 0.1 < sizes[1] / sizes[0] < 8**-0.5
    odd = coarse(path, [noise[..., :10, :7]], embedding, 4)
    assert odd.shape == (2, 3, 5, 10, 7) and torch.isfinite(odd).all()


@torch.no_grad()
def test_the_denoiser_adds_each_coarse_path_once():
    torch.manual_seed(0)
    config = DenoiserConfig(**TINY, use_linear_path=True, linear_path_scales=(2, 4))
    network = DenoiserUNet(config, 3, context_channels=(8, 16))
    z, step = torch.randn(1, 3, 5, 4, 8), torch.tensor([10])
    context = [torch.randn(1, 8, 5, 4, 8), torch.randn(1, 16, 5, 2, 4)]
    for path in network.coarse_paths:
        path.proj.bias += 1.0
    torch.testing.assert_close(network(z, step, context), torch.full_like(z, 2.0))


def test_coarse_paths_without_the_fine_one_are_refused():
    with pytest.raises(InputError, match="without use_linear_path"):
        DenoiserConfig(**TINY, linear_path_scales=(4,))


@pytest.mark.parametrize(
    "paths", [{}, {"use_linear_path": True}, {"use_linear_path": True, "linear_path_scales": (2,)}]
)
def test_fresh_denoiser_answers_zero(paths):
    config = DenoiserConfig(**TINY, **paths)
    network = DenoiserUNet(config, 3, context_channels=(8, 16))
    context = [torch.randn(1, 8, 5, 4, 8), torch.randn(1, 16, 5, 2, 4)]
    assert not network(torch.randn(1, 3, 5, 4, 8), torch.tensor([10]), context).any()


@pytest.mark.parametrize("out_channels", [4, 6])
def test_fresh_residual_block_is_its_skip(out_channels):
    block = ContextResBlock(4, out_channels, None, DenoiserConfig(channels=3))
    x, step = UNITS["blocks.x"], UNITS["blocks.emb"]
    assert torch.equal(block(x, step, context=None), block.proj(x))


def test_context_resolutions_must_be_the_levels():
    with pytest.raises(ValueError, match="got 3 context resolutions for 2 levels"):
        DenoiserUNet(DenoiserConfig(**TINY), 3, context_channels=(8, 16, 32))


def test_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = DenoiserUNet()
    assert sum(p.numel() for p in network.parameters()) == 664_938_656


def test_an_odd_width_has_no_embedding_and_is_refused():
    with pytest.raises(InputError, match="expected an even number"):
        DenoiserUNet(DenoiserConfig(channels=9))


@pytest.mark.core
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3)])
def test_upsampling_is_that_of_nearest_cells_and_a_convolution(size) -> None:
    """Values and gradients of a network whose weights are not symmetric, edges included."""
    torch.manual_seed(0)
    module = Upsample(6).double()
    x = torch.randn(2, 6, 3, *size, dtype=torch.float64, requires_grad=True)
    plain = torch.nn.Sequential(*module)(x)
    quick = module(x)
    torch.testing.assert_close(quick, plain)
    grads = [torch.autograd.grad(y.sin().sum(), (x, module[1].weight)) for y in (plain, quick)]
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)
