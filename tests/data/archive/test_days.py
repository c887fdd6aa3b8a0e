"""Which days of archives train, validate and test."""

import numpy as np
import pytest

from ldcast.data.archive.days import (
    DaySplit,
    check_days_apart,
    is_of_part,
    part_name,
)
from ldcast.errors import InputError

DAYS = np.arange(np.datetime64("2010-01-01"), np.datetime64("2020-01-01"))


def test_shares_are_kept_and_lie_evenly():
    part = DaySplit((0.8, 0.1, 0.1)).part_of(DAYS)
    np.testing.assert_allclose(np.bincount(part) / len(DAYS), [0.8, 0.1, 0.1], atol=0.002)
    for index in (1, 2):
        gaps = np.diff(np.flatnonzero(part == index))
        assert set(gaps) <= {5, 8, 13, 21}  # never two days in a row, nor a month without one


def test_a_day_keeps_its_part_whatever_else_there_is():
    split = DaySplit()
    times = np.datetime64("2015-03-04T23:55", "s") + np.arange(2) * np.timedelta64(300, "s")
    late, early = split.part_of(times)
    assert late == split.part_of(DAYS)[np.flatnonzero(times[0].astype("M8[D]") == DAYS)[0]]
    assert early == split.part_of(times[1:])[0]


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.2), (1.1, -0.1, 0.0)])
def test_other_shares_are_refused(shares):
    with pytest.raises(InputError, match=r"expected three shares.*0\.8 0\.1 0\.1"):
        DaySplit(shares)


def test_a_name_stands_for_its_days():
    split = DaySplit((0.6, 0.2, 0.2))
    name = part_name("radar@2010-01-01T00:00/2011-01-01T00:00", "validation", split)
    assert (is_of_part(name, DAYS) == (split.part_of(DAYS) == 1)).all()
    assert is_of_part("radar", DAYS).all()


def test_archives_that_share_a_day_are_refused():
    evening = [np.datetime64("2020-06-01T20:00", "s")]
    morning = [np.datetime64("2020-06-01T02:00", "s")]
    with pytest.raises(InputError, match="share 1 days of archives, from 2020-06-01"):
        check_days_apart([np.array(morning)], [np.array(evening)])
    check_days_apart([np.array(morning)], [])
