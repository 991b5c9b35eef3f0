"""Transfers between host and GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
import torch

from zif.contract.arrays import ArraySpec
from zif.contract.backend import MemoryInfo
from zif.contract.errors import OutOfMemory
from zif.reference.torch.runtime import TorchRuntime
from zif_cuda.device import CudaDevice

HostArray = np.ndarray[Any, Any]


class CudaFetch:
    """Outputs on their way to pinned memory, on the stream that made them: a later run cannot overtake them."""

    def __init__(self, device: CudaDevice, arrays: Mapping[str, torch.Tensor]) -> None:
        self._host = {
            name: torch.empty(array.shape, dtype=array.dtype, pin_memory=True) for name, array in arrays.items()
        }
        for name, array in arrays.items():
            self._host[name].copy_(array, non_blocking=True)
        self._event = device.event()
        self._event.record()

    def ready(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> dict[str, HostArray]:
        self._event.synchronize()
        return {name: _as_numpy(tensor) for name, tensor in self._host.items()}


class CudaRuntime(TorchRuntime):
    """See :class:`zif.contract.backend.Runtime`."""

    def __init__(self, device: CudaDevice) -> None:
        super().__init__(str(device.torch))
        self._cuda = device

    def put(self, host: HostArray) -> torch.Tensor:
        try:
            return super().put(host)
        except torch.OutOfMemoryError as error:
            raise self.out_of_memory(host.nbytes) from error

    def zeros(self, spec: ArraySpec) -> torch.Tensor:
        try:
            return super().zeros(spec)
        except torch.OutOfMemoryError as error:
            raise self.out_of_memory(spec.nbytes) from error

    def fetch(self, arrays: Mapping[str, torch.Tensor]) -> CudaFetch:  # type: ignore[override]
        return CudaFetch(self._cuda, arrays)

    def memory(self) -> MemoryInfo:
        return self._cuda.memory()

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def out_of_memory(self, nbytes: int) -> OutOfMemory:
        """What to say when ``nbytes`` more do not fit."""
        memory = self.memory()
        return OutOfMemory(
            f"the GPU has {memory.free / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, and {nbytes / 2**30:.2f} "
            "GiB more are needed: stop what else runs there (nvidia-smi), take a smaller model or dtype, or lower "
            "--mem-fraction-static"
        )


def _as_numpy(tensor: torch.Tensor) -> HostArray:
    if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        bits = tensor.view(torch.int16 if tensor.itemsize == 2 else torch.int8).numpy()
        return bits.view(np.dtype(str(tensor.dtype).removeprefix("torch.")))
    host: HostArray = tensor.numpy()
    return host
