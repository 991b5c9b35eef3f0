"""The device programs of the engine, written against the ops: the same on every framework.

Each maker returns a :data:`zif.contract.executable.Program` and the specs of what it is staged.
Residents: ``weights``, ``cache`` {group: arrays}, ``table`` and ``adjustments`` (see
:mod:`zif.engine.table`). The sampler's ``logits`` are staged from what a forward program put out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.executable import Program
from zif.contract.model import InputSpec, Model
from zif.contract.optable import Ops
from zif.contract.step import Step, StepShape
from zif.engine.table import ADJUSTED, ADMITTED, TableShape
from zif.sampling.sampler import SamplerShape, draw

Specs = dict[str, ArraySpec]
Inputs = dict[str, Any]


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
    static: Mapping[str, Any]
    reads: tuple[str, ...] = ()

    @property
    def residents(self) -> tuple[str, ...]:
        """Names of all residents it is run with."""
        return (*self.reads, *self.donate)


def admit(ops: Ops, table: TableShape, rows: int) -> ProgramSpec:
    """Write the fields of newly admitted requests into their rows."""

    def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
        arrays = dict(resident["table"])
        for name in ADMITTED:
            arrays[name] = ops.put(arrays[name], (inputs["rows"],), inputs[name])
        return {}, {"table": arrays}

    specs = {"rows": ArraySpec((rows,), "int32")}
    specs |= {name: table.field(name, dtype, rows) for name, dtype in ADMITTED.items()}
    return ProgramSpec(f"admit-{rows}", fn, specs, {}, ("table",), {"rows": rows, "repeated": True})


def admit_adjusted(ops: Ops, table: TableShape, prompt: int, output: int) -> ProgramSpec:
    """Write one request's adjustments, and count its tokens so far: ``prompt`` and ``output`` of
    them at the most, padded with the scratch row."""

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
    specs |= {name: table.field(name, dtype, 1) for name, dtype in ADJUSTED.items()}
    specs |= {name: ArraySpec((prompt,), "int32") for name in ("prompt_rows", "prompt")}
    specs |= {name: ArraySpec((output,), "int32") for name in ("output_rows", "output")}
    return ProgramSpec(
        f"adjust-{prompt}-{output}", fn, specs, {}, ("adjustments",), {"prompt": prompt, "output": output}
    )


def assign(ops: Ops, table: TableShape, count: int) -> ProgramSpec:
    """Write ``count`` page assignments a group into the page tables; padding writes the scratch row."""

    def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
        arrays = resident["table"]
        return {}, {"table": {**arrays, "pages": _assigned(ops, table, inputs, arrays["pages"])}}

    static = {"count": count, "repeated": True}
    return ProgramSpec(f"assign-{count}", fn, _assignment_specs(table, count), {}, ("table",), static)


def forward(ops: Ops, model: Model, table: TableShape, shape: StepShape, assigned: int = 0) -> ProgramSpec:
    """Run the model over a step; leaves ``logits`` [R, vocab] on the device.

    ``assigned`` page assignments a group are made before it; of a decode step as many as it has sequences, always.
    """

    def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
        logits, arrays, cache = _forward(ops, model, table, shape, inputs, resident)
        return {"logits": logits}, {"table": arrays, "cache": cache}

    outputs = {"logits": ArraySpec((shape.logits, table.vocab), "float32")}
    inputs = _forward_specs(model.inputs, table, shape, assigned)
    return ProgramSpec(_name("forward", shape), fn, inputs, outputs, ("table", "cache"), {"step": shape}, ("weights",))


def sample(ops: Ops, table: TableShape, shape: SamplerShape) -> ProgramSpec:
    """Draw tokens from ``logits`` into the table."""

    def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
        outputs, arrays, adjustments = draw(
            ops, shape, inputs["logits"], inputs["rows"], resident["table"],
            adjusted_rows=inputs.get("adjusted_rows"), adjustments=resident.get("adjustments"),
            targets=inputs.get("targets"),
        )  # fmt: skip
        updates = {"table": arrays}
        if shape.adjusted:
            updates["adjustments"] = adjustments
        return outputs, updates

    specs = {
        "rows": ArraySpec((shape.rows,), "int32"),
        "logits": ArraySpec((shape.rows, table.vocab), "float32"),
    }
    if shape.adjusted:
        specs["adjusted_rows"] = ArraySpec((shape.rows,), "int32")
    if shape.targets:
        specs["targets"] = ArraySpec((shape.rows,), "int32")
    donate = ("table", "adjustments") if shape.adjusted else ("table",)
    return ProgramSpec(f"sample-{shape.rows}", fn, specs, _sampled_specs(shape), donate, {"sampler": shape})


def decode(ops: Ops, model: Model, table: TableShape, shape: StepShape, sampler: SamplerShape) -> ProgramSpec:
    """A decode step and its sampler in one program."""
    assert shape.decode
    inputs = _forward_specs(model.inputs, table, shape, shape.seqs)
    return _drawing("decode", ops, model, table, shape, sampler, inputs, "rows")


def mixed(
    ops: Ops, model: Model, table: TableShape, shape: StepShape, sampler: SamplerShape, assigned: int
) -> ProgramSpec:
    """A step of any tokens and its sampler in one program; ``logits_rows`` [R] are the table's rows of the logits."""
    inputs = _forward_specs(model.inputs, table, shape, assigned) | {"logits_rows": ArraySpec((shape.logits,), "int32")}
    return _drawing("mixed", ops, model, table, shape, sampler, inputs, "logits_rows")


MAKERS: Mapping[str, Callable[..., ProgramSpec]] = {
    "admit": admit, "adjust": admit_adjusted, "assign": assign, "forward": forward, "sample": sample, "decode": decode,
    "mixed": mixed,
}  # fmt: skip


def _drawing(
    kind: str, ops: Ops, model: Model, table: TableShape, shape: StepShape, sampler: SamplerShape, inputs: Specs,
    rows: str,
) -> ProgramSpec:  # fmt: skip
    """A step and its sampler; the input ``rows`` has the table's rows of the logits."""
    assert sampler.plain

    def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
        logits, arrays, cache = _forward(ops, model, table, shape, inputs, resident)
        outputs, arrays, _ = draw(ops, sampler, logits, inputs[rows], arrays)
        return outputs, {"table": arrays, "cache": cache}

    static = {"step": shape, "sampler": sampler}
    outputs = _sampled_specs(sampler)
    return ProgramSpec(_name(kind, shape), fn, inputs, outputs, ("table", "cache"), static, ("weights",))


def _forward(
    ops: Ops, model: Model, table: TableShape, shape: StepShape, inputs: Inputs, resident: dict[str, Tree]
) -> tuple[Any, Tree, Tree]:
    """(logits, table, cache) after a step."""
    weights = resident["weights"]
    make = _decode_step if shape.decode else _mixed_step
    step, arrays = make(ops, table, shape, inputs, resident["table"])
    step = replace(step, inputs={spec.name: inputs[spec.name] for spec in model.inputs})
    x = model.embed(ops, weights, step)
    x, cache = model.layers(ops, weights, x, resident["cache"], step)
    return model.head(ops, weights, x if shape.decode else x[step.logits_at]), arrays, cache


def _decode_step(ops: Ops, table: TableShape, shape: StepShape, inputs: Inputs, arrays: Tree) -> tuple[Step, Tree]:
    """(step, table after it), its page assignments made."""
    tokens, positions, kv_lens, order, tables, kv_len, pages = ops.decode_inputs(
        inputs["rows"], inputs["tokens"], arrays["last_token"], arrays["kv_len"], arrays["pages"],
        inputs["page_rows"], inputs["page_indices"], {group: inputs[f"page_ids.{group}"] for group in table.groups},
        shape.pages,
    )  # fmt: skip
    step = Step(
        tokens=tokens,
        positions=positions,
        seqs=order[:-1],
        query_starts=order,
        kv_lens=kv_lens,
        pages=tables,
        num_tokens=inputs["num_tokens"],
        logits_at=order[:-1],
        shape=shape,
    )
    return step, {**arrays, "kv_len": kv_len, "pages": pages}


def _mixed_step(ops: Ops, table: TableShape, shape: StepShape, inputs: Inputs, arrays: Tree) -> tuple[Step, Tree]:
    """(step, table after it), its page assignments made where it has any."""
    assigned = "page_rows" in inputs
    arrays = {**arrays, "pages": _assigned(ops, table, inputs, arrays["pages"])} if assigned else arrays
    tokens, positions, kv_lens, tables, kv_len = ops.mixed_inputs(
        inputs["rows"], inputs["tokens"], inputs["seqs"], inputs["query_starts"], inputs["num_tokens"],
        arrays["last_token"], arrays["kv_len"], {group: arrays["pages"][group] for group in table.groups}, shape.pages,
    )  # fmt: skip
    step = Step(
        tokens=tokens,
        positions=positions,
        seqs=inputs["seqs"],
        query_starts=inputs["query_starts"],
        kv_lens=kv_lens,
        pages=tables,
        num_tokens=inputs["num_tokens"],
        logits_at=inputs["logits_at"],
        shape=shape,
    )
    return step, {**arrays, "kv_len": kv_len}


def _assigned(ops: Ops, table: TableShape, inputs: Inputs, pages: Tree) -> Tree:
    assigned = dict(pages)
    where = (inputs["page_rows"], inputs["page_indices"])
    for group in table.groups:
        assigned[group] = ops.put(assigned[group], where, inputs[f"page_ids.{group}"])
    return assigned


def _assignment_specs(table: TableShape, count: int) -> Specs:
    names = ("page_rows", "page_indices", *(f"page_ids.{group}" for group in table.groups))
    return {name: ArraySpec((count,), "int32") for name in names}


def _forward_specs(further: Any, table: TableShape, shape: StepShape, assigned: int) -> Specs:
    specs = {
        "rows": ArraySpec((shape.seqs,), "int32"),
        "tokens": ArraySpec((shape.tokens,), "int32"),
        "num_tokens": ArraySpec((1,), "int32"),
    }
    if shape.decode or assigned:
        specs |= _assignment_specs(table, shape.seqs if shape.decode else assigned)
    if not shape.decode:
        specs |= {
            "seqs": ArraySpec((shape.tokens,), "int32"),
            "query_starts": ArraySpec((shape.seqs + 1,), "int32"),
            "logits_at": ArraySpec((shape.logits,), "int32"),
        }
    return specs | {spec.name: _input_spec(spec, shape) for spec in further}


def _input_spec(spec: InputSpec, shape: StepShape) -> ArraySpec:
    extent = {"token": (shape.tokens,), "sequence": (shape.seqs,), "step": ()}[spec.per]
    return ArraySpec((*extent, *spec.shape), spec.dtype)


def _sampled_specs(shape: SamplerShape) -> Specs:
    specs = {"tokens": ArraySpec((shape.rows,), "int32")}
    if shape.top is not None:
        specs |= {
            "logprob": ArraySpec((shape.rows,), "float32"),
            "rank": ArraySpec((shape.rows,), "int32"),
            "top_ids": ArraySpec((shape.rows, shape.top), "int32"),
            "top_logprobs": ArraySpec((shape.rows, shape.top), "float32"),
        }
    return specs


def _name(kind: str, shape: StepShape) -> str:
    return f"{kind}-{shape.tokens}x{shape.seqs}x{shape.pages}" + ("" if shape.decode else f"-{shape.logits}")
