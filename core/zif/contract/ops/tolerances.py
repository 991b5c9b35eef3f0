"""One table of tolerances against the float64 reference, used by every op that names no other."""

from __future__ import annotations

from zif.contract.opspec import Tolerance

ELEMENTWISE = {
    "float32": Tolerance(2e-5, 2e-6),
    "bfloat16": Tolerance(1.6e-2, 1e-3),
    "float16": Tolerance(2e-3, 2e-4),
}
"""One rounding of the output, and a few of the arithmetic in float32."""

REDUCTION = {
    "float32": Tolerance(1e-4, 2e-5),
    "bfloat16": Tolerance(2e-2, 1.6e-2),
    "float16": Tolerance(4e-3, 2e-3),
}
"""Sums over a long axis, of values of size about one."""

EXACT = {dtype: Tolerance(0.0, 0.0) for dtype in ("float32", "bfloat16", "float16")}
