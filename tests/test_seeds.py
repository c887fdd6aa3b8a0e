"""Keyed randomness: the key alone decides, and no two keys collide by padding or splitting."""

import pytest
import torch

from ldcast import seeds
from ldcast.errors import InputError
from ldcast.seeds import draw_noise, keyed_generator, keyed_rng

pytestmark = pytest.mark.core


def first_draw(*key: int) -> int:
    return int(keyed_rng(*key).integers(2**62))


def test_same_key_gives_the_same_draws_whatever_was_drawn_before():
    expected = keyed_rng(1, 2, 3).random(5)
    keyed_rng(4).random(100)
    torch.rand(3)
    assert (keyed_rng(1, 2, 3).random(5) == expected).all()
    first, second = (torch.randn(4, generator=keyed_generator(1, 2)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1,), (1, 0)),  # SeedSequence pads with zeros
        ((0,), (0, 0)),
        ((2**32,), (0, 1)),  # and splits at 32 bits
        ((7, 1 + 5 * 2**32), (7, 1, 5)),
        ((1 + 2**32, 5), (1, 1 + 5 * 2**32)),
        ((1, 2), (2, 1)),
        ((0, 3), (0, 4)),
    ],
)
def test_different_keys_draw_differently(one, other):
    assert first_draw(*one) != first_draw(*other)
    assert keyed_generator(*one).initial_seed() != keyed_generator(*other).initial_seed()


def test_known_draws_stay_as_they_are():
    """A change here would change every run that is resumed with new code."""
    assert first_draw(0, seeds.STREAM_CROP, 1, 2) == 1630473800216232143
    assert keyed_generator(0, seeds.STREAM_MEMBER, 7).initial_seed() == 7993008206185560066


def test_streams_are_distinct():
    streams = [number for name, number in vars(seeds).items() if name.startswith("STREAM_")]
    assert len(streams) == len(set(streams)) >= 4


@pytest.mark.parametrize("key", [(), (-1,), (0, -1), (1.5,), ("1",), (2**64,)])
def test_other_keys_are_refused(key):
    with pytest.raises(InputError, match="integers from 0"):
        keyed_rng(*key)
    with pytest.raises(InputError, match="integers from 0"):
        keyed_generator(*key)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, None, "1"])
def test_a_wrong_seed_is_named_alone(seed):
    with pytest.raises(InputError, match=rf"^got seed {seed!r}: expected .* from 0 to 2\*\*64 - 1"):
        keyed_rng(seed, seeds.STREAM_MEMBER, 7)


def test_generator_uses_63_bits():
    drawn = [keyed_generator(index).initial_seed() for index in range(64)]
    assert 2**62 < max(drawn) < 2**63


def test_noise_of_an_example_does_not_depend_on_its_batch():
    batch = draw_noise((3, 2, 5, 4), [keyed_generator(member) for member in range(3)])
    alone = draw_noise((1, 2, 5, 4), [keyed_generator(2)])
    assert batch.shape == (3, 2, 5, 4) and batch.dtype == torch.float32
    assert torch.equal(batch[2], alone[0])
    assert not torch.equal(batch[0], batch[1])


def test_noise_without_generators_comes_from_the_global_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = torch.randn(2, 3)
        torch.manual_seed(3)
        assert torch.equal(draw_noise((2, 3)), expected)
