"""The null backend object: every member that the contract asks for, and no maths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from zif.contract.arrays import Array, ArraySpec, Tree
from zif.contract.backend import Backend, Capabilities, ConfigChange, MemoryInfo, Runtime
from zif.contract.cache import CacheFormat
from zif.contract.comm import ONE_DEVICE, Communicator
from zif.contract.executable import Executables, Fetch
from zif.contract.formats import reference_formats
from zif.contract.kernels import Kernel, KernelSet
from zif.contract.ops import op_specs
from zif.contract.packer import HostTensors, Packer
from zif.contract.weights import (
    EmbeddingSpec,
    ExpertsSpec,
    ExpertTensors,
    HeadsSpec,
    HostArray,
    LinearSpec,
    LoopStack,
    PackedWeight,
    VectorSpec,
)
from zif.null.device import NullArray, NullDevice, NullOptions
from zif.null.executable import NullExecutables, NullFetch

__all__ = ["NullBackend", "NullOptions"]


class NullRuntime(Runtime):
    """Memory that holds nothing."""

    def __init__(self, device: NullDevice) -> None:
        self._device = device

    def put(self, host: np.ndarray[Any, Any]) -> Array:
        """A handle of the host array's shape and dtype."""
        return _opaque(self._device.allocate("an array put from the host", ArraySpec(host.shape, host.dtype.name)))

    def zeros(self, spec: ArraySpec) -> Array:
        """A handle that reads as zeros."""
        return _opaque(self._device.allocate("an array of zeros", spec))

    def fetch(self, arrays: Mapping[str, Array]) -> Fetch:
        """Made-up contents, when the device would have got there."""
        return NullFetch(self._device, {key: _handle(array) for key, array in arrays.items()})

    def memory(self) -> MemoryInfo:
        """What the handles that are still referred to would take."""
        return MemoryInfo(self._device.total, max(0, self._device.total - self._device.used))

    def synchronize(self) -> None:
        """Sleep until all that was launched would have ended."""
        self._device.wait_until(self._device.free_at)


class NullPacker(Packer):
    """Weights of the right shapes."""

    def __init__(self, device: NullDevice) -> None:
        self._device = device

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight:
        """One array [out, in], and a bias if there is one."""
        shape = (spec.rows, spec.in_features)
        assert sum(weight.shape[0] for weight in weights) == shape[0], f"{spec.names}: rows differ from the spec's"
        arrays = {"w": self._array(f"weight {spec.names}", shape, dtype)}
        if biases:
            arrays["b"] = self._array(f"bias {spec.bias}", shape[:1], dtype)
        return PackedWeight(arrays, "dense", shape)

    def embedding(self, spec: EmbeddingSpec, table: HostArray, dtype: str) -> PackedWeight:
        """One array [vocab, hidden]."""
        shape = (spec.vocab, spec.hidden)
        return PackedWeight({"w": self._array(f"embedding {spec.name}", shape, dtype)}, "dense", shape)

    def tied(self, spec: LinearSpec, embedding: PackedWeight) -> PackedWeight:
        """The embedding itself."""
        return embedding

    def vector(self, spec: VectorSpec, value: HostArray, dtype: str) -> Array:
        """One array."""
        return self._array(f"vector {spec.name}", spec.shape, spec.dtype or dtype)

    def experts(self, spec: ExpertsSpec, tensors: ExpertTensors, dtype: str) -> PackedWeight:
        """Two arrays, [experts, 2 size, hidden] and [experts, hidden, size], and where there are biases theirs."""
        experts, size, hidden = spec.shape
        arrays = {
            "gate_up": self._array(f"experts {spec.gate}", (experts, 2 * size, hidden), dtype),
            "down": self._array(f"experts {spec.down}", (experts, hidden, size), dtype),
        }
        if spec.bias:
            arrays["gate_up_bias"] = self._array(f"biases {spec.bias[0]}", (experts, 2 * size), dtype)
            arrays["down_bias"] = self._array(f"biases {spec.bias[2]}", (experts, hidden), dtype)
        return PackedWeight(arrays, "dense", spec.shape)

    def heads(self, spec: HeadsSpec, weight: HostArray, dtype: str) -> PackedWeight:
        """One array [heads, out, in]."""
        return PackedWeight({"w": self._array(f"heads {spec.name}", spec.shape, dtype)}, "dense", spec.shape)

    def stack(self, layers: Sequence[Tree]) -> Tree:
        """The layers, one by one."""
        return LoopStack(list(layers))

    def _array(self, owner: str, shape: tuple[int, ...], dtype: str) -> Array:
        return _opaque(self._device.allocate(owner, ArraySpec(shape, dtype)))


class NullKernels(KernelSet):
    """A kernel for every op, so that every model binds; calling one is a fault of the caller."""

    provider = "null"
    level = 1

    def kernels(self) -> Iterator[Kernel]:
        """One that refuses nothing, an op."""
        for name in op_specs():
            yield _kernel(name)


class NullBackend(Backend):
    """See :class:`zif.contract.backend.Backend`. ``device`` is there for tests to look into."""

    name = "null"
    capabilities = Capabilities(dtypes=("bfloat16", "float32", "float16"), asynchronous=True, fuse_sampling=True)
    communicator: Communicator = ONE_DEVICE

    def __init__(self, options: NullOptions | None = None) -> None:
        self.device = NullDevice(options or NullOptions())
        self.runtime = NullRuntime(self.device)
        self.packer = NullPacker(self.device)
        self.executables: Executables = NullExecutables(self.device)

    def resolve_config(self, config: Mapping[str, Any]) -> Sequence[ConfigChange]:
        """Any settings do."""
        return ()

    def tune(self) -> None:
        """There is nothing to choose from."""

    def kernels(self) -> Sequence[KernelSet]:
        """Kernels that are never called."""
        return (NullKernels(),)

    def cache_formats(self) -> Sequence[CacheFormat]:
        """The references': it keeps none of what is written to them."""
        return reference_formats(self.capabilities.dtypes)


def _kernel(op: str) -> Kernel:
    def called(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"null device: op {op} was called, but this device computes nothing")

    return Kernel(
        op, op, NullKernels.provider, level=NullKernels.level, module=__name__, when=None, maker=lambda *_: called
    )


def _opaque(array: NullArray) -> Any:
    """As an Array of the contract, of which it has shape and dtype alone."""
    return array


def _handle(array: Array) -> NullArray:
    handle: Any = array
    return handle
