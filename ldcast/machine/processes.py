"""The processes that train or forecast together: one, or those that `torchrun` started.

Every process holds the whole networks and computes its share of each global batch, or of the
members; rank 0 alone writes. Gradients are summed by DistributedDataParallel, the rest is joined
by `Processes`.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ldcast.errors import InputError

# A process that dies breaks its connections or is noticed by torchrun at once. This limit is for
# one that hangs: longer than any checkpoint takes to be written.
TIMEOUT = timedelta(minutes=10)
# A thread of Gloo lets go of the last tensors under Python's lock. Whoever frees the last reference
# to the group, such as DistributedDataParallel, may hold that lock and waits for the thread: for
# ever, within ten of such ends on two busy cores, and never in a thousand after this pause.
LAST_SECONDS = 0.1


def summing_gradients(trained: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Around the passes of a micro-batch: of several processes, gradients are summed once.

    trained: the networks, in DistributedDataParallel where there are several processes.
    is_last: whether it is the last micro-batch of a batch, after which they are summed.
    """
    if is_last or not isinstance(trained, DistributedDataParallel):
        return contextlib.nullcontext()
    return trained.no_sync()


@dataclass(frozen=True)
class Processes:
    """This process among those that work together.

    rank: 0 .. num - 1. device: where this process computes.
    """

    rank: int
    num: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, num_items: int) -> range:
        """Which of `num_items` items this process computes; together they compute each once."""
        return range(self.rank, num_items, self.num)

    def block(self, num_items: int, rank: int | None = None) -> range:
        """Which of `num_items` items this process (or another) computes, where order matters.

        Blocks follow one another by rank and differ by at most one item.
        """
        rank = self.rank if rank is None else rank
        return range(num_items * rank // self.num, num_items * (rank + 1) // self.num)

    def collect(self, values: Tensor, num_items: int) -> Tensor | None:
        """On rank 0 all items (num_items, ...) in order, on the CPU; None on the others.

        values: the items of this process's `block`, of one shape and type everywhere.
        """
        if self.num == 1:
            return values.cpu()
        if not self.is_main:
            for value in values:
                distributed.send(value.contiguous().to(self.device), dst=0)
            return None
        items = values.new_empty((num_items, *values.shape[1:]), device="cpu")
        items[: len(values)] = values
        arriving = torch.empty_like(values[0], device=self.device)
        for rank in range(1, self.num):
            for index in self.block(num_items, rank):
                distributed.recv(arriving, src=rank)
                items[index] = arriving
        return items

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, on this process's device; a new tensor."""
        values = values.to(self.device, copy=True)
        if self.num > 1:
            distributed.all_reduce(values)
        return values

    def any(self, is_so: bool) -> bool:
        """Whether it is so in any of the processes."""
        return self.sum(torch.tensor(float(is_so))).item() > 0 if self.num > 1 else is_so

    def gather(self, items: dict[Any, Any]) -> dict[Any, Any]:
        """The tables of all processes in one."""
        tables = [items]
        if self.num > 1:
            tables = [{} for _ in range(self.num)]
            distributed.all_gather_object(tables, items)
        return {key: item for table in tables for key, item in table.items()}

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Where the block raises what the user can fix in one process, it ends in all of them.

        Raises that process's own error there, and InputError in the others.
        """
        error = None
        try:
            yield
        except (InputError, OSError) as raised:
            error = raised
        failed = self.gather({self.rank: error is not None})
        if error is not None:
            raise error
        if any(failed.values()):
            ranks = ", ".join(str(rank) for rank, is_so in failed.items() if is_so)
            raise InputError(f"stopped because of the error of rank {ranks}")

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.num > 1:
            distributed.barrier()


def process_device(device: torch.device) -> torch.device:
    """The device of this process: of several on one machine, each has a GPU of its own.

    Raises InputError where there are fewer GPUs than processes.
    """
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    local_rank, num_local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if num_local == 1:
        return device
    if device.index is not None or num_local > torch.cuda.device_count():
        raise InputError(
            f"got {num_local} processes for {device} and {torch.cuda.device_count()} GPUs: give "
            "--device cuda and at most one process for each GPU"
        )
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def join_processes(device: torch.device, timeout: timedelta = TIMEOUT) -> Iterator[Processes]:
    """Joins the processes that `torchrun` started; without it, this process is the only one.

    device: of this process, from `process_device`; NCCL joins GPUs, Gloo joins CPUs.
    timeout: how long one may wait for another.
    """
    num = int(os.environ.get("WORLD_SIZE", "1"))
    if num == 1:
        yield Processes(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    yield Processes(distributed.get_rank(), num, device)
    # After a good end only: a failed rank waits for nobody.
    time.sleep(LAST_SECONDS)
    distributed.destroy_process_group()
