"""How fast a backend copies memory and multiplies matrices, measured through its own packer, ops and executables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.backend import Backend
from zif.contract.binding import bind
from zif.contract.ops.draw import numpy_dtype
from zif.contract.weights import LinearSpec

COPIED = 1 << 26
"""Bytes of the array that is read and written."""
SIDE = 2048
"""Of the matrices that are multiplied."""
LEAST = 0.2
"""Seconds that a rate is measured for."""


@dataclass(frozen=True)
class Rates:
    """What a device does in a second at best."""

    bytes_per_s: float
    flops_per_s: float


def measured_rates(backend: Backend, dtype: str) -> Rates:
    """Of elementwise work on a large array, both ways counted, and of a product of square matrices in ``dtype``."""
    count = COPIED // 4
    array = ArraySpec((count,), "float32")
    moved = _runs_per_s(backend, "rate-copy", lambda given, _: ({"y": given["x"][:] + 1.0}, {}), array, array, {})
    square = ArraySpec((SIDE, SIDE), dtype)
    spec = LinearSpec(("w",), (SIDE,), SIDE)
    weight = backend.packer.linear(spec, [np.zeros((SIDE, SIDE), numpy_dtype(dtype))], [], dtype)
    ops = bind(spec.requests(weight, dtype), backend.kernels()).ops

    def multiply(given: Any, resident: Any) -> Any:
        return {"y": ops.linear(given["x"], resident["w"])}, {}

    products = _runs_per_s(backend, "rate-product", multiply, square, square, {"w": weight})
    return Rates(2.0 * COPIED * moved, 2.0 * SIDE**3 * products)


def _runs_per_s(
    backend: Backend, name: str, fn: Any, given: ArraySpec, result: ArraySpec, resident: Mapping[str, Tree]
) -> float:
    program = backend.executables.compile(name, fn, {"x": given}, {"y": result}, resident)
    host = {"x": np.ones(given.shape, numpy_dtype(given.dtype))}
    elapsed, count = 0.0, 0
    while elapsed < LEAST:
        slot = program.stage(host)
        backend.runtime.synchronize()
        begin = time.perf_counter()
        program.run(slot, resident)
        backend.runtime.synchronize()
        elapsed += time.perf_counter() - begin if count else 0.0  # the first run compiles
        count += 1
    return (count - 1) / elapsed
