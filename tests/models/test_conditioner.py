"""The conditioner: as published part by part, in other sizes, and which weights can learn."""

import pytest
import torch
from golden_arrays import (
    assert_close,
    below,
    load,
    load_autoencoder,
    load_conditioner,
    published_state,
    record_outputs,
    relative_error,
)

from ldcast.models import AFNOConditioner, AutoencoderKL, ConditionerConfig
from ldcast.models.conditioner import TemporalTransformer
from ldcast.published.names import conditioner_name

pytestmark = pytest.mark.core

ARRAYS = load("conditioner")
UNITS = load("units")
TINY = {
    "channels": 8,
    "num_analysis_blocks": 1,
    "num_forecast_blocks": 1,
    "num_afno_blocks": 4,
    "num_heads": 2,
    "head_channels": 4,
}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def published(drop_wide_modes: bool = True) -> AFNOConditioner:
    config = ConditionerConfig(
        channels=16, num_analysis_blocks=2, num_forecast_blocks=2, drop_wide_modes=drop_wide_modes
    )
    return load_conditioner(AFNOConditioner(config), below(ARRAYS, "state.")).requires_grad_(False)


def past_latents(name: str) -> torch.Tensor:
    autoencoder = load_autoencoder(AutoencoderKL(), below(ARRAYS, "state.autoencoder.0."))
    return autoencoder.requires_grad_(False).encode(ARRAYS[name])[0]


def cascade(name: str) -> list[torch.Tensor]:
    """The published context maps, finest first."""
    return sorted(below(ARRAYS, name + ".").values(), key=lambda level: -level.shape[-1])


@pytest.mark.parametrize(("rain", "context"), [("x", "cascade"), ("x2", "cascade2")])
def test_context_is_as_published(rain, context):
    levels = published()(past_latents(rain))
    for level, expected in zip(levels, cascade(context), strict=True):
        assert_close(level, expected)


def test_keeping_all_modes_changes_the_context_of_the_wide_domain_only():
    network = published(drop_wide_modes=False)
    assert_close(network(past_latents("x"))[0], cascade("cascade")[0])
    assert relative_error(network(past_latents("x2"))[0], cascade("cascade2")[0]) > 1e-3


def test_each_part_is_as_published():
    network = published()
    transformer = network.temporal_transformer
    given = {}

    def keep_inputs(_module, inputs) -> None:
        given["tt_query"], given["tt_keys"] = inputs

    transformer.register_forward_pre_hook(keep_inputs)
    outputs = record_outputs(
        proj=network.proj,
        analysis=network.analysis,
        tt_out=transformer,
        forecast=network.forecast,
    )
    network(past_latents("x"))
    for name, got in {**outputs, **given}.items():
        assert_close(got, ARRAYS[f"inter.{name}"])


def test_temporal_transformer_is_as_published():
    network = TemporalTransformer(16, num_heads=8, head_channels=32).requires_grad_(False)
    state = below(UNITS, "tt.state.")
    network.load_state_dict(published_state(network, state, conditioner_name))
    x, context = UNITS["tt.x"], UNITS["tt.context"]
    assert_close(network(x, context), UNITS["tt.y"])
    assert_close(network.attn1(x, x), UNITS["tt.attn1"])
    assert_close(network.attn2(x, context), UNITS["tt.attn2"])


def test_queries_shared_by_all_pixels_equal_queries_of_each_pixel():
    network = TemporalTransformer(8, 2, 4).requires_grad_(False)
    query, context = torch.randn(1, 5, 1, 1, 8), torch.randn(2, 3, 2, 4, 8)
    each = query.expand(2, -1, 2, 4, -1)
    torch.testing.assert_close(network(query, context), network(each, context))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("channels", (8, 16)),
        ("num_analysis_blocks", (1, 2)),
        ("num_forecast_blocks", (1, 2)),
        ("num_cascade_levels", (1, 2)),
        ("num_afno_blocks", (2, 4)),
        ("num_heads", (1, 2)),
        ("head_channels", (4, 8)),
        ("drop_wide_modes", (False, True)),
    ],
)
def test_every_setting_runs_and_changes_the_network(name, values):
    z_past = torch.randn(2, 3, 1, 4, 8)
    made = []
    for value in values:
        torch.manual_seed(0)
        config = ConditionerConfig(**(TINY | {name: value}))
        network = AFNOConditioner(config, latent_channels=3)
        context = network(z_past)
        shapes = [(2, width, 5, 4 >> k, 8 >> k) for k, width in enumerate(config.context_channels)]
        assert [level.shape for level in context] == shapes
        made.append(([parameter.shape for parameter in network.parameters()], context[0]))
    (shapes, context), (other_shapes, other_context) = made
    assert shapes != other_shapes or not torch.equal(context, other_context)


@pytest.mark.parametrize("num_future", [2, 7])
@pytest.mark.parametrize("num_past", [1, 3])
def test_latent_frames_may_be_other_than_published(num_past, num_future):
    network = AFNOConditioner(ConditionerConfig(**TINY), 3, num_future)
    context = network(torch.randn(1, 3, num_past, 4, 12))
    assert [level.shape[2] for level in context] == [num_future] * 3


def test_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = AFNOConditioner()
    assert sum(p.numel() for p in network.parameters()) == 6_019_200


@pytest.mark.parametrize("size", [(6, 8), (8, 5)])
@pytest.mark.parametrize(("compression", "rain_multiple"), [(4, 16), (2, 8)])
def test_grid_that_cannot_be_halved_is_refused(size, compression, rain_multiple):
    network = AFNOConditioner(ConditionerConfig(**TINY), 3, frames_per_latent=compression)
    message = f"multiples of 4: rain of H and W multiples of {rain_multiple}$"
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 3, 1, *size))


def names_without_gradient(num_past_latent_frames: int) -> set[str]:
    network = AFNOConditioner(ConditionerConfig(**TINY), latent_channels=3)
    # Other values than at the start: zero biases would silence parts of the filter by themselves.
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    context = network(torch.randn(2, 3, num_past_latent_frames, 8, 8))
    sum((level * torch.randn_like(level)).sum() for level in context).backward()
    largest = {name: p.grad.abs().max().item() for name, p in network.named_parameters()}
    floor = 1e-6 * max(largest.values())  # the softmax's own rounding
    return {name for name, value in largest.items() if value <= floor}


def test_one_past_latent_frame_leaves_the_choice_among_keys_without_gradient():
    """The softmax over one key is 1, whatever the query."""
    expected = {"norm2.weight", "norm2.bias", "attn2.query.weight", "attn2.query.bias"}
    assert names_without_gradient(1) == {f"temporal_transformer.{name}" for name in expected}


def test_key_half_gets_no_gradient_from_one_key():
    transformer = TemporalTransformer(8, 2, 4)
    transformer(torch.randn(1, 5, 2, 2, 8), torch.randn(1, 1, 2, 2, 8)).square().sum().backward()
    of_key, of_value = transformer.attn2.key_value.weight.grad.chunk(2)
    assert of_key.abs().max() < 1e-6 * of_value.abs().max()


def test_more_past_latent_frames_train_every_parameter():
    assert names_without_gradient(2) == set()
