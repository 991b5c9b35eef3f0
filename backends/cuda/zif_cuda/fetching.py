"""Outputs on their way to the host, through pinned memory and events that are used again."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
import torch

from zif_cuda.device import CudaDevice, Pinned, copy
from zif_cuda.staging import ALIGNMENT, Event

HostArray = np.ndarray[Any, Any]
SMALLEST = 1 << 12


class Landing:
    """A piece of pinned memory, an event, and the memory's views as outputs of each kind that came here."""

    def __init__(self, memory: Pinned, event: Event) -> None:
        self._memory = memory
        self.event = event
        self._views: dict[Hashable, dict[str, tuple[torch.Tensor, HostArray]]] = {}

    def __del__(self) -> None:
        """Nobody else gets the memory before it is written: torch knows nothing of copies that kernels make."""
        with contextlib.suppress(RuntimeError):  # of a device that has failed: nothing runs there
            self.event.synchronize()

    def views(self, kind: Hashable, arrays: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, HostArray]]:
        """A tensor and the array of the same memory for each of ``arrays``, whose shapes and dtypes ``kind`` names."""
        views = self._views.get(kind)
        if views is None:
            views, begin = {}, 0
            for name, array in arrays.items():
                host, seen = (
                    memory[begin : begin + array.nbytes].view(array.dtype).view(array.shape) for memory in self._memory
                )
                views[name] = seen, as_numpy(host)
                begin += aligned(array.nbytes)
            self._views[kind] = views
        return views


class CudaFetch:
    """A copy behind all that was launched, on the same stream: a later run cannot overtake it."""

    def __init__(self, fetches: Fetches, capacity: int, kind: Hashable, arrays: Mapping[str, torch.Tensor]) -> None:
        self._fetches, self._capacity = fetches, capacity
        self._landing = fetches.claim(capacity)
        self._views = self._landing.views(kind, arrays)
        for name, array in arrays.items():
            copy(self._views[name][0], array)
        self._landing.event.record()
        self._arrived: dict[str, HostArray] | None = None

    def ready(self) -> bool:
        return self._arrived is not None or self._landing.event.query()

    def wait(self) -> dict[str, HostArray]:
        if self._arrived is None:
            self._landing.event.synchronize()
            self._arrived = {name: array.copy() for name, (_, array) in self._views.items()}
            self._fetches.give_back(self._capacity, self._landing)
        return self._arrived


class Fetches:
    """Lends memory to fetches, of one power of two each, and gets it back when they have arrived.

    As much is made as is under way at once. One that nobody waits for keeps what it was lent.
    """

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._free: defaultdict[int, list[Landing]] = defaultdict(list)
        self._capacity: dict[Hashable, int] = {}

    def fetch(self, arrays: Mapping[str, torch.Tensor]) -> CudaFetch:
        """Launch the copy of ``arrays``."""
        kind = tuple((name, array.shape, array.dtype) for name, array in arrays.items())
        capacity = self._capacity.get(kind)
        if capacity is None:
            nbytes = max(sum(aligned(array.nbytes) for array in arrays.values()), SMALLEST)
            capacity = self._capacity[kind] = 1 << (nbytes - 1).bit_length()
        return CudaFetch(self, capacity, kind, arrays)

    def claim(self, capacity: int) -> Landing:
        """Memory of ``capacity`` bytes that nobody uses."""
        free = self._free[capacity]
        return free.pop() if free else Landing(self._device.pinned(capacity), self._device.event())

    def give_back(self, capacity: int, landing: Landing) -> None:
        """What was claimed may be used again."""
        self._free[capacity].append(landing)


def aligned(nbytes: int) -> int:
    """``nbytes``, and up to the next begin of an array."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def as_numpy(tensor: torch.Tensor) -> HostArray:
    """A host tensor's memory as an array, bfloat16 and float8 as ``ml_dtypes``."""
    if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        bits = tensor.view(torch.int16 if tensor.itemsize == 2 else torch.int8).numpy()
        return bits.view(np.dtype(str(tensor.dtype).removeprefix("torch.")))
    host: HostArray = tensor.numpy()
    return host
