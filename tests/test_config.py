"""The presets, and the learning rate as a function of the iteration alone."""

import json

import pytest

from ldcast.config import (
    AUTOENCODER_PRESETS,
    DIFFUSION_PRESETS,
    AutoencoderTraining,
    DataConfig,
    DiffusionConfig,
    DiffusionTraining,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
)
from ldcast.errors import InputError
from ldcast.models import ConditionerConfig, DenoiserConfig
from ldcast.settings import from_dict, leaves, to_dict

pytestmark = pytest.mark.core

PRESETS = ["tiny", "small", "paper", "paper_256"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    for cls, presets in (
        (AutoencoderTraining, AUTOENCODER_PRESETS),
        (DiffusionTraining, DIFFUSION_PRESETS),
    ):
        settings = presets[name]
        assert from_dict(cls, json.loads(json.dumps(to_dict(settings)))) == settings


def test_both_stages_have_the_same_presets():
    assert list(AUTOENCODER_PRESETS) == list(DIFFUSION_PRESETS) == PRESETS


@pytest.mark.parametrize("cls", [AutoencoderTraining, DiffusionTraining, ModelConfig])
def test_every_leaf_has_a_default_and_a_help_text(cls):
    for leaf in leaves(cls()):
        assert leaf.text, leaf.name
        assert leaf.value is not None, leaf.name


def test_published_sizes_are_the_defaults():
    config = ModelConfig()
    assert (config.autoencoder.channels, config.autoencoder.latent_channels) == (64, 32)
    assert config.conditioner.context_channels == (128, 256, 512)
    assert config.denoiser.level_channels == (256, 512, 1024)
    assert config.denoiser.step_channels == 1024
    assert config.diffusion.num_sampling_steps == 50


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (DataConfig, {"judged_by": "future"}, "expected one of all, past"),
        (
            AutoencoderTraining,
            {"data": DataConfig(judged_by="past")},
            "got past for an autoencoder, whose crops have no past, expected all",
        ),
        (DataConfig, {"crop_picker": "best"}, "expected one of uniform, wet, equal_frequency"),
        (DataConfig, {"crop_motion": -1}, "crop_motion: got -1, expected 0 or more"),
        (DataConfig, {"rain_factor_db": -0.5}, "rain_factor_db: got -0.5, expected 0 or more"),
        (DataConfig, {"rain_factor_db": 6.0}, "rain_factor_db: got 6, expected up to 3"),
        (LoopConfig, {"batch_size": 6, "num_micro_batches": 4}, "expected a divisor of the batch"),
        (DiffusionConfig, {"prediction": "z"}, "expected one of noise, v"),
        (DenoiserConfig, {"channel_multipliers": ()}, "expected one for each level"),
        (DenoiserConfig, {"attention_levels": (0, 7)}, "expected levels below 3"),
        (ConditionerConfig, {"channels": 9}, "expected an even number"),
        (OptimizerConfig, {"betas": (0.9,)}, "expected two numbers below 1"),
        (OptimizerConfig, {"betas": (0.9, 1.0)}, "expected two numbers below 1"),
        (DiffusionConfig, {"schedule": "linear"}, "expected one of sqrt_linear, cosine"),
        (DiffusionConfig, {"sampler": "rk4"}, "unknown sampler rk4: known are plms"),
        (DiffusionConfig, {"channel_sizes": "natural"}, "natural with prediction noise"),
        (
            DiffusionConfig,
            {"channel_sizes": "natural", "prediction": "v", "schedule": "straight"},
            "on the schedule straight, expected prediction v on a schedule that preserves variance",
        ),
        (OptimizerConfig, {"lr": -1e-4}, "lr: got -0.0001, expected 0 or more"),
    ],
)
def test_impossible_settings_are_refused(cls, values, message):
    with pytest.raises(InputError, match=message):
        cls(**values)


@pytest.mark.parametrize(
    ("multiple", "fit"), [(16, "a multiple of 16, as the networks need: 32 or 48"), (64, ": 64")]
)
def test_crops_that_the_networks_do_not_take_are_refused(multiple, fit):
    with pytest.raises(InputError, match=f"crop_size: got 40, expected .*{fit}$"):
        DataConfig(crop_size=40).check_crop_size(multiple)
    DataConfig(crop_size=40).check_crop_size(8)


def test_micro_batches_that_divide_the_batch_pass():
    assert LoopConfig(batch_size=6, num_micro_batches=3).num_micro_batches == 3


def test_learning_rate_rises_linearly_stays_and_falls_with_the_root():
    optimizer = OptimizerConfig(lr=0.8, warmup_iterations=4, decay_after=100)
    rates = [optimizer.lr_at(iteration, [200, 400]) for iteration in range(400)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates[4:100] == pytest.approx([0.8] * 96)
    assert rates[399] == pytest.approx(0.8 / 2)  # four times as late, half the rate
    assert rates[99:] == sorted(rates[99:], reverse=True)


def test_learning_rate_without_warm_up_starts_at_the_top():
    assert OptimizerConfig(lr=0.5, warmup_iterations=0).lr_at(0, [10]) == 0.5


def test_a_cosine_ends_near_zero_and_rises_anew_in_each_phase():
    optimizer = OptimizerConfig(lr=0.8, warmup_iterations=2, lr_curve="cosine")
    rates = [optimizer.lr_at(iteration, [100, 160]) for iteration in range(160)]
    assert rates[0] == pytest.approx(0.4) and rates[1] == pytest.approx(0.8, rel=1e-3)
    assert rates[50] == pytest.approx(0.4) and rates[25] == pytest.approx(0.4 + 0.4 * 2**-0.5)
    assert rates[99] < 0.001 and rates[159] < 0.001
    assert rates[100] == pytest.approx(0.4) and rates[130] == pytest.approx(0.4)
    assert rates[1:100] == sorted(rates[1:100], reverse=True)
    # An extended run repeats what it did before.
    assert rates[:100] == [optimizer.lr_at(iteration, [100]) for iteration in range(100)]
    assert optimizer.lr_at(100, [100]) == 0  # asked for at the end, though no update follows
