"""A step loop over the engine's programs: no scheduler, a fixed batch, every shape padded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from spike.frameworks import Framework
from zif.contract.binding import Bound
from zif.contract.executable import Executable
from zif.contract.kernels import KernelSet
from zif.contract.model import Model
from zif.contract.step import StepShape
from zif.engine import programs
from zif.engine.collectives import bind_ranks
from zif.engine.programs import Context, EngineProgram
from zif.engine.requests import model_requests
from zif.engine.store import CacheStore, stored_groups
from zif.engine.table import ADMITTED, SCRATCH, RequestTable, TableShape, admitted_row
from zif.sampling.params import SamplingParams
from zif.sampling.sampler import SamplerShape
from zif.weights import Shard, load_weights

PAGE, PAGES, WIDTH, ROWS, PAD = 4, 64, 6, 6, 3
GREEDY = SamplingParams(temperature=0.0)
Ints = Sequence[int]


@dataclass(frozen=True)
class Sequences:
    """What is to be generated: a prompt each, how it is sampled, and its adapter (-1: none)."""

    prompts: Sequence[Ints]
    params: Sequence[SamplingParams]
    adapters: Sequence[int]

    @classmethod
    def of(cls, prompts: Sequence[Ints], params: SamplingParams = GREEDY, adapters: Ints | None = None) -> Sequences:
        return cls(prompts, [params] * len(prompts), adapters or [-1] * len(prompts))


@dataclass
class Loop:
    """One model on one framework. ``compiled`` holds what it compiled; ``wrap`` goes around its packer."""

    framework: Framework
    model: Model
    extensions: Sequence[KernelSet] = ()
    wrap: Callable[[Any, Any], Any] = lambda packer, runtime: packer
    backend: Any = None
    compiled: dict[Hashable, Executable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.backend = self.backend or self.framework.backend()
        backend, comm = self.backend, self.backend.communicator
        packer = self.wrap(backend.packer, backend.runtime)
        checkpoint = cast(Any, None)  # random weights need none
        shard = Shard(comm.rank, comm.size)
        self.weights = load_weights(
            self.model, checkpoint, packer, "float32", load_format="dummy", progress=False, shard=shard
        )
        if comm.size > 1:
            self.model = self.model.local(comm.size)
        groups = self.model.cache_groups
        stored = stored_groups(groups, backend.cache_formats(), "float32", PAGE, backend.name)
        requests = model_requests(self.model, self.weights, "float32", stored)
        providers = [*self.extensions, *backend.kernels()]
        self.bound: Bound = bind_ranks(requests, providers, comm, self.model.vocab_size)
        names = tuple(group.name for group in groups)
        self.shape = TableShape(ROWS, WIDTH, names, (1,) * len(names), self.model.vocab_size)
        self.table = RequestTable(self.shape, backend.runtime)
        self.store = CacheStore(backend, stored, [PAGES] * len(stored))
        rng = np.random.default_rng(3)
        self._free = {name: list(rng.permutation(np.arange(1, PAGES))) for name in names}
        self.logits: list[Any] = []

    def generate(
        self,
        work: Sequences,
        count: int,
        *,
        fuse: bool = True,
        overlap: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> list[list[int]]:
        """``count`` tokens of each sequence. ``overlap`` launches each step before the one before is read.

        ``between`` is called when the prompts have been computed.
        """
        rows = np.arange(1, len(work.prompts) + 1, dtype=np.int32)
        taken = self._admit(work, rows)
        pending = [self._prefill(work, rows)]
        between()
        columns = []
        for _done in range(1, count):
            if not overlap:
                columns.append(pending.pop().wait()["tokens"])
            pending.append(self._decode(work, rows, fuse))
            if overlap:
                columns.append(pending.pop(0).wait()["tokens"])
        columns.append(pending.pop().wait()["tokens"])
        for group, pages in taken.items():
            self._free[group][:0] = pages
        return np.stack(columns)[:, : len(rows)].T.tolist()

    @property
    def context(self) -> Context:
        return Context(self.bound.ops, self.model, self.shape)

    def run(self, program: EngineProgram, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Compile (once) and run a program on the residents that it needs."""
        spec = program.spec(self.context)
        held = {"weights": self.weights, "cache": self.store.arrays, "table": self.table.arrays}
        resident = {name: held[name] for name in spec.residents}
        if program not in self.compiled:
            self.compiled[program] = self.backend.executables.compile(
                spec.name, spec.fn, spec.inputs, spec.outputs, resident, spec.donate, spec.facts
            )
        executable = self.compiled[program]
        outputs, updates = executable.run(executable.stage(inputs), resident)
        self.store.arrays = updates.get("cache", self.store.arrays)
        self.table.arrays = updates.get("table", self.table.arrays)
        return outputs

    def _admit(self, work: Sequences, rows: Any) -> dict[str, list[int]]:
        """Set up the rows; returns the pages that they have, a group."""
        fields = [admitted_row(params, params.seed or 0, 0) for params in work.params]
        inputs = {
            name: np.array([each[name] for each in fields], spec.dtype).reshape(spec.shape)
            for name, spec in self.shape.fields(ADMITTED, len(rows)).items()
        }
        self.run(programs.Admit(len(rows)), {"rows": rows, **inputs})
        # every page of a sequence at once, out of order, and other ones in every group
        count = len(rows) * WIDTH
        taken = {group: [free.pop() for _ in range(count)] for group, free in self._free.items()}
        pages = {f"page_ids.{group}": np.array(ids, np.int32) for group, ids in taken.items()}
        index = np.tile(np.arange(WIDTH, dtype=np.int32), len(rows))
        where = {"page_rows": np.repeat(rows, WIDTH), "page_indices": index}
        self.run(programs.Assign(count), where | pages)
        return taken

    def _prefill(self, work: Sequences, rows: Any) -> Any:
        """All prompts in one ragged step, with ``PAD`` tokens and one sequence of padding."""
        lens = np.array([len(prompt) for prompt in work.prompts])
        n, total = len(rows), int(lens.sum())
        shape = StepShape(total + PAD, n + 1, WIDTH, n + 1, decode=False)
        starts = np.concatenate([[0], np.cumsum(lens), [total]]).astype(np.int32)
        inputs = {
            "rows": _padded(rows, n + 1, SCRATCH),
            "tokens": _padded(np.concatenate(work.prompts), shape.tokens, 0),
            "num_tokens": np.array([total], np.int32),
            "query_starts": starts,
            "seqs": _padded(np.repeat(np.arange(n), lens), shape.tokens, n),
            "logits_at": _padded(starts[1:-1] - 1, n + 1, 0),
        }
        adapters = np.repeat(work.adapters, lens)
        logits = self.run(programs.Forward(shape), inputs | self._adapters(adapters, shape.tokens))["logits"]
        self.logits.append(logits)
        return self._sample(work, rows, logits, n + 1)

    def _decode(self, work: Sequences, rows: Any, fuse: bool) -> Any:
        """One token of every sequence, padded by one; which token it is the host does not say."""
        n = len(rows)
        shape = StepShape(n + 1, n + 1, WIDTH, n + 1, decode=True)
        nothing = np.zeros(n + 1, np.int32)
        inputs = {
            "rows": _padded(rows, n + 1, SCRATCH),
            "tokens": _padded(np.full(n, -1), n + 1, 0),
            "num_tokens": np.array([n], np.int32),
            "page_rows": nothing,
            "page_indices": nothing,
            **{f"page_ids.{group}": nothing for group in self.shape.groups},
            **self._adapters(np.array(work.adapters), n + 1),
        }
        if fuse:
            outputs = self.run(programs.Decode(shape, self._sampler(work, n + 1)), inputs)
            return self.backend.runtime.fetch(outputs)
        logits = self.run(programs.Forward(shape, shape.seqs), inputs)["logits"]
        self.logits.append(logits)
        return self._sample(work, rows, logits, n + 1)

    def _sample(self, work: Sequences, rows: Any, logits: Any, size: int) -> Any:
        program = programs.Sample(self._sampler(work, size))
        return self.backend.runtime.fetch(self.run(program, {"rows": _padded(rows, size, SCRATCH), "logits": logits}))

    def _sampler(self, work: Sequences, rows: int) -> SamplerShape:
        return SamplerShape(rows, random=any(not params.greedy for params in work.params))

    def _adapters(self, adapters: Any, size: int) -> dict[str, Any]:
        return {"adapter": _padded(adapters, size, -1)} if self.model.inputs else {}


def _padded(values: Any, size: int, fill: int) -> Any:
    out = np.full(size, fill, np.int32)
    out[: len(values)] = values
    return out
