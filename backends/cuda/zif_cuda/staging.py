"""Pinned host memory that inputs are staged in, and how a program's inputs lie in it.

All inputs of a run travel in one transfer. A chunk of the ring is written again only after the
transfer out of it has completed: the device may be steps behind the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
import torch

from zif.contract import ArraySpec
from zif.reference.torch.runtime import torch_dtype
from zif_cuda.device import Pinned

ALIGNMENT = 256
"""Of each input in a block: what CUDA's own allocations have, so that kernels may load vectors."""
DEPTH = 4
"""Chunks of a ring: the step that runs, the one that is launched behind it, and room for both their programs."""
SMALLEST = 1 << 16


class Event(Protocol):
    """A point in the device's order of work."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool: ...


class Layout:
    """Where each input of a program lies in one block of bytes."""

    def __init__(self, specs: Mapping[str, ArraySpec]) -> None:
        self.specs = dict(specs)
        self.offsets: dict[str, int] = {}
        end = 0
        for name, spec in self.specs.items():
            self.offsets[name] = end
            end = -(-(end + spec.nbytes) // ALIGNMENT) * ALIGNMENT
        self.nbytes = end
        likes = {
            name: torch.empty(spec.shape, dtype=torch_dtype(spec.dtype), device="meta")
            for name, spec in self.specs.items()
        }
        self._views = {
            name: (like.dtype, like.shape, like.stride(), self.offsets[name] // like.itemsize)
            for name, like in likes.items()
        }
        self._dtypes = {like.dtype for like in likes.values()}

    def tensors(self, block: torch.Tensor) -> dict[str, torch.Tensor]:
        """The inputs as views of ``block`` [nbytes] uint8."""
        assert not block.storage_offset(), "a block of its own"
        typed = {dtype: block.view(dtype) for dtype in self._dtypes}
        return {
            name: typed[dtype].as_strided(shape, strides, offset)
            for name, (dtype, shape, strides, offset) in self._views.items()
        }

    def arrays(self, block: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The same of host memory."""
        return {
            name: block[self.offsets[name] : self.offsets[name] + spec.nbytes]
            .view(np.dtype(spec.dtype))
            .reshape(spec.shape)
            for name, spec in self.specs.items()
        }


class Chunk:
    """One piece of pinned memory. ``taken`` from staging until the transfer out of it is launched."""

    def __init__(self, memory: Pinned, event: Event) -> None:
        self.taken = False
        self._memory = memory
        self._event = event
        self._sent = False
        self._views: dict[Layout, tuple[torch.Tensor, dict[str, np.ndarray[Any, Any]]]] = {}

    def __del__(self) -> None:
        """Nobody else gets the memory while a transfer reads it: torch knows nothing of those that kernels make."""
        if self._sent:
            with contextlib.suppress(RuntimeError):  # of a device that has failed: nothing runs there
                self._event.synchronize()

    def arrays(self, layout: Layout) -> dict[str, np.ndarray[Any, Any]]:
        """The inputs of a layout, to be written."""
        return self._viewed(layout)[1]

    def words_of(self, layout: Layout) -> torch.Tensor:
        """All of a layout, to be sent, int64."""
        return self._viewed(layout)[0]

    def _viewed(self, layout: Layout) -> tuple[torch.Tensor, dict[str, np.ndarray[Any, Any]]]:
        views = self._views.get(layout)
        if views is None:
            words = self._memory.seen[: layout.nbytes].view(torch.int64)
            views = self._views[layout] = (words, layout.arrays(self._memory.host[: layout.nbytes].numpy()))
        return views

    def sent(self) -> None:
        """The transfer out of it has just been launched."""
        self._event.record()
        self._sent, self.taken = True, False

    def claim(self) -> None:
        """Wait until the last transfer out of it is done."""
        if self._sent:
            self._event.synchronize()
            self._sent = False
        self.taken = True


class Ring:
    """Chunks of one size, used in turn."""

    def __init__(
        self, capacity: int, allocate: Callable[[int], Pinned], event: Callable[[], Event], depth: int = DEPTH
    ) -> None:
        self._chunks = [Chunk(allocate(capacity), event()) for _ in range(depth)]
        self._next = 0

    def claim(self) -> Chunk:
        """The next chunk that may be written."""
        for _ in self._chunks:
            chunk = self._chunks[self._next]
            self._next = (self._next + 1) % len(self._chunks)
            if not chunk.taken:
                chunk.claim()
                return chunk
        raise AssertionError(f"{len(self._chunks)} slots are staged and none of them was run")


class Rings:
    """A ring for each power of two, made at first use."""

    def __init__(self, allocate: Callable[[int], Pinned], event: Callable[[], Event]) -> None:
        self._allocate, self._event = allocate, event
        self._rings: dict[int, Ring] = {}

    def claim(self, nbytes: int) -> Chunk:
        """A chunk of at least ``nbytes``."""
        capacity = max(SMALLEST, 1 << (nbytes - 1).bit_length() if nbytes else 0)
        ring = self._rings.get(capacity)
        if ring is None:
            ring = self._rings[capacity] = Ring(capacity, self._allocate, self._event)
        return ring.claim()
