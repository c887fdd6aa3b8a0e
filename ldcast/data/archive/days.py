"""Which days train, validate and test: whole days of UTC, by a rule of the calendar alone.

The days since 1970-01-01 times the golden ratio's inverse, without the whole part, lie evenly
between 0 and 1 and so do any few of them in a row. Below the first share a day is for training,
below the sum of the first two for validation, else for testing. So the part of a day does not
depend on what else an archive holds: new days move no old one, and all archives agree.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldcast.errors import InputError

PARTS = TRAINING, VALIDATION, TEST = ("training", "validation", "test")
RULE = (
    "whole days of UTC, by the fractional part of (days since 1970-01-01) x 0.618034: below the "
    "first share training, below the sum of two validation, else test"
)
_INVERSE_GOLDEN = (5**0.5 - 1) / 2
_NAME = re.compile(rf"(?P<name>[^#]*)#(?P<part>{'|'.join(PARTS)}):(?P<shares>[\d.]+,[\d.]+,[\d.]+)")


@dataclass(frozen=True)
class DaySplit:
    """Shares of the days that train, validate and test; their sum is 1.

    Raises InputError for other numbers.
    """

    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise InputError(
                f"got --split-days {' '.join(map(str, self.shares))}, expected three shares, of "
                "days for training, validation and testing, whose sum is 1, such as 0.8 0.1 0.1"
            )

    def part_of(self, time: np.ndarray) -> np.ndarray:
        """(T,) int: the index in `PARTS` of the day of each time (T,) datetime64."""
        days = time.astype("datetime64[D]").astype(np.int64)
        place = (days * _INVERSE_GOLDEN) % 1
        first, second, _ = np.cumsum(self.shares)
        return (place >= first).astype(int) + (place >= second)

    def describe(self) -> str:
        return ",".join(f"{share:g}" for share in self.shares)


def part_name(name: str, part: str, split: DaySplit) -> str:
    """The name of the part of an archive's days, or of a span of it."""
    return f"{name}#{part}:{split.describe()}"


def is_of_part(name: str, time: np.ndarray) -> np.ndarray:
    """(T,) bool: whether times are of the days that a name stands for; True without a part."""
    found = _NAME.fullmatch(name)
    if not found:
        return np.ones(len(time), bool)
    split = DaySplit(tuple(float(share) for share in found["shares"].split(",")))
    return split.part_of(time) == PARTS.index(found["part"])


def name_without_part(name: str) -> str:
    return name.partition("#")[0]


def check_days_apart(train: Sequence[np.ndarray], validation: Sequence[np.ndarray]) -> None:
    """Raises InputError where archives' times (T,) for training and validation share a day."""
    if not train or not validation:
        return
    days = [np.unique(np.concatenate(of).astype("datetime64[D]")) for of in (train, validation)]
    shared = np.intersect1d(*days)
    if len(shared):
        raise InputError(
            f"training and validation share {len(shared)} days of archives, from {shared[0]} to "
            f"{shared[-1]}: expected none; choose spans of whole days, or --split-days"
        )
