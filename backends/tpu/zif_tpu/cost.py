"""What a traced program computes and moves, its loops counted as often as they turn.

XLA's own cost analysis counts a loop's body once, whatever its turns, so that a scan over layers would
look like one layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOVES = {"gather", "scatter", "scatter-add", "sort", "cumsum", "top_k"}
"""Primitives that read and write memory whatever is fused around them; scatters in place."""


@dataclass(frozen=True, slots=True)
class Traced:
    """What one device computes, moves through its memory and sends to the others of its mesh, in one run."""

    flops: float = 0.0
    bytes: float = 0.0
    sent: float = 0.0

    def __add__(self, other: Traced) -> Traced:
        return Traced(self.flops + other.flops, self.bytes + other.bytes, self.sent + other.sent)

    def times(self, turns: int) -> Traced:
        return Traced(turns * self.flops, turns * self.bytes, turns * self.sent)


def cost_of(jaxpr: Any, ranks: int = 1) -> Traced:
    """Operations of matrix products and kernels; bytes of their operands and results, once a use.

    What is elementwise is taken to be fused into these, and to cost nothing. A Pallas kernel counts as it declares.
    Within a ``shard_map`` it is one device's share. A collective sends what a ring of ``ranks`` has to: of a sum each
    part goes around twice, of a gathering once.
    """
    total = Traced()
    for equation in jaxpr.eqns:
        total += _cost_of(equation, ranks)
    return total


def _cost_of(equation: Any, ranks: int) -> Traced:
    name = equation.primitive.name
    if name == "dot_general" or name.startswith("ragged_dot"):
        return Traced(_product(equation), sum(_size(value) for value in (*equation.invars, *equation.outvars)))
    if name == "pallas_call":
        declared = equation.params["cost_estimate"]
        return Traced() if declared is None else Traced(declared.flops, declared.bytes_accessed)
    if name in MOVES:
        moved = equation.invars[-1] if name.startswith("scatter") else equation.outvars[0]
        return Traced(bytes=2 * _size(moved))
    if name.startswith("psum"):
        size = sum(_size(value) for value in equation.invars)
        return Traced(bytes=2 * size, sent=2 * size * (ranks - 1) / ranks)
    if name.startswith("all_gather"):
        size = sum(_size(value) for value in equation.outvars)
        return Traced(bytes=size, sent=size * (ranks - 1) / ranks)
    if name == "shard_map":
        ranks = equation.params["mesh"].size
    turns = equation.params.get("length", 1) if name == "scan" else 1
    inside = Traced()
    for inner in _inside(equation):
        inside += cost_of(inner, ranks)
    return inside.times(turns)


def _inside(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(entry, "jaxpr", entry)
            if hasattr(inner, "eqns"):
                yield inner


def _product(equation: Any) -> float:
    """2 x elements of the result x extent summed over."""
    left, result = equation.invars[0].aval, equation.outvars[0].aval
    numbers = equation.params.get("dimension_numbers") or equation.params["ragged_dot_dimension_numbers"]
    contracting = getattr(numbers, "dot_dimension_numbers", numbers)[0][0]
    return 2.0 * math.prod(result.shape) * math.prod(left.shape[axis] for axis in contracting)


def _size(value: Any) -> float:
    return float(math.prod(value.aval.shape) * value.aval.dtype.itemsize)
