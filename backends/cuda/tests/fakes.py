"""A GPU that is the cpu: the same calls as :class:`zif_cuda.device.CudaDevice`, with everything recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from zif.contract.backend import MemoryInfo
from zif_cuda.device import Facts, Pinned


class FakeEvent:
    """Done when the test says so; waiting for one that is not done is written down."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.done = True

    def record(self) -> None:
        self.done = not self._device.slow

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        if not self.done:
            self._device.waits += 1
        self.done = True


class FakeGraph:
    """Calls the recorded function at each replay, and puts its results where the recorded ones were."""

    def __init__(self, fn: Callable[[], Any], results: Any, leaves: Callable[[Any], Any]) -> None:
        self._fn, self._results, self._leaves = fn, results, leaves
        self.replays = 0

    @torch.inference_mode()
    def replay(self) -> None:
        self.replays += 1
        for target, source in zip(self._leaves(self._results), self._leaves(self._fn()), strict=True):
            if target.data_ptr() != source.data_ptr():
                target.copy_(source)


class FakeDevice:
    """``slow``: what is recorded stays undone. ``world``: residents, which recording a graph must not change."""

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        self._capability = capability
        self.torch = torch.device("cpu")
        self.slow = False
        self.waits = 0
        self.world: list[torch.Tensor] = []
        self.graphs: list[FakeGraph] = []

    def facts(self) -> Facts:
        return Facts(self._capability, 132, 232448)

    def empty(self, nbytes: int) -> torch.Tensor:
        return torch.full((nbytes,), 255, dtype=torch.uint8)

    def pinned(self, nbytes: int) -> Pinned:
        memory = torch.full((nbytes,), 255, dtype=torch.uint8)
        return Pinned(memory, memory)

    def upload(self, host: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(host.copy())

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def used(self) -> int:
        return len(self.graphs) * 1000

    def memory(self) -> MemoryInfo:
        return MemoryInfo(1 << 30, 1 << 29)

    def capture(self, fn: Callable[[], Any]) -> tuple[FakeGraph, Any]:
        from zif.contract.arrays import tree_leaves

        before = [tensor.clone() for tensor in self.world]
        results = fn()
        for tensor, value in zip(self.world, before, strict=True):
            tensor.copy_(value)
        graph = FakeGraph(fn, results, lambda tree: list(tree_leaves(tree)))
        self.graphs.append(graph)
        return graph, results
