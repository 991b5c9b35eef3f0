"""One GPU as the backend uses it: memory, events and graphs of the stream that everything is launched on."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from zif.contract import MemoryInfo

T = TypeVar("T")

KERNEL_COPIES = 1 << 16
"""Bytes of host memory up to which a kernel copies: what a copy engine gains with more, it loses in being switched to.

Between two steps that is 13 µs (benchmarks/cuda_h200.md).
"""
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Facts(NamedTuple):
    """What kernels are tuned by. ``shared_bytes``: the most shared memory that one thread block can have."""

    capability: tuple[int, int]
    processors: int
    shared_bytes: int

    @property
    def hopper(self) -> bool:
        """Whether flashinfer's fa3 is for this GPU."""
        return self.capability[0] == 9


class Pinned(NamedTuple):
    """Page-locked host memory, [nbytes] uint8, as the host has it and as copies to and from the device see it."""

    host: torch.Tensor
    seen: torch.Tensor


class CudaDevice:
    """The GPU that torch numbers ``index``; its current stream is the one of all work."""

    def __init__(self, index: int) -> None:
        self.torch = torch.device("cuda", index)
        torch.cuda.set_device(self.torch)
        self._pool: Any = None
        self._capturing: Any = None
        self._keeper: Any = None
        self._graphs: weakref.WeakSet[Any] = weakref.WeakSet()

    def facts(self) -> Facts:
        """Of this GPU."""
        properties: Any = torch.cuda.get_device_properties(self.torch)
        capability = (properties.major, properties.minor)
        return Facts(capability, properties.multi_processor_count, properties.shared_memory_per_block_optin)

    def description(self) -> dict[str, str]:
        """What measurements of this GPU's kernels depend on: it, and the software that makes them."""
        import triton

        facts = self.facts()
        return {
            "gpu": torch.cuda.get_device_name(self.torch),
            "capability": ".".join(map(str, facts.capability)),
            "processors": str(facts.processors),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "triton": triton.__version__,
        }

    def empty(self, nbytes: int) -> torch.Tensor:
        """Device memory, [nbytes] uint8."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.torch)

    def pinned(self, nbytes: int) -> Pinned:
        """Page-locked host memory. Little of it is seen at its own address on the device: kernels copy it."""
        host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        if nbytes > KERNEL_COPIES:
            return Pinned(host, host)
        seen = torch.as_tensor(_Mapped(host), device=self.torch)
        mapped = seen.data_ptr() == host.data_ptr()  # memory that was another GPU's before has been copied instead
        return Pinned(host, seen if mapped else host)

    def upload(self, host: np.ndarray[Any, Any]) -> torch.Tensor:
        """A copy of ``host`` on the device, without waiting for it; the host array may change at once."""
        return torch.from_numpy(host).pin_memory().to(self.torch, non_blocking=True)

    def event(self) -> Any:
        """An event of the current stream."""
        return torch.cuda.Event()  # type: ignore[no-untyped-call]

    def used(self) -> int:
        """Bytes that torch holds of the device's memory."""
        return torch.cuda.memory_reserved(self.torch)

    def memory(self) -> MemoryInfo:
        """What torch holds but does not use counts as free."""
        free, total = torch.cuda.mem_get_info(self.torch)
        idle = torch.cuda.memory_reserved(self.torch) - torch.cuda.memory_allocated(self.torch)
        return MemoryInfo(total, free + idle)

    def capture(self, fn: Callable[[], T]) -> tuple[Any, T]:
        """(graph, what ``fn`` returned) of the work that ``fn`` launches; none of it is done yet.

        ``torch.cuda.graph`` would collect garbage and empty the allocator's cache each time, which
        costs more than the capture.
        """
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
            self._capturing = torch.cuda.Stream(self.torch)  # type: ignore[no-untyped-call]
            self._keeper = self.capture(lambda: self.empty(1).zero_())  # a pool goes with the last of its graphs
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.torch)
        self._capturing.wait_stream(current)
        with torch.cuda.stream(self._capturing):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = fn()
            finally:
                graph.capture_end()
        current.wait_stream(self._capturing)
        self._graphs.add(graph)
        return graph, result

    def release_graphs(self) -> None:
        """Destroy what was captured and is still there; none of it is replayed any more."""
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()


class _Mapped:
    """Page-locked memory for ``torch.as_tensor``, which keeps this, and so the memory, as long as its tensor."""

    def __init__(self, host: torch.Tensor) -> None:
        self._host = host
        self.__cuda_array_interface__ = {
            "shape": tuple(host.shape), "typestr": "|u1", "data": (host.data_ptr(), False), "version": 3,
        }  # fmt: skip


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Launch a copy of ``source`` into ``target`` of the same shape and dtype, one of them maybe :class:`Pinned`."""
    if target.device == source.device:
        words = WORDS[source.itemsize]
        torch.bitwise_or(source.view(words), 0, out=target.view(words))  # there is no copy that is sure to be a kernel
    else:
        target.copy_(source, non_blocking=True)
