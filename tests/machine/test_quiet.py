"""What a package prints, warns of and seeds stays inside."""

import warnings

import numpy as np
import pytest

from ldcast.machine.quiet import contained


def test_prints_warnings_and_seeds_are_contained(capsys):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with warnings.catch_warnings(record=True) as seen, contained("noisy"):
        print("a page of text")
        warnings.warn_explicit("a singular matrix", RuntimeWarning, "noisy.py", 1, "noisy.sub")
        np.random.seed(3)  # noqa: NPY002
    assert capsys.readouterr().out == "" and not seen
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_warnings_of_others_and_errors_come_out():
    with pytest.warns(RuntimeWarning, match="ours"), contained("noisy"):
        warnings.warn_explicit("ours", RuntimeWarning, "ours.py", 1, "ours")
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(ValueError, match="broken"), contained("noisy"):
        np.random.seed(3)  # noqa: NPY002
        raise ValueError("broken")
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
