"""Ranks as threads of one process: tensor parallelism without processes to start or a network to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from zif.contract.comm import Communicator
from zif.reference.torch import TorchBackend, TorchRuntime

T = TypeVar("T")


class Meeting:
    """Where ``size`` threads hand each other tensors, a round at a time; ``reduced`` and ``gathered`` count rounds."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reduced = self.gathered = 0
        self._barrier = threading.Barrier(size, timeout=60)
        self._brought: list[Any] = [None] * size

    def exchange(self, rank: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's tensor, once all have come."""
        self._brought[rank] = tensor
        self._barrier.wait()
        brought = list(self._brought)
        self._barrier.wait()  # before anyone brings the next
        return brought

    def leave(self) -> None:
        """A thread ends early: do not wait for it."""
        self._barrier.abort()


class ThreadCommunicator(Communicator):
    """One thread's end of a meeting."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.size, self.rank, self._meeting = meeting.size, rank, meeting

    def all_reduce(self, x: torch.Tensor) -> Any:
        self._meeting.reduced += self.rank == 0
        return torch.stack(self._meeting.exchange(self.rank, x)).sum(0)

    def all_gather(self, x: torch.Tensor) -> Any:
        self._meeting.gathered += self.rank == 0
        return torch.cat(self._meeting.exchange(self.rank, x), dim=-1)


class RankBackend(TorchBackend):
    """The torch reference as one rank."""

    def __init__(self, communicator: Communicator) -> None:
        super().__init__(TorchRuntime())
        self.communicator = communicator


def on_ranks(size: int, work: Callable[[RankBackend], T]) -> tuple[list[T], Meeting]:
    """What ``work`` returns on each rank's backend, and where they met. Raises what the first rank raised."""
    meeting = Meeting(size)

    def rank(number: int) -> T:
        try:
            return work(RankBackend(ThreadCommunicator(meeting, number)))
        except BaseException:
            meeting.leave()
            raise

    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(rank, number) for number in range(size)]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures], meeting
