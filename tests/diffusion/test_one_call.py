"""One call: which diffusion step it asks for, what it gives back, and that it stays one call."""

import math

import pytest
import torch
from gaussian_data import SHAPE, normal, of_gaussian

from ldcast.diffusion import NoiseSchedule
from ldcast.diffusion.one_call import OneCallSampler
from ldcast.diffusion.registry import build_sampler
from ldcast.errors import InputError

pytestmark = pytest.mark.core


@pytest.mark.parametrize("log_snr", [-1.0, 0.5, 2.0])
def test_it_asks_once_at_the_step_of_that_signal_and_noise(log_snr) -> None:
    schedule, asked = NoiseSchedule.cosine(), []
    sampler = OneCallSampler(schedule, log_snr=log_snr)
    sampler(of_gaussian(schedule, 1.0, asked), normal())
    assert len(asked) == sampler.num_denoiser_calls == 1
    assert schedule.log_snr[asked[0]] / math.log(10) == pytest.approx(log_snr, abs=0.01)


def test_members_differ_by_what_the_denoiser_takes_for_signal() -> None:
    """Of standard normal latents and SNR 10^0.5, the share of signal in the deviation, 0.8716."""
    schedule = NoiseSchedule.cosine()
    z = OneCallSampler(schedule)(of_gaussian(schedule, 1.0), normal())
    torch.testing.assert_close(z, 0.8716 * normal(), rtol=2e-3, atol=0)


def test_larger_noise_makes_members_differ_more() -> None:
    schedule = NoiseSchedule.cosine()
    usual, wider = (
        OneCallSampler(schedule, noise_scale=scale)(of_gaussian(schedule, 1.0), normal())
        for scale in (1.0, 1.25)
    )
    torch.testing.assert_close(wider, 1.25 * usual)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_noise_of_impossible_size_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match=r"got noise_scale .*, expected more than 0"):
        build_sampler("one_call", NoiseSchedule.cosine(), 1, {"noise_scale": scale})


def test_other_numbers_of_steps_are_refused() -> None:
    with pytest.raises(InputError, match="got 20 sampling steps, expected 1: this model was"):
        build_sampler("one_call", NoiseSchedule.cosine(), 20)


@pytest.mark.parametrize("log_snr", [99.0, -50.0, math.nan])
def test_a_signal_that_the_schedule_does_not_have_is_refused(log_snr) -> None:
    with pytest.raises(InputError, match=r"expected a number from -8\.61 to 4\.38"):
        build_sampler("one_call", NoiseSchedule.cosine(), 1, {"log_snr": log_snr})


def test_the_step_of_each_example_is_the_same() -> None:
    steps = []

    def denoise(z_noisy, step):
        steps.append(step)
        return of_gaussian(NoiseSchedule.cosine(), 1.0)(z_noisy, step)

    OneCallSampler(NoiseSchedule.cosine())(denoise, normal())
    assert steps[0].shape == SHAPE[:1] and len(set(steps[0].tolist())) == 1
