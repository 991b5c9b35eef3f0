"""What a traced program computes and moves, its loops counted as often as they turn.

XLA's own cost analysis counts a loop's body once, whatever its turns, so that a scan over layers would
look like one layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from zif.contract.kernel import Cost

MOVES = {"gather", "scatter", "scatter-add", "sort", "cumsum", "top_k"}
"""Primitives that read and write memory whatever is fused around them; scatters in place."""


def cost_of(jaxpr: Any) -> Cost:
    """Operations of matrix products and kernels; bytes of their operands and results, once a use.

    What is elementwise is taken to be fused into these, and to cost nothing. A Pallas kernel counts as it declares.
    """
    flops = total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        turns = equation.params.get("length", 1) if name == "scan" else 1
        if name == "dot_general" or name.startswith("ragged_dot"):
            flops += _product(equation)
            total += sum(_size(value) for value in (*equation.invars, *equation.outvars))
        elif name == "pallas_call":
            declared = equation.params["cost_estimate"]
            if declared is not None:
                flops += declared.flops
                total += declared.bytes_accessed
        elif name in MOVES:
            moved = equation.invars[-1] if name.startswith("scatter") else equation.outvars[0]
            total += 2 * _size(moved)
        else:
            for inner in _inside(equation):
                cost = cost_of(inner)
                flops += turns * cost.flops
                total += turns * cost.bytes
    return Cost(flops, total)


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
