"""Undoes side effects of importing a package: output, warnings, random seeds."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np


@contextlib.contextmanager
def contained(package: str) -> Iterator[None]:
    """Drops what is printed in the block and what `package` warns of, and puts NumPy's seed back.

    For pysteps, which prints on import and while it works, warns of singular matrices and divisions
    by zero that its callers deal with, and sets a global seed.
    """
    random_state = np.random.get_state()  # noqa: NPY002 - only to put it back
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=package)
            yield
    finally:
        np.random.set_state(random_state)  # noqa: NPY002


def import_contained(name: str) -> ModuleType:
    """The module `name`, imported without what its package prints, warns of and seeds then.

    The one way in which pysteps is imported: it prints where its configuration lies.
    """
    with contained(name.partition(".")[0]):
        return importlib.import_module(name)
