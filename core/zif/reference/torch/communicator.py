"""Collectives of torch's process groups, a process each rank: gloo's on host memory, and whichever a backend makes.

The groups are made directly, not registered as torch's default group: that is one a process, and backends are
objects, of which a process may have several, one after another or at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from zif.contract.comm import Communicator, Group

logger = logging.getLogger(__name__)
dist: Any = torch.distributed  # which does not export its names to type checkers
c10d: Any = dist.distributed_c10d

PATIENCE = timedelta(minutes=10)
"""How long ranks may be apart: one may compile what another has found in a cache."""
MEETING = timedelta(minutes=2)
"""How long ranks wait for each other at first."""


class TorchCommunicator(Communicator):
    """A rank of ``group``. ``make(store, rank, size)`` connects it to the others.

    Work is launched on the current stream, so that it is in order with kernels and captured with them.
    """

    def __init__(self, group: Group, make: Callable[[Any, int, int], Any]) -> None:
        self.size, self.rank = group.size, group.rank
        store = dist.FileStore(os.path.join(group.store, "ranks"), group.size)
        store.set_timeout(MEETING)
        self._group = make(store, group.rank, group.size)
        self._sum = c10d.AllreduceOptions()
        self._sum.reduceOp = c10d.ReduceOp.SUM
        self._sum.asyncOp = False
        self._gather = c10d.AllgatherOptions()
        self._gather.asyncOp = False

    def all_reduce(self, x: Any) -> Any:
        """In place, where ``x`` is contiguous."""
        x = x.contiguous()
        _ordered(self._group.allreduce([x], self._sum))
        return x

    def all_gather(self, x: Any) -> Any:
        x = x.contiguous()
        ranks = torch.empty((self.size * x.shape[0], *x.shape[1:]), dtype=x.dtype, device=x.device)
        _ordered(self._group._allgather_base(ranks, x, self._gather))
        return torch.cat(ranks.chunk(self.size), dim=-1)

    def close(self) -> None:
        """Cut the connections where that can be done without the others."""
        abort = getattr(self._group, "abort", None)
        group, self._group = self._group, None
        if group is not None and abort is not None:
            try:
                abort()
            except RuntimeError as error:  # gloo has none
                logger.debug("the process group was not aborted: %s", error)


def _ordered(work: Any) -> None:
    """Let what follows on the current stream see the result; a group that launches on that stream gives no work."""
    if work is not None:
        work.wait()


def gloo(group: Group) -> TorchCommunicator:
    """Ranks that are processes of this host, over its loopback interface."""

    def make(store: Any, rank: int, size: int) -> Any:
        options = c10d.ProcessGroupGloo._Options()
        options._devices = [c10d.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = PATIENCE
        return c10d.ProcessGroupGloo(store, rank, size, options)

    return TorchCommunicator(group, make)
