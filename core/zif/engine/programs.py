"""The device programs of the engine, written against the ops: the same on every framework.

A program is a frozen value: what it does and the shapes that it does it for. It is hashable, which is how the runner
keeps what it compiled, and picklable, which is how other ranks are told of it. ``spec`` gives the function itself.
Residents: ``weights``, ``cache`` {group: arrays}, ``table`` and ``adjustments`` (see :mod:`zif.engine.table`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.executable import NO_FACTS, Program, ProgramFacts
from zif.contract.model import Model
from zif.contract.optable import Ops
from zif.contract.step import StepShape
from zif.engine.forward import Inputs, Specs, assign_pages, assignment_specs, forward_specs, run_model
from zif.engine.table import ADJUSTED, ADMITTED, TableShape
from zif.sampling.sampler import SamplerShape, draw


@dataclass(frozen=True)
class ProgramSpec:
    """A program, what it is staged, what it puts out, and the residents that it reads and consumes.

    It is run with exactly the residents named in ``reads`` and ``donate``.
    """

    name: str
    fn: Program
    inputs: Specs
    outputs: Specs
    donate: tuple[str, ...]
    reads: tuple[str, ...] = ()
    facts: ProgramFacts = NO_FACTS

    @property
    def residents(self) -> tuple[str, ...]:
        """Names of all residents it is run with."""
        return (*self.reads, *self.donate)


@dataclass(frozen=True)
class Context:
    """What all programs of one engine are made from."""

    ops: Ops
    model: Model
    table: TableShape


class EngineProgram(Protocol):
    """A frozen, hashable and picklable value that names a program."""

    def spec(self, context: Context) -> ProgramSpec:
        """The program itself, in ``context``."""
        ...


@dataclass(frozen=True, slots=True)
class Admit:
    """Write the fields of ``rows`` newly admitted requests into their rows."""

    rows: int

    def spec(self, context: Context) -> ProgramSpec:
        ops, table = context.ops, context.table

        def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
            arrays = dict(resident["table"])
            for name in ADMITTED:
                arrays[name] = ops.put(arrays[name], (inputs["rows"],), inputs[name])
            return {}, {"table": arrays}

        specs = {"rows": ArraySpec((self.rows,), "int32")}
        specs |= table.fields(ADMITTED, self.rows)
        return ProgramSpec(f"admit-{self.rows}", fn, specs, {}, ("table",), facts=ProgramFacts(repeated=True))


@dataclass(frozen=True, slots=True)
class Adjust:
    """Write one request's adjustments, and count its tokens so far: ``prompt`` and ``output`` of
    them at the most, padded with the scratch row."""

    prompt: int
    output: int

    def spec(self, context: Context) -> ProgramSpec:
        ops, table = context.ops, context.table

        def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
            a = dict(resident["adjustments"])
            row = inputs["row"]
            for name in ADJUSTED:
                a[name] = ops.put(a[name], (row,), inputs[name])
            a["in_prompt"] = ops.put(a["in_prompt"], (row,), False)
            a["in_prompt"] = ops.put(a["in_prompt"], (inputs["prompt_rows"], inputs["prompt"]), True)
            a["output_counts"] = ops.put(a["output_counts"], (row,), 0)
            a["output_counts"] = ops.add_at(a["output_counts"], (inputs["output_rows"], inputs["output"]), 1)
            return {}, {"adjustments": a}

        specs = {"row": ArraySpec((1,), "int32")}
        specs |= table.fields(ADJUSTED, 1)
        specs |= {name: ArraySpec((self.prompt,), "int32") for name in ("prompt_rows", "prompt")}
        specs |= {name: ArraySpec((self.output,), "int32") for name in ("output_rows", "output")}
        return ProgramSpec(f"adjust-{self.prompt}-{self.output}", fn, specs, {}, ("adjustments",))


@dataclass(frozen=True, slots=True)
class Assign:
    """Write ``count`` page assignments a group into the page tables; padding writes the scratch row."""

    count: int

    def spec(self, context: Context) -> ProgramSpec:
        ops, table = context.ops, context.table

        def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
            arrays = resident["table"]
            return {}, {"table": {**arrays, "pages": assign_pages(ops, table, inputs, arrays["pages"])}}

        inputs = assignment_specs(table, self.count)
        return ProgramSpec(f"assign-{self.count}", fn, inputs, {}, ("table",), facts=ProgramFacts(repeated=True))


@dataclass(frozen=True, slots=True)
class Forward:
    """Run the model over a step; leaves ``logits`` [R, vocab] on the device.

    ``assigned`` page assignments a group are made before it; of a decode step as many as it has sequences.
    """

    shape: StepShape
    assigned: int = 0

    def spec(self, context: Context) -> ProgramSpec:
        def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
            logits, arrays, cache = run_model(context.ops, context.model, context.table, self.shape, inputs, resident)
            return {"logits": logits}, {"table": arrays, "cache": cache}

        outputs = {"logits": ArraySpec((self.shape.logits, context.table.vocab), "float32")}
        return _over_a_step("forward", self.shape, fn, self.inputs(context), outputs)

    def inputs(self, context: Context) -> Specs:
        """What it is staged."""
        assert self.assigned == self.shape.seqs or not self.shape.decode
        return forward_specs(context.model, context.table, self.shape, self.assigned)


@dataclass(frozen=True, slots=True)
class Sample:
    """Draw tokens into the table, from the ``logits`` of a forward program."""

    shape: SamplerShape

    def spec(self, context: Context) -> ProgramSpec:
        shape = self.shape

        def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
            outputs, arrays, adjustments = draw(
                context.ops, shape, inputs["logits"], inputs["rows"], resident["table"],
                adjusted_rows=inputs.get("adjusted_rows"), adjustments=resident.get("adjustments"),
                targets=inputs.get("targets"),
            )  # fmt: skip
            updates = {"table": arrays}
            if shape.adjusted:
                updates["adjustments"] = adjustments
            return outputs, updates

        donate = ("table", "adjustments") if shape.adjusted else ("table",)
        specs = sampler_specs(shape, context.table)
        return ProgramSpec(f"sample-{shape.rows}", fn, specs, sampled_specs(shape), donate)


@dataclass(frozen=True, slots=True)
class Decode:
    """A decode step and its sampler in one program."""

    shape: StepShape
    sampler: SamplerShape

    def spec(self, context: Context) -> ProgramSpec:
        inputs = Forward(self.shape, self.shape.seqs).inputs(context)
        return _drawing("decode", context, self.shape, self.sampler, inputs, "rows")


@dataclass(frozen=True, slots=True)
class Mixed:
    """A step of any tokens and its sampler in one program; ``logits_rows`` [R] are the table's rows of the logits."""

    shape: StepShape
    sampler: SamplerShape
    assigned: int

    def spec(self, context: Context) -> ProgramSpec:
        inputs = Forward(self.shape, self.assigned).inputs(context)
        inputs["logits_rows"] = ArraySpec((self.shape.logits,), "int32")
        return _drawing("mixed", context, self.shape, self.sampler, inputs, "logits_rows")


def _drawing(
    kind: str, context: Context, shape: StepShape, sampler: SamplerShape, inputs: Specs, rows: str
) -> ProgramSpec:
    """A step and its sampler; the input ``rows`` has the table's rows of the logits."""
    assert sampler.plain

    def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
        logits, arrays, cache = run_model(context.ops, context.model, context.table, shape, inputs, resident)
        outputs, arrays, _ = draw(context.ops, sampler, logits, inputs[rows], arrays)
        return outputs, {"table": arrays, "cache": cache}

    return _over_a_step(kind, shape, fn, inputs, sampled_specs(sampler))


def _over_a_step(kind: str, shape: StepShape, fn: Program, inputs: Specs, outputs: Specs) -> ProgramSpec:
    name = f"{kind}-{shape.tokens}x{shape.seqs}x{shape.pages}" + ("" if shape.decode else f"-{shape.logits}")
    return ProgramSpec(name, fn, inputs, outputs, ("table", "cache"), ("weights",), ProgramFacts(shape))


def sampler_specs(shape: SamplerShape, table: TableShape) -> Specs:
    """What a sampler of its own is staged."""
    specs = {
        "rows": ArraySpec((shape.rows,), "int32"),
        "logits": ArraySpec((shape.rows, table.vocab), "float32"),
    }
    if shape.adjusted:
        specs["adjusted_rows"] = ArraySpec((shape.rows,), "int32")
    if shape.targets:
        specs["targets"] = ArraySpec((shape.rows,), "int32")
    return specs


def sampled_specs(shape: SamplerShape) -> Specs:
    """What a sampler puts out."""
    specs = {"tokens": ArraySpec((shape.rows,), "int32")}
    if shape.top is not None:
        specs |= {
            "logprob": ArraySpec((shape.rows,), "float32"),
            "rank": ArraySpec((shape.rows,), "int32"),
            "top_ids": ArraySpec((shape.rows, shape.top), "int32"),
            "top_logprobs": ArraySpec((shape.rows, shape.top), "float32"),
        }
    return specs
