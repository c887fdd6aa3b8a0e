"""Rain rates to model units and back: as published, the edges, and what is refused."""

import numpy as np
import pytest
import torch
from golden_arrays import assert_close, load

from ldcast.errors import InputError
from ldcast.rain import (
    RainScale,
    as_float32,
    from_model_units,
    is_wet,
    smooth,
    to_model_units,
    undo_transform,
    valid_mask,
)

pytestmark = pytest.mark.core

ARRAYS = load("forecast_e2e")
UNITS = load("units")
SCALE = RainScale()
NOT_SMOOTHED = RainScale(smoothing_sigma=0.0)
SQRT = RainScale(smoothing_sigma=0.0, transform="sqrt")
POWER = RainScale(smoothing_sigma=0.0, transform="power", exponent=0.4)
DRY = (-1.69897 + 0.051) / 0.528  # 0.02 mm/h


def normalised(*rates: float, scale: RainScale = NOT_SMOOTHED) -> list[float]:
    return to_model_units(torch.tensor([rates]), scale)[0].tolist()


# Here negative rain is an error; the published code takes it for dry, and so has some in its input.
@pytest.mark.parametrize(
    ("rain", "expected"), [("R_past", "transformed"), ("R_in64", "transformed_from_float64")]
)
def test_model_units_are_as_published(rain, expected):
    rain_rate = ARRAYS[rain].clamp(min=0)[None, None]
    assert_close(to_model_units(rain_rate, SCALE), ARRAYS[expected])


def test_rain_rates_are_as_published():
    """The last two values lie on the two limits, where rounding decides."""
    got = from_model_units(ARRAYS["inv_in"], SCALE)[:, 0]
    assert_close(got[..., :-2, :], ARRAYS["inv_out"][..., :-2, :])


def test_smoothing_is_as_published():
    assert_close(smooth(UNITS["aa.x"], 0.5), UNITS["aa.y"])


def test_known_values():
    assert normalised(1.0, 10.0, 0.0) == pytest.approx([0.051 / 0.528, 1.051 / 0.528, DRY])


def test_threshold_itself_is_wet():
    below, at = normalised(0.0999, 0.1)
    assert below == pytest.approx(DRY)
    assert at == pytest.approx((-1 + 0.051) / 0.528)


def test_no_data_becomes_dry_and_the_mask_keeps_where_it_was():
    rain_rate = torch.tensor([[1.0, torch.nan], [0.0, 2.0]])
    rain_norm = to_model_units(rain_rate, NOT_SMOOTHED)
    assert rain_norm[0, 1].item() == pytest.approx(DRY)
    assert valid_mask(rain_rate).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    "scale", [NOT_SMOOTHED, RainScale(0.2, 0.05, 0.3, 0.7, 0.0, 50.0), SQRT, POWER]
)
def test_wet_rain_survives_the_round_trip_and_the_rest_becomes_dry_or_the_limit(scale):
    limit = scale.max_rain_rate
    rain_rate = torch.tensor([[0.0, 0.05, 0.25, 1.0, 33.3, limit - 1, limit + 1, 400.0]])
    back = from_model_units(to_model_units(rain_rate, scale), scale)
    expected = torch.tensor([[0.0, 0.0, 0.25, 1.0, 33.3, limit - 1, limit, limit]])
    torch.testing.assert_close(back, expected)


@pytest.mark.parametrize(
    ("scale", "rain", "norm"), [(SQRT, [0.16, 25.0], [0.4, 5.0]), (POWER, [1.0, 32.0], [1.0, 4.0])]
)
def test_a_power_is_zero_where_it_is_dry(scale, rain, norm):
    rain_rate = torch.tensor([[0.09, *rain, torch.nan]])
    torch.testing.assert_close(to_model_units(rain_rate, scale), torch.tensor([[0.0, *norm, 0.0]]))
    rain_norm = torch.tensor([[-3.0, 0.3, *norm, torch.nan, 1e4]])
    expected = torch.tensor([[0.0, 0.0, *rain, torch.nan, 118.428]])
    torch.testing.assert_close(from_model_units(rain_norm, scale), expected, equal_nan=True)
    assert (scale.unit, SCALE.unit) == (1.0, 0.528)


@pytest.mark.parametrize("exponent", [0.2, 0.4, 1.0])
def test_gradients_of_a_power_are_finite_whatever_a_network_says(exponent):
    scale = RainScale(smoothing_sigma=0.0, transform="power", exponent=exponent)
    rain_norm = torch.tensor([-1e5, -1.0, 0.0, 0.5, 1.0, 30.0, 1e5], requires_grad=True)
    undo_transform(rain_norm, scale).sum().backward()
    assert rain_norm.grad.isfinite().all()
    assert rain_norm.grad[4].item() == pytest.approx(1 / exponent)
    wet = torch.tensor([[0.1, 0.2]])
    torch.testing.assert_close(from_model_units(to_model_units(wet, scale), scale), wet)


@pytest.mark.parametrize("exponent", [0.1, 1.5])
def test_exponents_that_no_rain_survives_are_refused(exponent):
    with pytest.raises(InputError, match=f"exponent: got {exponent}, expected 0.2"):
        RainScale(transform="power", exponent=exponent)


@pytest.mark.parametrize("transform", ["log", "sqrt"])
def test_an_exponent_without_a_power_is_refused(transform):
    with pytest.raises(InputError, match=f"got 0.3, which transform {transform} does not use"):
        RainScale(transform=transform, exponent=0.3)


def test_from_model_units_stays_finite_whatever_a_network_says():
    rain_rate = from_model_units(torch.tensor([-1e4, 1e4]), SCALE)
    assert rain_rate.tolist() == [0.0, pytest.approx(118.428)]


@pytest.mark.parametrize("name", ["wet_threshold", "dry_value", "log_mean", "log_std"])
def test_every_constant_of_the_scale_is_used(name):
    changed = RainScale(**{name: 2 * getattr(SCALE, name)})
    rain_rate = torch.tensor([[0.05, 0.15, 1.0, 7.0]])
    before, after = to_model_units(rain_rate, SCALE), to_model_units(rain_rate, changed)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(
    ("rain_rate", "message"),
    [
        (torch.tensor([[1, 2]]), "torch.int64, expected floating point"),
        (torch.tensor([[True]]), "torch.bool, expected floating point"),
        (torch.tensor([[1.0, torch.inf]]), "infinite rain"),
        (torch.tensor([[1.0, -torch.inf]]), "infinite rain"),
        (torch.tensor([[1.0, -32.0]]), "down to -32 mm/h"),
        (torch.tensor([[torch.nan, -0.002]]), "down to -0.002 mm/h"),
    ],
)
def test_what_is_not_rain_is_refused(rain_rate, message):
    with pytest.raises(InputError, match=message):
        to_model_units(rain_rate, SCALE)


def test_rounding_below_zero_and_empty_arrays_pass():
    assert normalised(-0.0009) == [pytest.approx(DRY)]
    assert to_model_units(torch.zeros(0, 4, 4), NOT_SMOOTHED).shape == (0, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_gives_float32(dtype):
    rain_rate = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype) * 10
    rain_norm = to_model_units(rain_rate, SCALE)
    assert rain_norm.dtype == torch.float32
    assert_close(rain_norm, to_model_units(rain_rate.float(), SCALE))
    assert from_model_units(rain_norm.to(dtype), SCALE).dtype == torch.float32


def test_mixed_precision_does_not_reach_the_rain():
    rain_rate = torch.rand(4, 9, 11, generator=torch.Generator().manual_seed(0)) * 50
    expected = to_model_units(rain_rate, SCALE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(to_model_units(rain_rate, SCALE), expected)


def test_float64_is_compared_in_float64():
    """As published: float32 would round this up to the threshold."""
    rain_rate = torch.tensor([[0.1 - 1e-12, 0.1]], dtype=torch.float64)
    dry, wet = to_model_units(rain_rate, NOT_SMOOTHED)[0].tolist()
    assert dry == pytest.approx(DRY) and wet > DRY + 1


def test_inputs_are_left_alone():
    rain_rate = torch.tensor([[torch.nan, 0.01], [500.0, 1.0]])
    rain_norm = to_model_units(rain_rate, SCALE)
    from_model_units(rain_norm, SCALE)
    expected = torch.tensor([[torch.nan, 0.01], [500.0, 1.0]])
    torch.testing.assert_close(rain_rate, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(rain_norm, to_model_units(rain_rate, SCALE))


def test_smoothing_spreads_a_pixel_and_makes_up_for_the_border():
    """Weights of a Gaussian of half a pixel; those beyond the border are made up for."""
    weight = torch.exp(-2.0 * torch.arange(-2.0, 3.0) ** 2)
    middle, side = (weight[2:4] / weight.sum()).tolist()
    inside_of_corner = (weight[2:].sum() / weight.sum()).item()

    field = torch.zeros(6, 9)
    field[3, 4] = 1.0
    smoothed = smooth(field, 0.5)
    assert smoothed[3, 4].item() == pytest.approx(middle**2)
    assert smoothed[3, 5].item() == pytest.approx(middle * side)
    assert smoothed[2, 5].item() == pytest.approx(side**2)

    field = torch.zeros(6, 9)
    field[0, 0] = 1.0
    assert smooth(field, 0.5)[0, 0].item() == pytest.approx((middle / inside_of_corner) ** 2)


def test_smoothing_keeps_a_constant_field_up_to_the_border():
    assert_close(smooth(torch.full((2, 3, 5, 8), 3.0), 0.5), torch.full((2, 3, 5, 8), 3.0), 1e-6)


def test_wider_smoothing_spreads_more_and_none_changes_nothing():
    field = torch.zeros(7, 7)
    field[3, 3] = 1.0
    assert smooth(field, 1.0)[3, 3] < smooth(field, 0.5)[3, 3] < 1.0
    assert torch.equal(smooth(field, 0.0), field)


def test_mixed_precision_leaves_the_transform_alone() -> None:
    rain_rate = 10 ** torch.randn(1, 1, 2, 12, 20)
    exact = to_model_units(rain_rate, RainScale())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(to_model_units(rain_rate, RainScale()), exact)


def test_a_tenth_stored_as_float16_is_wet():
    tenth = np.full((1, 4, 4), 0.1, dtype=np.float16)
    expected = to_model_units(torch.full((1, 4, 4), 0.1), RainScale())
    for same in (torch.from_numpy(tenth), torch.from_numpy(as_float32(tenth))):
        torch.testing.assert_close(to_model_units(same, RainScale()), expected, atol=1e-3, rtol=0)
    assert is_wet(tenth, 0.1).all()


def test_what_is_not_a_number_stays_so_on_the_way_back():
    rain_norm = torch.tensor([[torch.nan, 0.0]])
    assert torch.isnan(from_model_units(rain_norm, RainScale())).tolist() == [[True, False]]
