"""Keyed randomness: a draw depends on its key alone, never on what was drawn before.

The key of a training draw is (seed, stream, attempt, iteration, index of the example in the global
batch), the key of a forecast's noise (seed, stream, member). So a resumed run equals an unbroken
one, two processes equal one, and a run that is rolled back does not meet the same draws again.
"""

import operator
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ldcast.errors import InputError

# One number per purpose, second in the key: draws of the same (seed, iteration, index) for two
# purposes are then independent. Changing a number changes every run; append new ones.
STREAM_CROP = 0  # which window of which event, and how it is flipped
STREAM_NOISE = 1  # diffusion step and noise of a training example
STREAM_LATENT = 2  # the autoencoder's draw from its latent distribution
STREAM_MEMBER = 3  # initial noise of an ensemble member
STREAM_VALIDATION = 4  # the fixed validation set: windows, diffusion steps and noise
STREAM_CASE = 5  # the cases that verification scores, and the seeds of their forecasts
STREAM_TIES = 6  # the ranks of observations that equal members
STREAM_EVENTS = 7  # which events a bootstrap draws again
STREAM_SAMPLER = 8  # what a stochastic sampler draws for an ensemble member
STREAM_POOL = 9  # which example of a pool is trained on
STREAM_SHOWN = 10  # windows that describe what a picker draws

KEY_LIMIT = 2**64


def keyed_rng(*key: int) -> np.random.Generator:
    """NumPy generator (Philox) for one key.

    key: integers in 0..2**64-1, at least one; keys of different length never share a generator.
    Raises InputError for anything else.
    """
    return np.random.Generator(np.random.Philox(_seed_sequence(key)))


def keyed_generator(*key: int) -> torch.Generator:
    """PyTorch CPU generator for one key; same keys and errors as `keyed_rng`.

    PyTorch's CPU generator keeps only the low 32 bits of its seed, so two keys share a stream
    with a chance of 2**-32 per pair: harmless for noise, but do not count on distinctness.
    """
    seed = _seed_sequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)  # 63 bits
    return torch.Generator().manual_seed(int(seed))


def keyed_generators(*key: int, indices: Iterable[int]) -> list[torch.Generator]:
    """One `keyed_generator(*key, index)` per index, as the examples of a batch need."""
    return [keyed_generator(*key, index) for index in indices]


def draw_noise(
    shape: Sequence[int],
    generators: Sequence[torch.Generator] | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise (B, ...) float32 on `device`.

    generators: B CPU generators; example b is drawn by the b-th alone, so it is the same in any
        batch and on any device. None draws all from the global generator of `device`.
    """
    if generators is None:
        return torch.randn(tuple(shape), device=device)
    assert len(generators) == shape[0], (len(generators), shape)
    noise = [torch.randn(tuple(shape[1:]), generator=generator) for generator in generators]
    return torch.stack(noise).to(device)


def _seed_sequence(key: tuple[int, ...]) -> np.random.SeedSequence:
    # SeedSequence pads with zeros ([1] equals [1, 0]) and splits large integers into 32-bit words
    # ([2**32] equals [0, 1]). The length and two words for each integer make the entropy unique.
    words = [len(key)]
    for number in _checked(key):
        words += [number & 0xFFFFFFFF, number >> 32]
    return np.random.SeedSequence(words)


def _checked(key: tuple[int, ...]) -> list[int]:
    numbers = [_index(number) for number in key]
    if not numbers or None in numbers:
        is_seed_wrong = numbers and numbers[0] is None
        what = f"got seed {key[0]!r}" if is_seed_wrong else f"random key {key}"
        raise InputError(
            f"{what}: expected one of the integers from 0 to 2**64 - 1; use a seed that is not "
            "negative"
        )
    return numbers


def _index(number: int) -> int | None:
    """An integer of any type as int; None of what cannot be in a key."""
    try:
        index = operator.index(number)
    except TypeError:
        return None
    return index if 0 <= index < KEY_LIMIT else None
