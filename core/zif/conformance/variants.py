"""The same backend, run another way: eagerly, overlapped, on a cache that holds NaN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from zif.conformance.paging import unwritten
from zif.contract.arrays import ArraySpec, Tree
from zif.contract.backend import Backend
from zif.contract.executable import NO_FACTS, Executables, Program, ProgramFacts
from zif.contract.step import StepShape
from zif.engine.engine import Engine


class Variant:
    """``backend`` with members of it replaced."""

    def __init__(self, backend: Backend, **members: Any) -> None:
        self._backend = backend
        self._members = members

    def __getattr__(self, name: str) -> Any:
        return self._members[name] if name in self._members else getattr(self._backend, name)


def eager(backend: Backend) -> Any:
    """Programs are called as they are, on arrays put on the device for each run."""
    return Variant(backend, executables=EagerExecutables(backend))


def overlapped(backend: Backend) -> Any:
    """Step N + 1 is launched before step N is read, whatever the backend says of itself."""
    return Variant(backend, capabilities=replace(backend.capabilities, asynchronous=True))


def poison(engine: Engine, backend: Backend) -> None:
    """Fill an engine's cache, in which nothing is yet, with NaN."""
    cache = engine.runner.cache
    cache.arrays = {
        name: {array: backend.runtime.put(unwritten(spec)) for array, spec in specs.items()}
        for name, specs in cache.specs.items()
    }


class EagerExecutables:
    """Executables with no buffers of their own, on any framework."""

    def __init__(self, backend: Backend) -> None:
        self._runtime = backend.runtime
        self._compiler: Executables = backend.executables

    def expect(self, parameters: int) -> None:
        """As the backend's."""
        self._compiler.expect(parameters)

    def bucket(self, axis: str, size: int, limit: int) -> int:
        """As the backend's."""
        return self._compiler.bucket(axis, size, limit)

    def captures(self, shape: StepShape) -> bool:
        """As the backend's: the same programs, op by op."""
        return self._compiler.captures(shape)

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        facts: ProgramFacts = NO_FACTS,
    ) -> _Eager:
        """Nothing is compiled."""
        return _Eager(name, fn, self._runtime)


class _Eager:
    memory_bytes = 0

    def __init__(self, name: str, fn: Program, runtime: Any) -> None:
        self.name = name
        self._fn = fn
        self._put = runtime.put

    def stage(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._put(value) if isinstance(value, np.ndarray) else value for key, value in inputs.items()}

    def run(self, slot: Any, resident: Mapping[str, Tree]) -> tuple[dict[str, Any], dict[str, Tree]]:
        return self._fn(slot, dict(resident))
