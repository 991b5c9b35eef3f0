"""Executables of JAX: a program compiled ahead by ``jax.jit``, its consumed residents donated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.executable import NO_FACTS, Executables, Program, ProgramFacts, Staged
from zif.contract.ops.draw import numpy_dtype
from zif.contract.step import StepShape
from zif.reference.jax.runtime import RANKS, JaxRuntime, jax_dtype
from zif.reference.jax.trees import register_trees


@dataclass
class JaxSlot:
    """Staged inputs, None once they are run.

    They are transferred by the launch, all in one call: seven small ones take 0.01 ms so, and 0.2 ms
    when they are put on the device one by one.
    """

    inputs: dict[str, Any] | None


class JaxExecutable:
    """One compiled program. ``compiled`` and ``jaxpr`` are there for reports and tests."""

    def __init__(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...],
        runtime: JaxRuntime,
        compiler_options: Mapping[str, Any],
    ) -> None:
        register_trees()
        missing = sorted(set(donate) - set(resident))
        assert not missing, f"{name}: {missing} are to be donated, the residents are {sorted(resident)}"
        self.name = name
        self._inputs = dict(inputs)
        self._donated = donate
        self._kept = tuple(key for key in resident if key not in donate)

        def program(inputs: Any, donated: Any, kept: Any) -> Any:
            put_out, updates = fn(inputs, {**donated, **kept})
            _check_outputs(name, put_out, outputs)
            _check_updates(name, updates, donated)
            # updates first: JAX hands a donated buffer to the first result of its shape and dtype
            return updates, put_out

        staged = {
            key: jax.ShapeDtypeStruct(spec.shape, jax_dtype(spec.dtype), sharding=runtime.staged)  # type: ignore[no-untyped-call]
            for key, spec in inputs.items()
        }
        traced = jax.jit(_on_every(program, runtime.mesh), donate_argnums=1).trace(staged, *self._split(resident))
        self.jaxpr = traced.jaxpr
        self.compiled = traced.lower().compile(compiler_options=dict(compiler_options))

    @property
    def memory_bytes(self) -> int:
        """Bytes of staged inputs, outputs and scratch; 0 where the compiler does not say."""
        analysis = self.compiled.memory_analysis()
        if analysis is None:
            return 0
        scratch = analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        return int(scratch) + sum(spec.nbytes for spec in self._inputs.values())

    def stage(self, inputs: Staged) -> JaxSlot:
        if inputs.keys() != self._inputs.keys():
            raise ValueError(f"{self.name} takes {sorted(self._inputs)}, staged were {sorted(inputs)}")
        copies: dict[str, Any] = {}
        for key, value in inputs.items():
            spec = self._inputs[key]
            if value.shape != spec.shape or value.dtype != numpy_dtype(spec.dtype):
                raise ValueError(
                    f"{self.name}: input {key!r} is {value.dtype} {value.shape}, declared {spec.dtype} {spec.shape}"
                )
            # JAX may alias host memory, or read it later: the caller's array has to be copied first
            copies[key] = value.copy() if isinstance(value, np.ndarray) else value
        return JaxSlot(copies)

    def run(self, slot: JaxSlot, resident: Mapping[str, Tree]) -> tuple[dict[str, Any], dict[str, Tree]]:
        staged, slot.inputs = slot.inputs, None
        if staged is None:
            raise ValueError(f"{self.name}: a slot is run once: stage anew")
        updates, outputs = self.compiled(staged, *self._split(resident))
        return outputs, updates

    def _split(self, resident: Mapping[str, Tree]) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """(consumed, kept) residents."""
        return {key: resident[key] for key in self._donated}, {key: resident[key] for key in self._kept}


def _on_every(program: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """``program(inputs, donated, kept) -> (updates, outputs)`` on each device's own residents."""
    if mesh is None:
        return program
    every, own = PartitionSpec(), PartitionSpec(RANKS)  # type: ignore[no-untyped-call]
    # that outputs are the same everywhere is the program's promise, which JAX could not follow through a kernel
    return jax.shard_map(program, mesh=mesh, in_specs=(every, own, own), out_specs=(own, every), check_vma=False)


class JaxExecutables(Executables):
    """``jax.jit`` over shapes padded to powers of two, to executables of class ``kind``.

    ``compiler_options`` are XLA's.
    """

    kind: type[JaxExecutable] = JaxExecutable

    def __init__(self, runtime: JaxRuntime, compiler_options: Mapping[str, Any] | None = None) -> None:
        self._runtime = runtime
        self._compiler_options = compiler_options or {}

    def expect(self, parameters: int) -> None:
        """Makes no difference."""

    def bucket(self, axis: str, size: int, limit: int) -> int:
        return min(max(8, 1 << max(0, size - 1).bit_length()), limit)

    def captures(self, shape: StepShape) -> bool:
        """Nothing is recorded: all is compiled."""
        return False

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        facts: ProgramFacts = NO_FACTS,
    ) -> JaxExecutable:
        return self.kind(name, fn, inputs, outputs, resident, donate, self._runtime, self._compiler_options)


def _check_outputs(name: str, outputs: Mapping[str, Any], declared: Mapping[str, ArraySpec]) -> None:
    found = {key: (tuple(value.shape), value.dtype.name) for key, value in outputs.items()}
    wanted = {key: (spec.shape, spec.dtype) for key, spec in declared.items()}
    assert found == wanted, f"{name} puts out {found}, declared {wanted}"


def _check_updates(name: str, updates: Mapping[str, Tree], donated: Mapping[str, Tree]) -> None:
    """A donated buffer can only hold an update of its own shape and dtype."""
    assert updates.keys() == donated.keys(), f"{name} updates {sorted(updates)}, and consumes {sorted(donated)}"
    for key in donated:
        before, after = (
            jax.tree.map(lambda leaf: f"{leaf.dtype.name} {leaf.shape}", tree) for tree in (donated[key], updates[key])
        )
        assert before == after, f"{name}: resident {key!r} comes back as {after}, consumed was {before}"
