"""How many threads PyTorch computes with."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, as before afterwards.

    For many small steps: where other processes want the cores too, threads that wait for each other
    took ten times as long as one thread (25 s, not 2.5 s, of synthetic rain); alone they gain
    little.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
