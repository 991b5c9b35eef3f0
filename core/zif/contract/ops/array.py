"""Array ops: what a framework gives and a chip does not care about. Its reference serves them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from zif.contract.cost import written
from zif.contract.ops.draw import normal
from zif.contract.ops.tolerances import REDUCTION
from zif.contract.opspec import OpCase, OpRequest, op
from zif.contract.weights import LoopStack

A = np.ndarray[Any, Any]


def _case(op: str, dtype: str, label: str, /, **arguments: Any) -> OpCase:
    return OpCase(label, OpRequest.of(op, dtype), arguments)


def _where_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    condition, x, y = rng.random((4, 5)) < 0.5, normal(rng, (4, 5), dtype), normal(rng, (5,), dtype)
    yield _case("where", dtype, "arrays", condition=condition, x=x, y=y)
    yield _case("where", dtype, "a number", condition=condition[:, :1], x=rng.integers(0, 9, (4, 5), np.int32), y=-1)


def _arange_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    yield _case("arange", dtype, "7", size=7, like=normal(rng, (2,), dtype))


def _cast_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    yield _case("cast", dtype, "to int32, towards zero", x=normal(rng, (9,), dtype, scale=5.0), dtype="int32")
    yield _case("cast", dtype, "bool to int32", x=rng.random((3, 4)) < 0.5, dtype="int32")


def _put_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    rows = np.array([4, 0, 2], np.int32)
    target = normal(rng, (6, 3), dtype)
    yield _case("put", dtype, "rows", target=target, index=(rows,), values=normal(rng, (3, 3), dtype))
    columns = np.array([1, 1, 0], np.int32)
    yield _case("put", dtype, "elements", target=target, index=(rows, columns), values=normal(rng, (3,), dtype))
    counts = rng.integers(0, 9, (6, 3), np.int32)
    yield _case("put", dtype, "a number", target=counts, index=(rows,), values=0)


def _add_at_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    rows, columns = np.array([1, 1, 1, 3], np.int32), np.array([2, 2, 0, 2], np.int32)
    counts = rng.integers(0, 9, (5, 3), np.int32)
    yield _case("add_at", dtype, "an index twice", target=counts, index=(rows, columns), values=1)


def _concat_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    yield _case("concat", dtype, "3 + 1", parts=[normal(rng, (2, 5, 3), dtype), normal(rng, (2, 5, 1), dtype)])


def _layer(w: Any, carry: Any, i: Any) -> Any:
    return {"x": carry["x"] * w["w"] + carry["table"][i], "table": carry["table"]}


def _repeat_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    stacked = LoopStack([{"w": normal(rng, (4,), dtype)} for _ in range(5)])
    carry = {"x": normal(rng, (3, 4), dtype), "table": normal(rng, (5, 4), dtype)}
    yield _case("repeat", dtype, "5 layers", block=_layer, stacked=stacked, carry=carry, start=0, stop=5)
    yield _case("repeat", dtype, "[1, 3) of 5", block=_layer, stacked=stacked, carry=carry, start=1, stop=3)


@op(profile="array", cases=_where_cases)
def where(condition: A, x: Any, y: Any) -> A:
    """``x`` where ``condition``, else ``y``; broadcasts, and takes numbers for x and y."""
    return np.where(condition, x, y)


@op(profile="array", cases=_arange_cases, static=("size",))
def arange(size: int, like: A) -> A:
    """0, 1, .. ``size`` - 1 as int32, on the device of ``like``."""
    return np.arange(size, dtype=np.int32)


@op(profile="array", cases=_cast_cases, static=("dtype",))
def cast(x: A, dtype: str) -> A:
    """``x`` converted to ``dtype``."""
    return x.astype(dtype)


@op(profile="array", cases=_put_cases, cost=written)
def put(target: A, index: tuple[A, ...], values: Any) -> A:
    """``target`` with ``target[index] = values``. Consumes ``target``: on some frameworks the
    result is the same memory. Where an index occurs twice, any one of the values stays.
    """
    result = target.copy()
    result[index] = values
    return result


@op(profile="array", cases=_add_at_cases, cost=written)
def add_at(target: A, index: tuple[A, ...], values: Any) -> A:
    """``target`` with ``values`` added at ``index``, an index that occurs twice counting twice.
    Consumes ``target``.
    """
    result = target.copy()
    np.add.at(result, index, values)
    return result


@op(profile="array", cases=_concat_cases)
def concat(parts: Sequence[A]) -> A:
    """Arrays joined along their last axis."""
    return np.concatenate(parts, axis=-1)


@op(profile="array", tolerances=REDUCTION, cases=_repeat_cases, static=("start", "stop"))
def repeat(block: Callable[[Any, Any, Any], Any], stacked: Any, carry: Any, start: int, stop: int) -> Any:
    """``carry = block(layer weights, carry, i)`` for i in [start, stop) of a stack of alike layers.

    ``i`` may be traced: use it to index, never to branch. Frameworks that trace run it as a scan,
    so that compile time does not grow with the number of layers.
    """
    for i in range(start, stop):
        carry = block(stacked.layers[i], carry, i)
    return carry
