"""The runner: runs launches as device programs, and reads their results.

It holds everything that is on the device (weights, request table, cache store, executables) and
nothing of what requests want; the scheduler is the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from zif.contract.arrays import Tree
from zif.contract.backend import Backend
from zif.contract.binding import Bound
from zif.contract.executable import Executable, Fetch
from zif.contract.model import Model
from zif.contract.step import StepShape
from zif.engine.inputs import InputProvider, from_requests
from zif.engine.launch import Launch, Observer
from zif.engine.logits import LogitsPlan
from zif.engine.programs import Context, EngineProgram, ProgramSpec
from zif.engine.results import StepResult
from zif.engine.shapes import Limits, Shapes
from zif.engine.staging import Staging
from zif.engine.store import CacheStore
from zif.engine.table import RequestTable, TableShape
from zif.engine.verifying import Drafter
from zif.sampling.masks import Mask
from zif.scheduler.batch import Batch
from zif.scheduler.request import Request
from zif.weights import parameters_per_token


@dataclass(slots=True)
class InFlight:
    """A launched batch, until its results are read."""

    batch: Batch
    plan: LogitsPlan
    fetch: Fetch


@dataclass(slots=True)
class Drawing:
    """Tokens that are drawn apart from their step, until they are read."""

    requests: Sequence[Request]
    plan: LogitsPlan
    fetch: Fetch


class Holder(Protocol):
    """What holds one resident tree."""

    arrays: Tree


@dataclass(slots=True)
class Holding:
    """A resident that nothing changes."""

    arrays: Tree


class Runner:
    """Device programs of one model on one backend. ``observers`` are told of each launch before it is made."""

    def __init__(
        self,
        backend: Backend,
        model: Model,
        weights: Tree,
        bound: Bound,
        cache: CacheStore,
        *,
        limits: Limits,
        seed: int,
        observers: Sequence[Observer] = (),
        drafter: Drafter | None = None,
        provider: InputProvider = from_requests,
    ) -> None:
        self.backend = backend
        self.model = model
        self.cache = cache
        self.bound = bound
        self.observers = list(observers)
        groups, sizes = zip(*((group.name, group.page_size) for group in cache.groups), strict=True)
        factors = tuple(size // limits.page_size for size in sizes)
        shape = TableShape(limits.rows, limits.pages, groups, factors, model.vocab_size, limits.drafts)
        self.table = RequestTable(shape, backend.runtime)
        self.residents: Mapping[str, Holder] = {
            "weights": Holding(weights),
            "cache": cache,
            "table": self.table,
            "adjustments": self.table.adjustments,
            "held": self.table.held,
        }
        self.staging = Staging(
            Shapes(limits, backend.executables.bucket, self._captures),
            self.table.shape,
            fuse=backend.capabilities.fuse_sampling,
            plans=bool(bound.plans),
            seed=seed,
            inputs=model.inputs,
            provider=provider,
            drafter=drafter,
        )
        self._context = Context(bound.ops, model, self.table.shape)
        self._compiled: dict[EngineProgram, tuple[Executable, tuple[str, ...]]] = {}
        self._outputs: dict[str, Any] = {}
        backend.executables.expect(parameters_per_token(model))

    @property
    def programs(self) -> Sequence[Executable]:
        """Everything compiled so far."""
        return tuple(executable for executable, _ in self._compiled.values())

    def launch(self, batch: Batch) -> InFlight:
        """Launch a batch; returns before the device is done, where it works asynchronously."""
        launches, plan = self.staging.launches(batch)
        fetch = None
        for launch in launches:
            outputs = self.run(launch)
            if launch.drawn:
                fetch = self.backend.runtime.fetch(outputs)
        self._outputs = {}
        return InFlight(batch, plan, fetch or self.backend.runtime.fetch({}))

    def draw(self, requests: Sequence[Request], masks: Sequence[Mask]) -> Drawing:
        """Draw the next tokens of requests whose steps have been launched, and which waited for ``masks``."""
        launch, plan = self.staging.draw(requests, masks)
        return Drawing(requests, plan, self.backend.runtime.fetch(dict(self.run(launch))))

    def run(self, launch: Launch) -> Mapping[str, Any]:
        """Run a program, compiled at its first use; the residents that it consumed are put back.

        Returns its outputs, on the device. Raises what the device raised.
        """
        for observer in self.observers:
            observer.launching(launch)
        try:
            return self._run(launch)
        except Exception as error:
            self._explain(error)
            raise

    def collect(self, launched: InFlight | Drawing) -> StepResult:
        """Wait for what was launched and read what it drew. Raises what the device raised."""
        try:
            arrays = launched.fetch.wait()
        except Exception as error:
            self._explain(error)
            raise
        return StepResult.of(arrays, launched.plan)

    def executable(self, program: EngineProgram) -> Executable:
        """``program``, compiled; not run."""
        return self._program(program)[0]

    def spec(self, program: EngineProgram) -> ProgramSpec:
        """``program`` in this engine."""
        return program.spec(self._context)

    def tune(self) -> None:
        """See :meth:`zif.contract.backend.Backend.tune`; every rank does so."""
        for observer in self.observers:
            observer.tuning()
        self.backend.tune()

    def close(self, *, failed: bool = False) -> None:
        """Let go of other ranks; nothing is launched any more. A device that has ``failed`` is not called for it."""
        for observer in self.observers:
            observer.closing(failed=failed)
        if not failed:
            self.backend.communicator.close()
        for observer in self.observers:
            observer.closed()

    def _run(self, launch: Launch) -> Mapping[str, Any]:
        if launch.step is not None:
            for prepare in self.bound.plans:
                prepare(launch.step)
        executable, names = self._program(launch.program)
        inputs: Mapping[str, Any] = launch.inputs
        if launch.takes:
            inputs = {**inputs, **{name: self._outputs[name] for name in launch.takes}}
        else:
            self._outputs = {}
        outputs, updates = executable.run(executable.stage(inputs), self._trees(names))
        for name, tree in updates.items():
            self.residents[name].arrays = tree
        self._outputs |= outputs
        return outputs

    def _program(self, program: EngineProgram) -> tuple[Executable, tuple[str, ...]]:
        """The executable of ``program``, and the residents that it is run with."""
        compiled = self._compiled.get(program)
        if compiled is None:
            spec = self.spec(program)
            step = spec.facts.step
            capturable = self.bound.capturable if step is None else self.bound.capturable_in(step)
            executable = self.backend.executables.compile(
                spec.name, spec.fn, spec.inputs, spec.outputs, self._trees(spec.residents), spec.donate,
                replace(spec.facts, capturable=capturable),
            )  # fmt: skip
            compiled = self._compiled[program] = (executable, spec.residents)
        return compiled

    def _captures(self, shape: StepShape) -> bool:
        """Whether the program of a mixed step is captured."""
        return self.backend.executables.captures(shape) and self.bound.capturable_in(shape)

    def _trees(self, names: Sequence[str]) -> dict[str, Tree]:
        return {name: self.residents[name].arrays for name in names}

    def _explain(self, error: Exception) -> None:
        """Raise what an observer knows to have led to ``error``, if any does."""
        for observer in self.observers:
            cause = observer.explain(error)
            if cause is not None:
                raise cause from error
