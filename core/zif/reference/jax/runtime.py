"""Memory of a JAX device, and transfers between it and numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zif.contract.arrays import ArraySpec, dtype_bytes
from zif.contract.backend import MemoryInfo
from zif.reference.host import host_memory

HostArray = np.ndarray[Any, Any]


def jax_dtype(name: str) -> Any:
    """JAX's dtype for a dtype name of the contract. Raises ValueError for 64 bits, which JAX would narrow."""
    if dtype_bytes(name) > 4:
        raise ValueError(f"{name} is wider than the 32 bits that arrays have on every framework")
    return jnp.dtype(name)


def _ready(array: Any) -> bool:
    ready: bool = array.is_ready()
    return ready


class JaxFetch:
    """Arrays on their way to the host."""

    def __init__(self, arrays: Mapping[str, jax.Array]) -> None:
        self._arrays = dict(arrays)
        for array in self._arrays.values():
            array.copy_to_host_async()

    def ready(self) -> bool:
        return all(_ready(array) for array in self._arrays.values())

    def wait(self) -> dict[str, HostArray]:
        return {name: np.array(array) for name, array in self._arrays.items()}


class JaxRuntime:
    """Runtime of one JAX device, the process's first if none is given."""

    def __init__(self, device: jax.Device | None = None) -> None:
        self.device = device if device is not None else jax.devices()[0]

    def put(self, host: HostArray) -> jax.Array:
        """A device array. Of a read-only host array it may be an alias, where the device is the host."""
        jax_dtype(host.dtype.name)
        # JAX takes host arrays to be immutable, and reads or even keeps them after it has returned
        return jax.device_put(host.copy() if host.flags.writeable else host, self.device)

    def zeros(self, spec: ArraySpec) -> jax.Array:
        return jnp.zeros(spec.shape, jax_dtype(spec.dtype), device=self.device)

    def fetch(self, arrays: Mapping[str, jax.Array]) -> JaxFetch:
        return JaxFetch(arrays)

    def memory(self) -> MemoryInfo:
        """The device's memory, as far as its allocator knows it; host memory where the device has none."""
        stats = self.device.memory_stats()
        if not stats or "bytes_limit" not in stats:
            return host_memory()
        return MemoryInfo(stats["bytes_limit"], stats["bytes_limit"] - stats["bytes_in_use"])

    def synchronize(self) -> None:
        for array in jax.live_arrays():  # type: ignore[no-untyped-call]
            if not array.is_deleted():
                array.block_until_ready()
