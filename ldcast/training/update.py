"""The figures of one update of the weights, and whether it is made or skipped."""

import time

import torch
from torch import Tensor

from ldcast.machine.processes import Processes
from ldcast.training.checkpoint import TrainState
from ldcast.training.guard import find_problem


class Update:
    """The figures of one update, of all processes; the clock runs from here on.

    num_micro_batches: of each process.
    """

    def __init__(self, num_micro_batches: int, processes: Processes) -> None:
        self._start = time.perf_counter()
        self._num_shares, self._processes = num_micro_batches * processes.num, processes
        self._totals = torch.zeros(3, device=processes.device)  # loss, wet share, impossible pixels

    def add(self, loss: Tensor, wet_share: Tensor, num_impossible: Tensor) -> None:
        """Adds a micro-batch: its part of the batch's loss, and its pixels; scalars."""
        share = wet_share / self._num_shares
        self._totals += torch.stack([loss.detach(), share, num_impossible])

    def judge(
        self, state: TrainState, grad_norm: float, wait_seconds: float, max_loss_ratio: float
    ) -> bool:
        """Counts the update in `state` as made or as skipped; True where it is to be made.

        grad_norm: before clipping. wait_seconds: for data, before the clock ran.
        max_loss_ratio: see `find_problem`.
        """
        loss, wet_share, num_impossible = self._processes.sum(self._totals).tolist()
        problem = find_problem(
            loss,
            grad_norm,
            num_impossible,
            state.recent_losses,
            max_loss_ratio,
            is_fp16=state.scaler.is_enabled(),
        )
        if problem is not None:
            state.count_bad(problem)
            return False
        state.count_good(
            loss=loss,
            grad_norm=grad_norm,
            wet_share=wet_share,
            seconds=time.perf_counter() - self._start + wait_seconds,
            wait_seconds=wait_seconds,
        )
        return True
