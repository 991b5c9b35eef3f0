"""Memory of a JAX device, and transfers between it and numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from zif.contract.arrays import ArraySpec, dtype_bytes
from zif.contract.backend import MemoryInfo, Runtime
from zif.reference.host import host_memory

HostArray = np.ndarray[Any, Any]

RANKS = "ranks"
"""Name of a mesh's only axis."""


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


class JaxRuntime(Runtime):
    """Runtime of one JAX device, the process's first if none is given, or of several that work as one.

    Several form a mesh, and run every program together. What stays on the device is then an array *each*:
    JAX knows them joined along their first axis, a program sees its own device's. What is staged, and what
    programs put out, is the same everywhere.
    """

    def __init__(self, *devices: jax.Device) -> None:
        self.devices: tuple[jax.Device, ...] = devices or (jax.devices()[0],)
        self.mesh = Mesh(np.array(self.devices), (RANKS,)) if len(self.devices) > 1 else None
        self.resident: Sharding = self._sharding(RANKS)
        self.staged: Sharding = self._sharding()

    @property
    def device(self) -> jax.Device:
        """The first device."""
        return self.devices[0]

    def each(self) -> Sequence[JaxRuntime]:
        """A runtime of each device alone."""
        return [type(self)(device) for device in self.devices]

    def put(self, host: HostArray) -> jax.Array:
        """A device array. Of a read-only host array it may be an alias, where the device is the host."""
        jax_dtype(host.dtype.name)
        # JAX takes host arrays to be immutable, and reads or even keeps them after it has returned
        host = host.copy() if host.flags.writeable else host
        return self.joined([jax.device_put(host, device) for device in self.devices])

    def joined(self, parts: Sequence[jax.Array]) -> jax.Array:
        """An array each: ``parts``, alike in shape and dtype, one on each device."""
        if self.mesh is None:
            return parts[0]
        return jax.make_array_from_single_device_arrays(self.extents(parts[0].shape), self.resident, parts)

    def zeros(self, spec: ArraySpec) -> jax.Array:
        return jnp.zeros(self.extents(spec.shape), jax_dtype(spec.dtype), device=self.resident)

    def extents(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that JAX knows an array each of ``shape`` by."""
        return (len(self.devices) * shape[0], *shape[1:]) if self.mesh is not None else shape

    def fetch(self, arrays: Mapping[str, Any]) -> JaxFetch:
        return JaxFetch(arrays)

    def memory(self) -> MemoryInfo:
        """A device's memory, as far as its allocator knows it, of several the least; host memory where it has none."""
        every = [device.memory_stats() for device in self.devices]
        if not all(stats and "bytes_limit" in stats for stats in every):
            host = host_memory()
            return MemoryInfo(host.total // len(every), host.free // len(every))
        return min(
            (MemoryInfo(stats["bytes_limit"], stats["bytes_limit"] - stats["bytes_in_use"]) for stats in every),
            key=lambda memory: memory.free,
        )

    def synchronize(self) -> None:
        for array in jax.live_arrays():  # type: ignore[no-untyped-call]
            if not array.is_deleted():
                array.block_until_ready()

    def _sharding(self, *axes: str) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(self.device)
        return NamedSharding(self.mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]
