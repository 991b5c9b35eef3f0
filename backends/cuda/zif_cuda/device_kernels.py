"""Triton kernels that are this backend's alone."""

import triton
import triton.language as tl

from zif.portable.triton.device.overlap import enter


@triton.jit
def widen(out, x, size, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False):
    """``out`` [size] float32 = ``x`` [size]. Grid (ceil(size / BLOCK))."""
    enter(OVERLAP)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = at < size
    tl.store(out + at, tl.load(x + at, mask=real, other=0.0).to(tl.float32), mask=real)
