"""The prognosis: what lasted lasts, what did not fades, each in its place; its error is known."""

import pytest
import torch
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.motion import prognosis
from ldcast.motion.scales import POWER

SIZE, INNER = 96, slice(16, 80)
STILL = torch.zeros(2, SIZE, SIZE)


def noise(num: int, seed: int, smoothing: int = 1) -> Tensor:
    """(num, SIZE, SIZE), each its own, of deviation 1, means of `smoothing` pixels twice."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(num, 1, SIZE, SIZE, generator=generator)
    for _ in range(2):
        fields = nn.functional.avg_pool2d(fields, smoothing, stride=1, padding=smoothing // 2)
    return fields[:, 0] / fields.std()


def to_rain(field: Tensor) -> Tensor:
    """mm/h of (mm/h)^POWER, of which 4 and more deviations are above 0."""
    return (2 + 0.5 * field).clamp(min=0).pow(1 / POWER)


def autoregression(kept: float, num: int, seed: int) -> Tensor:
    """(num, SIZE, SIZE), stationary, of deviation 1; neighbouring fields correlate by `kept`."""
    fresh = noise(num, seed, smoothing=5)
    fields = [fresh[0]]
    for new in fresh[1:]:
        fields.append(kept * fields[-1] + (1 - kept**2) ** 0.5 * new)
    return torch.stack(fields)


def test_rain_that_lasted_lasts() -> None:
    newest = to_rain(noise(1, 0, smoothing=5)[0])
    found = prognosis(newest.expand(4, -1, -1), STILL, 20)
    assert found.rain_rate.shape == found.deviation.shape == (20, SIZE, SIZE)
    torch.testing.assert_close(found.rain_rate[0], newest, rtol=0.02, atol=0.02)
    assert (found.rain_rate[19] - newest).abs().mean() < 0.1 * newest.std()


@pytest.mark.core
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
def test_the_error_is_as_large_as_is_said(kept: float) -> None:
    """Of an autoregression of first order the best forecast and its error are known."""
    errors, said, shares = [], [], []
    for seed in range(8):
        fields = autoregression(kept, 9, seed)
        found = prognosis(to_rain(fields[:4]), STILL, 5)
        state = (found.rain_rate.pow(POWER) - 2) / 0.5
        errors.append(((state - fields[4:]) * 0.5)[:, INNER, INNER].square().mean((1, 2)))
        said.append(found.deviation[:, INNER, INNER].square().mean((1, 2)))
        shares.append((state[0] * fields[3]).mean() / fields[3].square().mean())
    error, said = (torch.stack(of).mean(0).sqrt() for of in (errors, said))
    best = 0.5 * (1 - kept ** (2 * torch.arange(1, 6))).sqrt()
    assert (error / best).max() < 1.12  # three frames know the correlations but roughly
    assert ((error / said).log().abs() < 0.2).all()
    assert torch.stack(shares).mean() == pytest.approx(kept, abs=0.06)


def test_each_place_fades_as_it_did_there() -> None:
    steady, fresh = noise(1, 1, smoothing=3)[0], noise(4, 2, smoothing=3)
    fields = steady.repeat(4, 1, 1)
    fields[:, :, SIZE // 2 :] = fresh[:, :, SIZE // 2 :]
    found = prognosis(to_rain(fields), STILL, 3)
    state = (found.rain_rate.pow(POWER) - 2) / 0.5
    left, right = slice(8, 24), slice(SIZE - 24, SIZE - 8)
    spread = fields[3, INNER].std()
    assert state[2, INNER, left].std() > 0.85 * spread
    assert state[2, INNER, right].std() < 0.3 * spread
    assert found.deviation[2, INNER, left].mean() < 0.4 * found.deviation[2, INNER, right].mean()


def test_small_scales_fade_before_large_ones() -> None:
    large = noise(1, 3, smoothing=25)[0]
    fields = large + noise(4, 4)  # new in each frame, in each pixel
    found = prognosis(to_rain(fields), STILL, 2)
    state = (found.rain_rate.pow(POWER) - 2) / 0.5
    before = (fields[3] - large)[INNER, INNER].std()
    assert (state[1] - large)[INNER, INNER].std() < 0.35 * before


@pytest.mark.core
@pytest.mark.parametrize("peaks", [(0.0, 1.0, 8.0, 40.0), (0.0, 0.2, 2.0, 10.0)])
def test_rain_that_grew_does_not_grow_on(peaks) -> None:
    """An autoregression of rain as it was would have 445 mm/h after the first after ten frames."""
    distance = torch.arange(SIZE).float() - SIZE / 2
    shower = torch.exp(-(distance.square() + distance[:, None].square()) / 72)
    past = torch.tensor(peaks)[:, None, None] * shower
    highest = prognosis(past, STILL, 20).rain_rate.amax((1, 2))
    assert highest.max() <= peaks[-1] * 1.001
    assert highest[0] > 0.9 * peaks[-1] > 0.4 * peaks[-1] > 0.1
    assert (highest.diff() < 1e-3).all()


def test_rain_is_compared_along_its_motion() -> None:
    whole = to_rain(noise(1, 5, smoothing=3)[0])
    past = torch.stack([whole.roll((2 * frame, -frame), (0, 1)) for frame in range(4)])
    along = torch.tensor([2.0, -1.0])[:, None, None].expand(2, SIZE, SIZE).contiguous()
    inner = (slice(None), INNER, INNER)
    moved, still = (prognosis(past, motion, 4).deviation[inner] for motion in (along, STILL))
    assert moved.mean() < 0.35 * still.mean()


def test_dry_stays_dry_and_no_data_stays_none() -> None:
    dry = prognosis(torch.zeros(4, SIZE, SIZE), STILL, 3)
    assert not dry.rain_rate.any() and not dry.deviation.any()
    past = to_rain(autoregression(0.9, 4, 6))
    whole = prognosis(past, STILL, 3)
    past[-1, 40:50, 30:60] = torch.nan
    past[:-1, 70, 70] = torch.nan
    holed = prognosis(past, STILL, 3)
    for values in holed:
        assert torch.equal(values.isnan(), past[-1:].isnan().expand_as(values))
    change = (holed.rain_rate - whole.rain_rate)[:, :, :8].abs().mean()  # far from the hole
    assert change < 0.03 * whole.rain_rate[:, :, :8].mean()


def test_what_lies_beyond_the_data_does_not_matter() -> None:
    past = to_rain(autoregression(0.8, 4, 7))
    padded = nn.functional.pad(past, (5, 12, 8, 3), value=torch.nan)
    wide = prognosis(padded, torch.zeros(2, *padded.shape[1:]), 3)
    for got, expected in zip(wide, prognosis(past, STILL, 3), strict=True):
        torch.testing.assert_close(got[:, 8:-3, 5:-12], expected, rtol=1e-4, atol=1e-4)


def test_older_frames_do_not_count_and_fewer_are_refused() -> None:
    past = to_rain(autoregression(0.8, 5, 8))
    assert torch.equal(prognosis(past, STILL, 2).rain_rate, prognosis(past[2:], STILL, 2).rain_rate)
    with pytest.raises(InputError, match="got 2 past frames, expected at least 3"):
        prognosis(past[3:], STILL, 2)
