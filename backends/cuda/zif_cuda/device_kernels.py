"""Triton kernels that are this backend's alone."""

import triton
import triton.language as tl


@triton.jit
def matrix_vector(out, x, w, bias, rows, inner, BIAS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """``out`` [rows] = ``w`` [rows, inner] ``x`` [inner] (+ ``bias`` [rows]), summed in float32.

    Grid (ceil(rows / BLOCK_N)); BLOCK_K divides ``inner``.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    real = n < rows
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    line = w + n.to(tl.int64)[:, None] * inner + k[None, :]
    for start in range(0, inner, BLOCK_K):
        weight = tl.load(line + start, mask=real[:, None], other=0.0)
        acc += weight.to(tl.float32) * tl.load(x + start + k).to(tl.float32)[None, :]
    total = tl.sum(acc, 1)
    if BIAS:
        total += tl.load(bias + n, mask=real, other=0.0).to(tl.float32)
    tl.store(out + n, total.to(out.dtype.element_ty), mask=real)


@triton.jit
def widen(out, x, size, BLOCK: tl.constexpr):
    """``out`` [size] float32 = ``x`` [size]. Grid (ceil(size / BLOCK))."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = at < size
    tl.store(out + at, tl.load(x + at, mask=real, other=0.0).to(tl.float32), mask=real)
