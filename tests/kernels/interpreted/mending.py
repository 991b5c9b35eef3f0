"""Four faults of Triton's interpreter, mended for the tests (found in 3.9.0).

- ``tl.dot`` of bfloat16 multiplies the sixteen bits as the integers they are stored as.
- A scalar comparison keeps the dtype of what was compared, and is broadcast as that, not as bool.
- float32 becomes bfloat16 by dropping bits, where devices round to the nearest, even among equals.
- Numbers of eight bits are rounded without carrying into the exponent, and their subnormal ones are wrong. What is
  too large becomes NaN here (infinity in e5m2), where NVIDIA's conversion saturates: a kernel has to do it itself.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter

BUILDER = interpreter.InterpreterBuilder
broken_dot = BUILDER.create_dot
_cast = BUILDER.cast_impl
_STORED = {
    tl.float8e4nv: ml_dtypes.float8_e4m3fn,
    tl.float8e5: ml_dtypes.float8_e5m2,
    tl.bfloat16: ml_dtypes.bfloat16,
    tl.float16: np.float16,
    tl.float32: np.float32,
}
"""What each dtype's bits, as the interpreter keeps them, mean."""


def _widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    wide = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(wide, tl.float32)


def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    return broken_dot(self, _widened(a), _widened(b), *rest)


def create_splat(self: Any, kind: Any, scalar: Any) -> Any:
    return interpreter.TensorHandle(np.full(kind.shape, scalar.data.reshape(-1)[0]), scalar.dtype.scalar)


def cast_impl(self: Any, source: Any, kind: Any) -> Any:
    if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
        return interpreter.TensorHandle(source.data.astype(ml_dtypes.bfloat16).view(np.uint16), tl.bfloat16)
    return _cast(self, source, kind)


def create_fp_to_fp(self: Any, source: Any, kind: Any, rounding: Any) -> Any:
    values = source.data.view(_STORED[source.dtype.scalar]).astype(np.float32)
    bits = values.astype(_STORED[kind.scalar])
    if kind.scalar in (tl.float16, tl.float32):
        return interpreter.TensorHandle(bits, kind.scalar)
    return interpreter.TensorHandle(bits.view(np.uint8 if bits.itemsize == 1 else np.uint16), kind.scalar)


def mend() -> None:
    BUILDER.create_dot = create_dot
    BUILDER.create_splat = create_splat
    BUILDER.cast_impl = cast_impl
    BUILDER.create_fp_to_fp = create_fp_to_fp
