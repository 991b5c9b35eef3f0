"""The frameworks that the spike runs on: torch, JAX, and numpy in float64 as the oracle of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from backend.oracle import Float64Packer, Specifications
from zif.contract.arrays import ArraySpec
from zif.contract.backend import Backend, Capabilities, MemoryInfo
from zif.contract.cache import CacheFormat
from zif.contract.comm import ONE_DEVICE, Communicator
from zif.contract.executable import Program, Staged
from zif.contract.formats import plain_formats
from zif.contract.kernel import KernelSet
from zif.contract.weights import ExpertsSpec, ExpertTensors, HeadsSpec, PackedWeight
from zif.reference.jax import JaxBackend, JaxRuntime
from zif.reference.torch import TorchBackend, TorchRuntime


def _wide(dtype: str) -> Any:
    return np.float64 if dtype.startswith(("float", "bfloat")) else np.dtype(dtype)


class OraclePacker(Float64Packer):
    """Experts and heads too."""

    def experts(self, spec: ExpertsSpec, tensors: ExpertTensors, dtype: str) -> PackedWeight:
        gate_up = np.stack([np.concatenate(pair) for pair in zip(tensors.gates, tensors.ups, strict=True)])
        arrays = {"gate_up": gate_up.astype(np.float64), "down": np.stack(tensors.downs).astype(np.float64)}
        if spec.bias:
            biases = zip(tensors.gate_biases, tensors.up_biases, strict=True)
            arrays["gate_up_bias"] = np.stack([np.concatenate(pair) for pair in biases]).astype(np.float64)
            arrays["down_bias"] = np.stack(tensors.down_biases).astype(np.float64)
        return PackedWeight(arrays, "dense", spec.shape)

    def heads(self, spec: HeadsSpec, weight: np.ndarray[Any, Any], dtype: str) -> PackedWeight:
        return PackedWeight({"w": weight.astype(np.float64)}, "dense", spec.shape)


@dataclass
class OracleExecutable:
    """A program called as it is, on numpy arrays."""

    name: str
    fn: Program
    inputs: Mapping[str, ArraySpec]
    memory_bytes: int = 0

    def stage(self, inputs: Staged) -> Any:
        return {key: np.array(value, _wide(self.inputs[key].dtype)) for key, value in inputs.items()}

    def run(self, slot: Any, resident: Mapping[str, Any]) -> Any:
        return self.fn(slot, dict(resident))


class OracleExecutables:
    def bucket(self, axis: str, size: int, limit: int) -> int:
        return size

    def compile(
        self, name: str, fn: Program, inputs: Any, outputs: Any, resident: Any, donate: Any = (), facts: Any = None
    ) -> OracleExecutable:
        return OracleExecutable(name, fn, inputs)


@dataclass
class _Arrived:
    arrays: Mapping[str, Any]

    def ready(self) -> bool:
        return True

    def wait(self) -> dict[str, Any]:
        return dict(self.arrays)


class OracleRuntime:
    def put(self, host: np.ndarray[Any, Any]) -> Any:
        return host.astype(_wide(host.dtype.name))

    def zeros(self, spec: ArraySpec) -> Any:
        return np.zeros(spec.shape, _wide(spec.dtype))

    def fetch(self, arrays: Mapping[str, Any]) -> _Arrived:
        return _Arrived(arrays)

    def memory(self) -> MemoryInfo:
        return MemoryInfo(0, 0)

    def synchronize(self) -> None:
        return None


class Oracle:
    """Every op is its specification."""

    name = "oracle"
    capabilities = Capabilities(dtypes=("float32",), asynchronous=False)
    communicator: Communicator = ONE_DEVICE

    def __init__(self) -> None:
        self.runtime = OracleRuntime()
        self.packer = OraclePacker()
        self.executables = OracleExecutables()

    def resolve_config(self, config: Mapping[str, Any]) -> Sequence[Any]:
        return ()

    def tune(self) -> None:
        """There is nothing to choose from."""

    def kernels(self) -> Sequence[KernelSet]:
        return (Specifications(),)

    def cache_formats(self) -> Sequence[CacheFormat]:
        return plain_formats("float32")


@dataclass(frozen=True)
class Framework:
    """A backend, and its library's einsum for kernels that extensions bring."""

    name: str
    make: Callable[[], Any]
    einsum: Callable[..., Any]

    def backend(self) -> Backend:
        made: Backend = self.make()
        return made


def _jax_einsum(subscripts: str, *operands: Any) -> Any:
    return jnp.einsum(subscripts, *operands, precision="highest")


TORCH = Framework("torch", lambda: TorchBackend(TorchRuntime("cpu")), torch.einsum)
# what these programs compute takes no time, compiling them well would
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
JAX = Framework("jax", lambda: JaxBackend(JaxRuntime(jax.devices("cpu")[0]), _QUICK), _jax_einsum)
ORACLE = Framework("oracle", Oracle, np.einsum)
BOTH = (TORCH, JAX)
