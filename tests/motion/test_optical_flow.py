"""The refined motion: known motions are found from any first guess, and gaps do not mislead."""

import math

import pytest
import torch
from torch import Tensor, nn

from ldcast.motion import carry, motion_field, motion_of_known, refine_motion

SIZE = 128


def texture(size: int) -> Tensor:
    """Rain (size, size) mm/h with structure of some 10 pixels, wet in most places."""
    noise = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(5))
    for _ in range(3):
        noise = nn.functional.avg_pool2d(noise, 7, stride=1, padding=3)
    return (10 ** (1.5 * noise[0, 0] / noise.std())).clamp(max=50)


def frames_of(motion: tuple[Tensor, Tensor], turn: float = 0.0, num: int = 4) -> Tensor:
    """Rain (num, SIZE, SIZE) that moves by `motion` (down, right) pixels a frame, and turns by
    `turn` rad a frame around the centre."""
    whole = texture(2 * SIZE)
    line = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    frames = []
    for frame in range(num):
        y_from, x_from = y - frame * motion[0], x - frame * motion[1]
        cosine, sine = math.cos(frame * turn), math.sin(frame * turn)
        y_from, x_from = cosine * y_from - sine * x_from, sine * y_from + cosine * x_from
        grid = torch.stack([x_from, y_from], dim=-1)[None] / (SIZE - 0.5)
        frames.append(nn.functional.grid_sample(whole[None, None], grid, align_corners=True)[0, 0])
    return torch.stack(frames)


def field(down: float, right: float) -> Tensor:
    return torch.tensor([down, right])[:, None, None].expand(2, SIZE, SIZE).contiguous()


def error(got: Tensor, expected: Tensor, border: int = 16) -> float:
    """Mean length of the difference inside the border, pixels per frame."""
    inner = slice(border, -border)
    return (got - expected)[:, inner, inner].norm(dim=0).mean().item()


@pytest.mark.parametrize("guess", [(1.0, -2.0), (2.2, -1.0), (0.0, -3.0)])
def test_a_motion_is_found_from_a_guess_that_is_off(guess) -> None:
    rain_rate = frames_of((1.0, -2.0))
    truth = field(1.0, -2.0)
    allowed = 0.08 + 0.15 * error(field(*guess), truth)  # the guess keeps some of its weight
    assert error(refine_motion(rain_rate, field(*guess)), truth) < allowed


def test_rain_that_turns_is_followed_where_one_vector_cannot() -> None:
    turn = 0.02
    rain_rate = frames_of((0.5, 1.0), turn)
    guess = motion_field(rain_rate)
    later = carry(rain_rate[-1], refine_motion(rain_rate, guess), 1)
    plain = carry(rain_rate[-1], guess, 1)
    truth = frames_of((0.5, 1.0), turn, num=5)[-1]
    inner = (slice(16, -16), slice(16, -16))
    errors = [(got - truth)[inner].abs().nanmean().item() for got in (later, plain)]
    assert errors[0] < 0.35 * errors[1], errors


def test_what_cannot_be_followed_keeps_the_guess() -> None:
    guess = field(1.5, -0.5)
    for nothing in (torch.zeros(4, SIZE, SIZE), torch.full((4, SIZE, SIZE), torch.nan)):
        torch.testing.assert_close(refine_motion(nothing, guess), guess, rtol=0, atol=1e-4)


def test_pixels_that_come_and_go_do_not_mislead() -> None:
    rain_rate = frames_of((1.0, -2.0))
    rain_rate[:, :, :24] = torch.nan  # an edge that stays where it is
    rain_rate[1, 60:90] = torch.nan  # an outage
    refined = refine_motion(rain_rate, field(1.6, -1.4))
    assert error(refined[..., 24:], field(1.0, -2.0)[..., 24:]) < 0.15
    assert torch.isfinite(refined).all()


def test_fields_of_any_size_have_a_motion_everywhere() -> None:
    rain_rate = frames_of((1.0, -2.0))[:, :67, :50]
    refined = refine_motion(rain_rate, torch.zeros(2, 67, 50))
    assert refined.shape == (2, 67, 50) and torch.isfinite(refined).all()


@pytest.mark.parametrize("size", [(1, 64), (64, 1), (1, 1)])
def test_one_line_of_pixels_has_a_motion_too(size: tuple[int, int]) -> None:
    rain_rate = torch.rand(4, *size, generator=torch.Generator().manual_seed(0))
    motion = motion_of_known(rain_rate, 5)
    assert motion.shape == (2, *size) and motion.isfinite().all()
