"""Processes that train together, on one machine.

Gradients are averaged and Muon's work is shared through shared memory. A few coarse barriers in each step bear a busy
machine far better than threads inside every operation.
"""

from collections.abc import Sequence

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor


class Peers:
    """What the processes share; made before they are forked."""

    def __init__(self, count: int, values: int) -> None:
        """For so many processes, and tensors of so many values in all."""
        self.count = count
        self._barrier = multiprocessing.Barrier(count)
        self._board = torch.zeros(8, dtype=torch.float64).share_memory_()
        self._parts = torch.zeros(count, values).share_memory_()
        self._owned = torch.zeros(values).share_memory_()

    def _wait(self) -> None:
        if self.count > 1:
            self._barrier.wait()

    def announce(self, rank: int, values: Sequence[float]) -> list[float]:
        """What the first process says, in all of them."""
        if rank == 0:
            self._board[: len(values)] = torch.tensor(values, dtype=torch.float64)
        self._wait()
        announced = self._board[: len(values)].tolist()
        # Nobody writes the next ones before all have read these.
        self._wait()
        return announced

    def average(self, rank: int, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes."""
        if self.count == 1:
            return
        end = 0
        for tensor in tensors:
            self._parts[rank, end : end + tensor.numel()] = tensor.flatten()
            end += tensor.numel()
        self._wait()
        mean = self._parts[:, :end].mean(0)
        begin = 0
        for tensor in tensors:
            tensor.copy_(mean[begin : begin + tensor.numel()].view_as(tensor))
            begin += tensor.numel()

    @torch.no_grad()
    def distribute(self, rank: int, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Copies each tensor from the process that owns it to the others."""
        if self.count == 1:
            return
        ranges, begin = [], 0
        for tensor, owner in zip(tensors, owners):
            ranges.append(slice(begin, begin + tensor.numel()))
            begin += tensor.numel()
            if owner == rank:
                self._owned[ranges[-1]] = tensor.detach().flatten()
        self._wait()
        for tensor, owner, values in zip(tensors, owners, ranges):
            if owner != rank:
                tensor.copy_(self._owned[values].view_as(tensor))
