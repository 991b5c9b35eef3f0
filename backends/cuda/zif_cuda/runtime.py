"""Transfers between host and GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from zif.contract import ArraySpec, MemoryInfo, OutOfMemory
from zif.reference.torch.runtime import TorchRuntime
from zif_cuda.device import CudaDevice
from zif_cuda.fetching import CudaFetch, Fetches

HostArray = np.ndarray[Any, Any]


class CudaRuntime(TorchRuntime):
    """See :class:`zif.contract.backend.Runtime`."""

    def __init__(self, device: CudaDevice) -> None:
        super().__init__(str(device.torch))
        self._cuda = device
        self._fetches = Fetches(device)

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
        return self._fetches.fetch(arrays)

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
