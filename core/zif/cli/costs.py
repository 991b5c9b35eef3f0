"""``zif devices --ops NAME --model M``: what each op costs in a step of a model, and which kernels it would be less by.

The model runs eagerly, with random weights: a prompt, then a token of one sequence. Each call of an op is noted with
the cost that its kernel, or else its op, gives for the shapes at hand (:mod:`zif.contract.cost`). A share is of the
least time that all take at the rates that were measured: a kernel may be slower, a step be held up by the host.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zif.cli.output import print_json, print_table
from zif.cli.rates import Rates, measured_rates
from zif.conformance.variants import eager
from zif.contract.binding import Bound, KernelChoice
from zif.contract.cost import Cost, OpCall
from zif.contract.kernels import COMPOSITE
from zif.contract.ops import op_specs
from zif.engine.engine import Engine
from zif.messages import EngineRequest
from zif.plugins import select
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings

PROMPT = 512
"""Tokens of the prompt, where the model's context has room for them."""

COLUMNS = (
    "op", "kernel", "decode calls", "decode MB", "decode share", "prefill GFLOP", "prefill MB", "prefill share",
    "refused",
)  # fmt: skip


@dataclass
class Noted:
    """What the calls of an op by one kernel cost together in a step."""

    op: str
    kernel: str
    better: str
    calls: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0

    def add(self, calls: float, flops: float, moved: float) -> None:
        """Further calls, with what they cost together."""
        self.calls += calls
        self.flops += flops
        self.bytes += moved

    def seconds(self, rates: Rates) -> float:
        """The least that they take: of moving and of computing, whichever is longer."""
        return max(self.bytes / rates.bytes_per_s, self.flops / rates.flops_per_s)


class Notes:
    """Takes the place of bound ops, and notes what they are called with."""

    def __init__(self, bound: Bound, kept: Mapping[str, float]) -> None:
        self._kept = kept
        self._by_key = {(c.request.op, c.request["key"]): c for c in bound.choices if "key" in c.request}
        self._by_op = {c.request.op: c for c in bound.choices}
        self._inside = False
        self.history = self.pairs = 0
        self.noted: dict[tuple[str, str], Noted] = {}
        table = vars(bound.ops)
        for name, call in list(table.items()):
            table[name] = self._repeating(call) if name == "repeat" else self._noting(name, call)

    def begin(self, cached: int, new: int) -> None:
        """A step of one sequence with ``cached`` positions and ``new`` tokens."""
        self.history, self.pairs = cached + new, new * cached + new * (new + 1) // 2
        self.noted = {}

    def _noting(self, op: str, call: Callable[..., Any]) -> Callable[..., Any]:
        spec = op_specs()[op]
        parameters = inspect.signature(spec.reference)

        def noting(*args: Any, **kwargs: Any) -> Any:
            given = parameters.bind(*args, **kwargs).arguments
            choice = self._choice(op, given.get(spec.dispatch) if spec.dispatch else None)
            composed = choice is not None and choice.kernel.provider == COMPOSITE
            if composed or self._inside:  # what a composite calls is noted, what a kernel calls is its own
                return call(*args, **kwargs)
            self._inside = True
            try:
                result = call(*args, **kwargs)
            finally:
                self._inside = False
            cost = spec.cost if choice is None or choice.kernel.cost is None else choice.kernel.cost
            self._note(op, choice, cost(OpCall(given, result, self.history, self.pairs, self._kept)))
            return result

        return noting

    def _choice(self, op: str, dispatched: Any) -> KernelChoice | None:
        if dispatched is not None:
            return self._by_key.get((op, dispatched.dispatch_key))
        return self._by_op.get(op)

    def _note(self, op: str, choice: KernelChoice | None, cost: Cost) -> None:
        kernel = "-" if choice is None else str(choice.kernel)
        refused = choice.rejected[:1] if choice is not None else ()
        better = "".join(f"{entry.kernel}: {entry.reason}" for entry in refused)
        noted = self.noted.setdefault((op, kernel), Noted(op, kernel, better))
        noted.add(1.0, cost.flops, cost.bytes)

    def _repeating(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``repeat``, with each note taken as often as a layer runs, however often a framework calls the block."""

        def repeating(block: Any, stacked: Any, carry: Any, start: int, stop: int) -> Any:
            before, self.noted = self.noted, {}
            turns = 0

            def counted(*args: Any) -> Any:
                nonlocal turns
                turns += 1
                return block(*args)

            result = call(counted, stacked, carry, start, stop)
            within, self.noted = self.noted, before
            for key, noted in within.items():
                share = (stop - start) / turns
                total = self.noted.setdefault(key, Noted(noted.op, noted.kernel, noted.better))
                total.add(noted.calls * share, noted.flops * share, noted.bytes * share)
            return result

        return repeating


def print_costs(device: str, device_opts: Sequence[str], model: str, *, as_json: bool) -> int:
    """Print the costs of a model's ops on a device; the exit code is 0.

    Raises the deliberate errors of :mod:`zif.contract.errors`.
    """
    settings = Settings(
        model=model,
        max_running_requests=1,
        max_total_tokens=2 * PROMPT,
        disable_radix_cache=True,
        disable_overlap_schedule=True,
    )
    backend = select(device, device_opts).create_backend()
    rates, rows, bound = model_costs(settings, backend)
    forms = [{"kernel": one.kernel, "gives": str(one.form or "arrays"), "because": one.reason} for one in bound.forms]
    if as_json:
        print_json({"rates": asdict(rates), "ops": rows, "forms": forms})
        return 0
    print(f"measured: {rates.bytes_per_s / 1e9:.1f} GB/s copied, {rates.flops_per_s / 1e12:.2f} TFLOP/s multiplied")
    print_table(rows, columns=COLUMNS)
    if forms:
        print()
        print_table(forms)
    return 0


def model_costs(settings: Settings, backend: Any) -> tuple[Rates, list[dict[str, Any]], Bound]:
    """(rates, a row for each op and the kernel that serves it, how ops were bound) of a model on a backend.

    Raises the deliberate errors of :mod:`zif.contract.errors`.
    """
    engine = build_engine(settings, progress=False, backend=eager(backend), load_format="dummy", warm_up=False)
    runner = engine.runner
    kept = {g.name: g.page_bytes / g.page_size / g.group.layers for g in runner.cache.groups}
    notes = Notes(runner.bound, kept)
    scheduler = engine.scheduler
    length = min(PROMPT, scheduler.max_length - 2, scheduler.config.chunked_prefill_size)
    prefill, decode = _two_steps(engine, notes, length)
    engine.close()
    dtype = next(choice.request.dtype for choice in runner.bound.choices if choice.request.op == "embedding")
    rates = measured_rates(backend, dtype)
    return rates, _rows(prefill, decode, rates), runner.bound


def _two_steps(engine: Engine, notes: Notes, length: int) -> list[list[Noted]]:
    """What a step with a prompt of ``length`` costs, and the step of one token that follows."""
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    refusal = engine.add(EngineRequest("0", [1] * length, params))
    assert refusal is None, refusal.error
    steps = []
    for cached, new in ((0, length), (length, 1)):
        notes.begin(cached, new)
        engine.step()
        steps.append(list(notes.noted.values()))
    while engine.has_work:
        engine.step()
    return steps


def _rows(prefill: Sequence[Noted], decode: Sequence[Noted], rates: Rates) -> list[dict[str, Any]]:
    """By what they cost in the decode step."""
    sums = [sum(noted.seconds(rates) for noted in step) or 1.0 for step in (decode, prefill)]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, step, total in (("decode", decode, sums[0]), ("prefill", prefill, sums[1])):
        for noted in step:
            row = rows.setdefault((noted.op, noted.kernel), {"op": noted.op, "kernel": noted.kernel})
            row |= {
                f"{name} calls": round(noted.calls),
                f"{name} MB": round(noted.bytes / 1e6, 3),
                f"{name} GFLOP": round(noted.flops / 1e9, 3),
                f"{name} share": round(100 * noted.seconds(rates) / total, 1),
                "refused": noted.better,
            }
    return sorted(rows.values(), key=lambda row: -row.get("decode share", 0.0))
