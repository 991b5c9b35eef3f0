"""What the programs that run the model have in common: the step made of table and inputs, the model over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.model import InputSpec, Model
from zif.contract.optable import Ops
from zif.contract.step import Step, StepShape
from zif.engine.table import TableShape

Specs = dict[str, ArraySpec]
Inputs = dict[str, Any]


def forward_specs(model: Model, table: TableShape, shape: StepShape, assigned: int) -> Specs:
    """What a step is staged, with ``assigned`` page assignments a group."""
    specs = {
        "rows": ArraySpec((shape.seqs,), "int32"),
        "tokens": ArraySpec((shape.tokens,), "int32"),
        "num_tokens": ArraySpec((1,), "int32"),
    }
    if assigned:
        specs |= assignment_specs(table, assigned)
    if not shape.decode:
        specs |= {
            "seqs": ArraySpec((shape.tokens,), "int32"),
            "query_starts": ArraySpec((shape.seqs + 1,), "int32"),
            "logits_at": ArraySpec((shape.logits,), "int32"),
        }
    return specs | {spec.name: input_spec(spec, shape) for spec in model.inputs}


def input_spec(spec: InputSpec, shape: StepShape) -> ArraySpec:
    """What a further input of the model is, of a step of that shape."""
    extent = {"token": (shape.tokens,), "sequence": (shape.seqs,), "step": ()}[spec.per]
    return ArraySpec((*extent, *spec.shape), spec.dtype)


def assignment_specs(table: TableShape, count: int) -> Specs:
    """Inputs of ``count`` page assignments a group."""
    names = ("page_rows", "page_indices", *(f"page_ids.{group}" for group in table.groups))
    return {name: ArraySpec((count,), "int32") for name in names}


def drafted(ops: Ops, tokens: Any, rows: Any, drafts: Any) -> Any:
    """``tokens`` [n], where those of -2 and below are drafts of their table rows ``rows`` [n]: -2 is the first one."""
    return ops.where(tokens < -1, drafts[rows, ops.where(tokens < -1, -2 - tokens, 0)], tokens)


def assign_pages(ops: Ops, table: TableShape, inputs: Inputs, pages: Tree) -> Tree:
    """The page tables, with the assignments among ``inputs`` made."""
    assigned = dict(pages)
    rows, indices = inputs["page_rows"], inputs["page_indices"]
    for group, factor in table.factor_of.items():
        where = (rows, indices if factor == 1 else indices // factor)
        assigned[group] = ops.put(assigned[group], where, inputs[f"page_ids.{group}"])
    return assigned


def run_model(
    ops: Ops, model: Model, table: TableShape, shape: StepShape, inputs: Inputs, resident: dict[str, Tree]
) -> tuple[Any, Tree, Tree]:
    """(logits, table, cache) after a step."""
    weights = resident["weights"]
    make = _decode_step if shape.decode else _mixed_step
    step, arrays = make(ops, table, shape, inputs, resident["table"])
    step = replace(step, inputs={spec.name: inputs[spec.name] for spec in model.inputs})
    x = model.embed(ops, weights, step)
    x, cache = model.layers(ops, weights, x, resident["cache"], step)
    rows = x if shape.decode else x[step.logits_at]
    return model.head(ops, weights, rows, step), arrays, cache


def _decode_step(ops: Ops, table: TableShape, shape: StepShape, inputs: Inputs, arrays: Tree) -> tuple[Step, Tree]:
    """(step, table after it), its page assignments made."""
    tokens, positions, kv_lens, order, tables, kv_len, pages = ops.decode_inputs(
        inputs["rows"], inputs["tokens"], arrays["last_token"], arrays["kv_len"], arrays["pages"],
        inputs["page_rows"], inputs["page_indices"], {group: inputs[f"page_ids.{group}"] for group in table.groups},
        shape.pages, table.factor_of,
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
    if "page_rows" in inputs:
        arrays = {**arrays, "pages": assign_pages(ops, table, inputs, arrays["pages"])}
    if table.drafts:
        tokens = drafted(ops, inputs["tokens"], inputs["rows"][inputs["seqs"]], arrays["drafts"])
        inputs = {**inputs, "tokens": tokens}
    tokens, positions, kv_lens, tables, kv_len = ops.mixed_inputs(
        inputs["rows"], inputs["tokens"], inputs["seqs"], inputs["query_starts"], inputs["num_tokens"],
        arrays["last_token"], arrays["kv_len"], {group: arrays["pages"][group] for group in table.groups}, shape.pages,
        table.factor_of,
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
