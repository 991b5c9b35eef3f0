"""A backend of numpy alone, in float64: every op is its specification, called as it is.

It is what the engine on any other backend is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.backend import Backend, Capabilities, MemoryInfo
from zif.contract.cache import CacheFormat
from zif.contract.executable import NO_FACTS, Executables, Program, ProgramFacts, Staged
from zif.contract.formats import plain_formats
from zif.contract.kernels import Kernel, KernelSet
from zif.contract.ops import op_specs
from zif.contract.weights import HostArray, LoopStack
from zif.reference.packing import DensePacker


class Specifications(KernelSet):
    """The references that the ops are specified by."""

    provider = "specification"
    level = 1

    def kernels(self) -> Iterator[Kernel]:
        """A kernel an op."""
        for spec in op_specs().values():
            yield Kernel(
                spec.name, spec.name, self.provider, level=self.level, module=__name__, when=None,
                maker=partial(_made, spec.reference),
            )  # fmt: skip


def _made(reference: Callable[..., Any], *_: object) -> Callable[..., Any]:
    return reference


class Float64Packer(DensePacker):
    """``dense`` weights in float64."""

    def rows(self, parts: Iterable[HostArray], shape: tuple[int, ...], dtype: str) -> Any:
        return np.concatenate([part.astype(np.float64) for part in parts]).reshape(shape)

    def stack(self, layers: Sequence[Tree]) -> LoopStack:
        return LoopStack(list(layers))


@dataclass
class OracleExecutable:
    """A program called as it is, on numpy arrays."""

    name: str
    fn: Program
    inputs: Mapping[str, ArraySpec]
    memory_bytes: int = 0

    def stage(self, inputs: Staged) -> Any:
        """Copies."""
        return {key: np.array(value, wide(self.inputs[key].dtype)) for key, value in inputs.items()}

    def run(self, slot: Any, resident: Mapping[str, Tree]) -> tuple[dict[str, Any], dict[str, Tree]]:
        """Call it."""
        return self.fn(slot, dict(resident))


class OracleExecutables(Executables):
    """Nothing is compiled, and no shape is padded."""

    def expect(self, parameters: int) -> None:
        """No shape depends on it."""

    def bucket(self, axis: str, size: int, limit: int) -> int:
        return size

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        facts: ProgramFacts = NO_FACTS,
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
    """Arrays are numpy's; those that float are float64."""

    def put(self, host: HostArray) -> Any:
        """A copy."""
        return host.astype(wide(host.dtype.name))

    def zeros(self, spec: ArraySpec) -> Any:
        """Zeros."""
        return np.zeros(spec.shape, wide(spec.dtype))

    def fetch(self, arrays: Mapping[str, Any]) -> _Arrived:
        """They are there."""
        return _Arrived(arrays)

    def memory(self) -> MemoryInfo:
        """Unknown."""
        return MemoryInfo(0, 0)

    def synchronize(self) -> None:
        """Nothing is under way."""


class Oracle(Backend):
    """Every op is its specification."""

    name = "oracle"
    capabilities = Capabilities(dtypes=("float32",), asynchronous=False)
    runtime = OracleRuntime()
    packer = Float64Packer()
    executables = OracleExecutables()

    def resolve_config(self, config: Mapping[str, Any]) -> Sequence[Any]:
        return ()

    def tune(self) -> None:
        """There is nothing to choose from."""

    def kernels(self) -> Sequence[KernelSet]:
        return Specifications(), Specifications()  # the last comes behind the composites

    def cache_formats(self) -> Sequence[CacheFormat]:
        return plain_formats("float32")


def wide(dtype: str) -> Any:
    """float64 for any floating dtype, else the dtype."""
    return np.float64 if dtype.startswith(("float", "bfloat")) else np.dtype(dtype)
