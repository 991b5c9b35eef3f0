"""What a call of an op moves and computes, by the shapes of what goes in and comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zif.contract.arrays import tree_leaves


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes through device memory and floating-point operations."""

    flops: float
    bytes: float


@dataclass(frozen=True, slots=True)
class OpCall:
    """One call of an op: its arguments by name, and its result. Of Arrays, shapes and dtypes may be asked for alone.

    ``history``: positions that the step's sequences have cached, its own tokens included. ``pairs``: of a query and a
    position that it sees, a head. ``kept``: bytes that one position of one layer takes, a cache group each.
    """

    arguments: Mapping[str, Any]
    result: Any
    history: int
    pairs: int
    kept: Mapping[str, float]


CostOf = Callable[[OpCall], Cost]


def nbytes(value: Any) -> float:
    """Bytes of the Arrays in a tree."""
    return float(sum(_array_bytes(leaf) for leaf in tree_leaves(value)))


def _array_bytes(leaf: Any) -> int:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None:
        return 0
    return math.prod(shape) * int(dtype.itemsize)


def traffic(call: OpCall) -> Cost:
    """Each Array of arguments and results passes once; the step's own are not counted."""
    given = [value for name, value in call.arguments.items() if name not in ("step", "consumers")]
    return Cost(0.0, nbytes(given) + nbytes(call.result))


def product(call: OpCall) -> Cost:
    """Of x with a weight w."""
    rows, weight = call.arguments["x"].shape[0], call.arguments["w"].shape
    return Cost(2.0 * rows * math.prod(weight), traffic(call).bytes)


def looked_up(call: OpCall) -> Cost:
    """Rows of a table: they are read, and written."""
    return Cost(0.0, 2 * nbytes(call.result))


def written(call: OpCall) -> Cost:
    """``values`` into an Array that stays where it is."""
    return Cost(0.0, 2 * nbytes(call.arguments["values"]))


def experts(call: OpCall) -> Cost:
    """Of x with the experts that its tokens go to, at most all of them."""
    count, size, hidden = call.arguments["w"].shape
    routed = call.arguments["experts"].shape[0] * call.arguments["experts"].shape[1]
    weights = nbytes(call.arguments["w"]) * min(1.0, routed / count)
    return Cost(6.0 * routed * size * hidden, weights + 2 * nbytes(call.arguments["x"]))


def attended(call: OpCall) -> Cost:
    """Queries over what their sequences have cached."""
    spec, q = call.arguments["spec"], call.arguments["q"]
    seen = 1.0 if spec.window is None else min(1.0, spec.window * q.shape[0] / max(call.pairs, 1))
    flops = 2.0 * spec.q_heads * (spec.head_dim + spec.v_head_dim) * call.pairs * seen
    return Cost(flops, call.history * seen * call.kept[spec.group] + 2 * nbytes(q))


def cached(call: OpCall) -> Cost:
    """Keys and values, or latents, and queries if there are any: read, and written."""
    given = [call.arguments[name] for name in ("q", "k", "v", "latent") if name in call.arguments]
    return Cost(0.0, 2 * nbytes(given))


def attended_and_cached(call: OpCall) -> Cost:
    """Both."""
    one, other = attended(call), cached(call)
    return Cost(one.flops + other.flops, one.bytes + other.bytes)
