"""What a forecast is asked for: the members' noise, batches, lead times, windows."""

import numpy as np
import pytest
import torch

from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.nowcast.request import (
    MAX_WINDOW_PIXELS,
    MemberNoise,
    batches,
    check_window,
    count_frames,
    fitting,
)

SHAPE = (3, 5, 4, 6)


@pytest.mark.parametrize("round_", [0, 1])
def test_a_members_noise_is_bit_equal_in_any_part_of_the_ensemble(round_) -> None:
    whole = MemberNoise(SHAPE, seed=7).of(range(6), round_)
    part = MemberNoise(SHAPE, seed=7, first_member=4)
    assert torch.equal(part.of(range(2), round_), whole[4:])
    assert torch.equal(part.of(range(1, 2), round_), whole[5:])


def test_rounds_and_members_have_noise_of_their_own() -> None:
    noise = MemberNoise(SHAPE, seed=7)
    draws = torch.cat([noise.of(range(3), round_) for round_ in range(3)])
    for index in range(9):
        for other in range(index):
            assert not torch.equal(draws[index], draws[other])


def test_given_noise_is_handed_out_by_member_and_round() -> None:
    given = torch.randn(4, 3, 10, 4, 6)
    noise = MemberNoise(SHAPE, seed=0, given=given)
    noise.check_given(num_members=4, num_rounds=2)
    assert torch.equal(noise.of(range(1, 3), 1), given[1:3, :, 5:])
    with pytest.raises(InputError, match=r"expected finite numbers of shape \(4, 3, 5, 4, 6\)"):
        noise.check_given(num_members=4, num_rounds=1)
    given[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="finite"):
        noise.check_given(num_members=4, num_rounds=2)


@pytest.mark.parametrize(
    ("num", "at_most", "expected"),
    [(5, 2, [1, 2, 2]), (9, 8, [4, 5]), (20, 8, [6, 7, 7]), (16, 8, [8, 8]), (3, 1, [1, 1, 1])],
)
def test_batches_hold_every_member_once_in_order_and_leave_none_alone(num, at_most, expected):
    found = batches(num, at_most)
    assert [len(batch) for batch in found] == expected
    assert [member for batch in found for member in batch] == list(range(num))


def test_fewer_large_fields_fit_into_a_batch() -> None:
    sizes = ((64, 64), (256, 256), (512, 512), (640, 710), (1440, 1856))
    assert [fitting(*size) for size in sizes] == [8, 8, 4, 2, 1]
    windows = [fitting(size, size, MAX_WINDOW_PIXELS) for size in (128, 256, 512, 1024)]
    assert windows == [8, 4, 1, 1]


def test_frames_of_a_lead_time() -> None:
    assert [count_frames(minutes, FrameConfig()) for minutes in (5, 100, 200)] == [1, 20, 40]
    assert count_frames(np.uint8(200), FrameConfig()) == 40
    for wrong in (0, -5, 7, 2.5, True):
        with pytest.raises(InputError, match=f"got {wrong} minutes"):
            count_frames(wrong, FrameConfig())


def test_windows_are_multiples_that_leave_room_for_an_overlap() -> None:
    assert check_window(np.uint8(64), 16) == 64
    for wrong in (0, 48, 65):
        with pytest.raises(InputError, match=f"got (windows of )?{wrong}"):
            check_window(wrong, 16)
