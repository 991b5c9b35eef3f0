"""Host memory, and transfers between numpy and torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from zif.contract.arrays import ArraySpec
from zif.contract.backend import MemoryInfo, Runtime
from zif.reference.host import host_memory

HostArray = np.ndarray[Any, Any]

# numpy has no such types of its own: their bits travel as integers of the same width
_BITS = {
    "bfloat16": (np.int16, torch.int16),
    "float8_e4m3fn": (np.int8, torch.int8),
    "float8_e5m2": (np.int8, torch.int8),
    "uint16": (np.int16, torch.int16),
    "uint32": (np.int32, torch.int32),
    "uint64": (np.int64, torch.int64),
}


def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype for a dtype name of the contract."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def copy_into(target: torch.Tensor, host: HostArray) -> None:
    """Copy a host array into a tensor of its shape and dtype, on any device, with no copy between.

    ``host`` may be read-only.
    """
    assert tuple(target.shape) == host.shape, f"shape {tuple(target.shape)} is not {host.shape}"
    bits = _BITS.get(host.dtype.name)
    if bits is not None:
        host, target = host.view(bits[0]), target.view(bits[1])
    if target.device.type == "cpu":
        target.numpy()[...] = host
    else:
        target.copy_(torch.from_numpy(host if host.flags.writeable else host.copy()))


def to_numpy(tensor: torch.Tensor) -> HostArray:
    """A host copy of a tensor, bfloat16 and float8 as ``ml_dtypes``."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _BITS:
        import ml_dtypes

        numpy_type = getattr(ml_dtypes, name, None) or np.dtype(name)
        return tensor.detach().cpu().contiguous().view(_BITS[name][1]).numpy().copy().view(numpy_type)
    host: HostArray = tensor.detach().cpu().numpy().copy()
    return host


class _Arrived:
    """A fetch from memory that the host shares with the device: complete when asked for."""

    def __init__(self, arrays: dict[str, HostArray]) -> None:
        self._arrays = arrays

    def ready(self) -> bool:
        return True

    def wait(self) -> dict[str, HostArray]:
        return self._arrays


class TorchRuntime(Runtime):
    """Runtime of a synchronous torch device. Asynchronous ones override ``fetch`` and ``synchronize``."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    def put(self, host: HostArray) -> torch.Tensor:
        tensor = torch.empty(host.shape, dtype=torch_dtype(host.dtype.name), device=self.device)
        copy_into(tensor, host)
        return tensor

    def zeros(self, spec: ArraySpec) -> torch.Tensor:
        return torch.zeros(spec.shape, dtype=torch_dtype(spec.dtype), device=self.device)

    def fetch(self, arrays: Mapping[str, Any]) -> _Arrived:
        return _Arrived({name: to_numpy(array) for name, array in arrays.items()})

    def memory(self) -> MemoryInfo:
        """Host memory, as the operating system and the control group bound it."""
        return host_memory()

    def synchronize(self) -> None:
        return None
