"""Keeps test runs from fighting for cores."""

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # tensors are tiny: more threads only wait for one another
