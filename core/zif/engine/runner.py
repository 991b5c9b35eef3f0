"""The runner: launches scheduled batches as device programs, and reads their results.

It holds everything that is on the device (weights, request table, cache store, executables) and
nothing of what requests want; the scheduler is the other way round.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from zif.contract.arrays import Tree
from zif.contract.backend import Backend
from zif.contract.bind import Bound
from zif.contract.executable import Executable, Fetch
from zif.contract.model import Model
from zif.contract.step import HostStep, StepShape
from zif.engine import programs
from zif.engine.programs import ProgramSpec
from zif.engine.staging import (
    Limits,
    LogitsPlan,
    assignment_inputs,
    forward_inputs,
    host_step,
    no_step,
    padded,
    plan_logits,
    sampler_shape,
    step_shape,
)
from zif.engine.store import CacheStore
from zif.engine.table import ADMITTED, SCRATCH, RequestTable, TableShape, adjusted_row, admitted_row
from zif.messages import TokenLogprob
from zif.sampling.sampler import SamplerShape
from zif.scheduler.batch import Batch
from zif.scheduler.request import Request
from zif.weights import parameters_per_token

HostArray = np.ndarray[Any, Any]
Key = tuple[Any, ...]
"""A program: which of :data:`zif.engine.programs.MAKERS` makes it, and the shapes that it is made for."""
UNBOUNDED = 1 << 30
"""The limit of an axis that has none."""
_NO_PAGES = _NO_ROWS = np.zeros(0, np.int32)


@dataclass(slots=True)
class InFlight:
    """A launched batch, until its results are read."""

    batch: Batch
    plan: LogitsPlan
    fetch: Fetch


@dataclass(slots=True)
class StepResult:
    """What a step drew. ``tokens`` [len(batch.sampling)] int32."""

    tokens: HostArray
    arrays: Mapping[str, HostArray]
    plan: LogitsPlan

    def logprob(self, index: int, top: int) -> TokenLogprob:
        """That of the ``index``-th sampled token, with ``top`` alternatives."""
        return self._entry(int(self.plan.sampled[index]), int(self.tokens[index]), top)

    def prompt_logprobs(self, batch: Batch) -> list[tuple[Request, int, list[TokenLogprob]]]:
        """Those of the prompt positions that the step scored: (request, first position, scores) each."""
        scored = []
        for entry, first, count in self.plan.scored:
            request = batch.requests[entry]
            top = request.params.prompt_logprobs or 0
            places = range(first, first + count)
            scores = [self._entry(at, int(self.plan.targets[at]), top) for at in places]
            scored.append((request, int(batch.starts[entry]) + 1, scores))
        return scored

    def _entry(self, at: int, token: int, top: int) -> TokenLogprob:
        ids, values = self.arrays["top_ids"][at, :top].tolist(), self.arrays["top_logprobs"][at, :top].tolist()
        return TokenLogprob(
            token, float(self.arrays["logprob"][at]), int(self.arrays["rank"][at]), list(zip(ids, values, strict=True))
        )


class Holder(Protocol):
    """What holds one resident tree."""

    arrays: Tree


@dataclass(slots=True)
class Holding:
    """A resident that nothing changes."""

    arrays: Tree


class Runner:
    """Device programs of one model on one backend."""

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
    ) -> None:
        self.backend = backend
        self.model = model
        self.cache = cache
        self.bound = bound
        self._ops = bound.ops
        self._limits = limits
        self._seed = seed
        groups = tuple(group.name for group in model.cache_groups)
        self.table = RequestTable(TableShape(limits.rows, limits.pages, groups, model.vocab_size), backend.runtime)
        self._holders: dict[str, Holder] = {
            "weights": Holding(weights),
            "cache": cache,
            "table": self.table,
            "adjustments": self.table.adjustments,
        }
        self._compiled: dict[Key, tuple[Executable, tuple[str, ...]]] = {}
        backend.executables.expect(parameters_per_token(model))

    @property
    def programs(self) -> Sequence[Executable]:
        """Everything compiled so far."""
        return tuple(executable for executable, _ in self._compiled.values())

    def launch(self, batch: Batch) -> InFlight:
        """Launch a batch; returns before the device is done, where it works asynchronously."""
        if batch.new_requests:
            self._admit(batch)
        plan = plan_logits(batch)
        shape = step_shape(batch, len(plan.at), self._limits, self.backend.executables.bucket, self._captures)
        room = self._assigned(shape)
        inline = len(batch.page_rows) <= room
        if not inline:
            self._assign(batch)
        if self.bound.plans:
            self._prepare(host_step(batch, shape))
        inputs: dict[str, Any] = dict(forward_inputs(batch, plan, shape))
        if room:
            pages = (batch.page_rows, batch.page_indices, batch.page_ids)
            inputs |= assignment_inputs(*pages, self.table.shape.groups, room) if inline else self._no_pages(room)
        sampler = sampler_shape(batch, plan, shape.logits)
        if room and sampler.plain and self.backend.capabilities.fuse_sampling:
            outputs = self._drawn(shape, sampler, plan.rows, inputs)
        else:
            logits = self._forward(shape, inputs)
            outputs = self._sample(sampler, batch, plan, logits) if len(plan.at) else {}
        return InFlight(batch, plan, self.backend.runtime.fetch(outputs))

    def warm_up(self) -> int:
        """Compile the programs of decode steps, of captured mixed ones and of what precedes steps; run each twice.

        Returns how many there are. They run over the scratch row alone: nothing that a request will see changes. Large
        steps come first, so that what a graph leaves free has room for the next.
        """
        shapes = sorted(self.warm_shapes(), key=lambda shape: (shape.tokens, shape.seqs), reverse=True)
        for shape, random in itertools.product(shapes, (False, True)):
            if not (shape.decode or random):
                continue  # a mixed step's sampler is one for all: see _drawn
            inputs = no_step(shape) | self._no_pages(self._assigned(shape))
            for _ in range(2):
                self._prepare(HostStep(shape, np.zeros(1, np.int32), _NO_PAGES))
                if self.backend.capabilities.fuse_sampling:
                    self._drawn(shape, SamplerShape(shape.logits, random), _NO_ROWS, inputs)
                else:
                    self._forward(shape, inputs)
        pages = self._limits.tokens // self._limits.page_size + self._limits.rows  # of a step that finds none cached
        for _ in range(2):
            for rows in self._extents("rows", self._limits.rows):
                self._run(("admit", rows), self._no_requests(rows))
            for count in self._extents("assignments", pages, UNBOUNDED):
                self._run(("assign", count), self._no_pages(count))
        self.backend.runtime.synchronize()
        return len(self._compiled)

    def tune(self) -> None:
        """See :meth:`zif.contract.backend.Backend.tune`; every rank does so."""
        self.backend.tune()

    def warm_shapes(self) -> Sequence[StepShape]:
        """The steps whose programs :meth:`warm_up` compiles: those of decoding, and mixed ones that are captured."""
        limits, bucket = self._limits, self.backend.executables.bucket
        widths = self._extents("pages", limits.pages)
        sizes = itertools.product(self._extents("decode_seqs", limits.rows), widths)
        decodes = [StepShape(size, size, width, size, decode=True) for size, width in sizes]
        mixed = [
            StepShape(tokens, seqs, width, seqs, decode=False)
            for tokens in self._extents("tokens", limits.tokens)
            for seqs in self._extents("seqs", limits.rows)
            for width in widths
            if seqs <= bucket("seqs", min(tokens, limits.rows), limits.rows)
        ]
        return [*decodes, *filter(self._captures, mixed)]

    def step_shapes(self) -> Sequence[StepShape]:
        """Every shape that a step can have, those of decode steps first: each is a program of the whole model."""
        limits = self._limits
        widths = self._extents("pages", limits.pages)
        counts, seqs, logits = (self._extents(axis, limit) for axis, limit in (
            ("tokens", limits.tokens), ("seqs", limits.rows), ("logits", limits.tokens)
        ))  # fmt: skip
        most = {count: self.backend.executables.bucket("logits", count, limits.tokens) for count in counts}
        decodes = itertools.product(self._extents("decode_seqs", limits.rows), widths)
        mixed = (StepShape(*size, decode=False) for size in itertools.product(counts, seqs, widths, logits))
        return [
            *(StepShape(size, size, width, size, decode=True) for size, width in decodes),
            *(shape for shape in mixed if shape.logits <= most[shape.tokens]),
        ]

    def compile_step(self, shape: StepShape) -> Executable:
        """The program that runs the model over a step, sampling aside; not run."""
        return self._program(("forward", shape))[0]

    def collect(self, launched: InFlight) -> StepResult:
        """Wait for a launched batch and read what it drew. Raises what the device raised."""
        arrays = launched.fetch.wait()
        tokens = arrays["tokens"][launched.plan.sampled] if arrays else np.zeros(0, np.int32)
        return StepResult(tokens, arrays, launched.plan)

    def close(self, *, failed: bool = False) -> None:
        """Let go of other ranks; nothing is launched any more. A device that has ``failed`` is not called for it."""
        if not failed:
            self.backend.communicator.close()

    def _prepare(self, step: HostStep) -> None:
        """Let kernels that plan on the host do so, for the step that is launched next."""
        for prepare in self.bound.plans:
            prepare(step)

    def _extents(self, axis: str, most: int, limit: int | None = None) -> list[int]:
        """What sizes of an axis up to ``most`` are padded to; ``limit`` is the axis's, if it is another."""
        limit = most if limit is None else limit
        return sorted({self.backend.executables.bucket(axis, size, limit) for size in range(1, most + 1)})

    def _captures(self, shape: StepShape) -> bool:
        """Whether the program of a mixed step is captured."""
        return self.backend.executables.captures(shape) and self.bound.capturable_in(shape)

    def _assigned(self, shape: StepShape) -> int:
        """Page assignments that there is room for in a step's own program; none where it is launched op by op."""
        return shape.tokens if shape.decode or self._captures(shape) else 0

    def _no_requests(self, rows: int) -> dict[str, HostArray]:
        """Inputs of ``admit`` of that many rows, all of them the scratch row."""
        fields = {name: self.table.shape.field(name, dtype, rows).shape for name, dtype in ADMITTED.items()}
        return {"rows": np.full(rows, SCRATCH, np.int32)} | {
            name: np.zeros(shape, ADMITTED[name]) for name, shape in fields.items()
        }

    def _no_pages(self, room: int) -> dict[str, Any]:
        groups = self.table.shape.groups
        return dict(assignment_inputs(_NO_PAGES, _NO_PAGES, np.zeros((len(groups), 0), np.int32), groups, room))

    def _drawn(
        self, shape: StepShape, sampler: SamplerShape, rows: HostArray, inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A step and its sampler in one program; ``rows`` are the table's of the logits.

        A mixed step's sampler draws at random, which draws the same greedy tokens: a program less to capture.
        """
        if shape.decode:
            return self._run(("decode", shape, sampler), inputs)
        inputs = {**inputs, "logits_rows": padded(rows, shape.logits, SCRATCH)}
        return self._run(("mixed", shape, replace(sampler, random=True)), inputs)

    def _forward(self, shape: StepShape, inputs: Mapping[str, Any]) -> Any:
        """Logits, on the device."""
        return self._run(("forward", shape), inputs)["logits"]

    def _sample(self, shape: SamplerShape, batch: Batch, plan: LogitsPlan, logits: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = {"rows": padded(plan.rows, shape.rows, SCRATCH), "logits": logits}
        if shape.adjusted:
            rows = np.zeros(shape.rows, np.int32)
            rows[plan.sampled] = [request.row if request.params.adjusted else SCRATCH for request in batch.sampling]
            inputs["adjusted_rows"] = rows
        if shape.targets:
            inputs["targets"] = padded(plan.targets, shape.rows, -1)
        return self._run(("sample", shape), inputs)

    def _admit(self, batch: Batch) -> None:
        """Set up the rows of newly admitted requests."""
        size = self.backend.executables.bucket("rows", len(batch.new_requests), self._limits.rows)
        start_of = dict(zip((id(request) for request in batch.requests), batch.starts.tolist(), strict=True))
        inputs = self._no_requests(size)
        for place, request in enumerate(batch.new_requests):
            inputs["rows"][place] = request.row
            for name, value in admitted_row(request.params, self._seed_of(request), start_of[id(request)]).items():
                inputs[name][place] = value
        self._run(("admit", size), inputs)
        for request in batch.new_requests:
            if request.params.adjusted:
                self._admit_adjusted(request)

    def _admit_adjusted(self, request: Request) -> None:
        self.table.adjustments.ensure()
        bucket = self.backend.executables.bucket
        prompt, output = request.prompt, request.output_ids
        prompt_size = bucket("history", len(prompt), UNBOUNDED)
        output_size = bucket("history", max(len(output), 1), UNBOUNDED)
        row = adjusted_row(request.params, len(prompt), sorted(request.stop_ids))
        inputs = {name: np.asarray(value)[None] for name, value in row.items()}
        inputs = {name: v.astype(np.int32 if v.dtype.kind == "i" else np.float32) for name, v in inputs.items()}
        inputs |= {
            "row": np.array([request.row], np.int32),
            "prompt": padded(prompt, prompt_size, 0),
            "prompt_rows": padded([request.row] * len(prompt), prompt_size, SCRATCH),
            "output": padded(output, output_size, 0),
            "output_rows": padded([request.row] * len(output), output_size, SCRATCH),
        }
        self._run(("adjust", prompt_size, output_size), inputs)

    def _assign(self, batch: Batch) -> None:
        count = len(batch.page_rows)
        size = self.backend.executables.bucket("assignments", count, UNBOUNDED)
        groups = self.table.shape.groups
        inputs = assignment_inputs(batch.page_rows, batch.page_indices, batch.page_ids, groups, size)
        self._run(("assign", size), inputs)

    def _run(self, key: Key, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the program of ``key``, compiled at its first use; the residents it consumed are put back."""
        executable, names = self._program(key)
        outputs, updates = executable.run(executable.stage(inputs), self._residents(names))
        for name, tree in updates.items():
            self._holders[name].arrays = tree
        return outputs

    def _program(self, key: Key) -> tuple[Executable, tuple[str, ...]]:
        """The executable of ``key``, and the residents that it is run with."""
        compiled = self._compiled.get(key)
        if compiled is None:
            spec = self.spec(key)
            step = spec.static.get("step")
            capturable = self.bound.capturable if step is None else self.bound.capturable_in(step)
            static = {**spec.static, "capturable": capturable}
            executable = self.backend.executables.compile(
                spec.name, spec.fn, spec.inputs, spec.outputs, self._residents(spec.residents), spec.donate, static
            )
            compiled = self._compiled[key] = (executable, spec.residents)
        return compiled

    def spec(self, key: Key) -> ProgramSpec:
        """The program that a key names."""
        kind, *facts = key
        if kind in ("forward", "mixed"):
            facts.append(self._assigned(facts[0]))
        model = (self.model,) if kind in ("forward", "mixed", "decode") else ()
        return programs.MAKERS[kind](self._ops, *model, self.table.shape, *facts)

    def _residents(self, names: Sequence[str]) -> dict[str, Tree]:
        return {name: self._holders[name].arrays for name in names}

    def _seed_of(self, request: Request) -> int:
        """The request's own seed, or one that follows from the engine's and its place of arrival."""
        if request.params.seed is not None:
            return request.params.seed
        digest = hashlib.blake2b(f"{self._seed}:{request.order}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")
