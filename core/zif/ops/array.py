"""Array ops: what a framework gives and a chip does not care about. Its reference serves them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zif.contract.ops import op

A = np.ndarray[Any, Any]


@op(profile="array")
def where(condition: A, x: Any, y: Any) -> A:
    """``x`` where ``condition``, else ``y``; broadcasts, and takes numbers for x and y."""
    return np.where(condition, x, y)


@op(profile="array", static=("size",))
def arange(size: int, like: A) -> A:
    """0, 1, .. ``size`` - 1 as int32, on the device of ``like``."""
    return np.arange(size, dtype=np.int32)


@op(profile="array", static=("dtype",))
def cast(x: A, dtype: str) -> A:
    """``x`` converted to ``dtype``."""
    return x.astype(dtype)


@op(profile="array")
def put(target: A, index: tuple[A, ...], values: Any) -> A:
    """``target`` with ``target[index] = values``. Consumes ``target``: on some frameworks the
    result is the same memory. Where an index occurs twice, any one of the values stays.
    """
    result = target.copy()
    result[index] = values
    return result


@op(profile="array")
def add_at(target: A, index: tuple[A, ...], values: Any) -> A:
    """``target`` with ``values`` added at ``index``, an index that occurs twice counting twice.
    Consumes ``target``.
    """
    result = target.copy()
    np.add.at(result, index, values)
    return result


@op(profile="array")
def concat(parts: Sequence[A]) -> A:
    """Arrays joined along their last axis."""
    return np.concatenate(parts, axis=-1)


@op(profile="array", static=("start", "stop"))
def repeat(block: Callable[[Any, Any, Any], Any], stacked: Any, carry: Any, start: int, stop: int) -> Any:
    """``carry = block(layer weights, carry, i)`` for i in [start, stop) of a stack of alike layers.

    ``i`` may be traced: use it to index, never to branch. Frameworks that trace run it as a scan,
    so that compile time does not grow with the number of layers.
    """
    for i in range(start, stop):
        carry = block(stacked.layers[i], carry, i)
    return carry
