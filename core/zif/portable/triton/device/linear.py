"""Products of few tokens with a weight: what they cost is reading the weight, once.

``out`` [tokens, rows] = ``x`` [tokens, inner] ``w`` [rows, inner]ᵀ (+ ``bias`` [rows]), summed in float32 and
rounded once. Weights do not depend on earlier kernels, so that a program asks for its own before it waits for ``x``.
"""

import triton
import triton.language as tl

from zif.portable.triton.device.numbers import activated
from zif.portable.triton.device.overlap import enter, enter_ahead, fetch_early

LINE: tl.constexpr = tl.constexpr(64)
"""Sixteen-bit weights of a cache line."""


@triton.jit
def _rounded(sums, bias, n, dtype: tl.constexpr, BIAS: tl.constexpr):
    """``sums`` [BLOCK_N, ...] + bias, as a linear of ``dtype`` would give them, in float32."""
    if BIAS:
        sums += tl.load(bias + n).to(tl.float32)[:, None]
    return sums.to(dtype).to(tl.float32)


@triton.jit(do_not_specialize=["tokens"])
def skinny(
    out, x, w, bias, tokens, rows, inner, x_row, share, BIAS: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr,
    WEIGHTS_FIRST: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Tiles of BLOCK_T tokens by BLOCK_N outputs, over ``share`` of the inputs.

    Grid (ceil(tokens / BLOCK_T), ceil(rows / BLOCK_N), splits), splits = ceil(inner / share): programs that read the
    same weights start together, so that memory is read once. With more than one split, ``out`` is [splits, tokens,
    rows] partial sums. BLOCK_K divides ``share`` and ``inner``. GATED: ``w`` is [2 rows, inner], gate above up, and
    ``out`` their activation's product. WEIGHTS_FIRST: the weights are the left operand of the matrix unit, whose tile
    is 64 high where it is fast. EARLY: inputs of each output that are asked for before waiting.
    """
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    k = tl.arange(0, BLOCK_K)
    first = split * share
    last = tl.minimum(first + share, inner)
    real_n = tl.minimum(n, rows - 1)  # what lies beyond is computed from other rows, and not stored
    row = w + real_n.to(tl.int64) * inner
    above = row + rows.to(tl.int64) * inner  # of the up half, where there is one
    if EARLY:
        lines = first + LINE * tl.arange(0, EARLY // LINE)
        fetch_early(row[:, None] + tl.minimum(lines, last - 1)[None, :], OVERLAP)
        if GATED:
            fetch_early(above[:, None] + tl.minimum(lines, last - 1)[None, :], OVERLAP)
    enter(OVERLAP)
    token = x + t.to(tl.int64) * x_row
    real = t < tokens  # rows beyond are not read: one row that many programs read for them is a bottleneck of the cache
    if WEIGHTS_FIRST:
        sums = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        ups = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        for at in tl.range(first, last, BLOCK_K):
            right = tl.load(token[None, :] + (at + k)[:, None], mask=real[None, :], other=0.0)
            sums = tl.dot(tl.load(row[:, None] + (at + k)[None, :]), right, sums)
            if GATED:
                ups = tl.dot(tl.load(above[:, None] + (at + k)[None, :]), right, ups)
    else:
        sums = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        ups = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        for at in tl.range(first, last, BLOCK_K):
            left = tl.load(token[:, None] + (at + k)[None, :], mask=real[:, None], other=0.0)
            sums = tl.dot(left, tl.load(row[None, :] + (at + k)[:, None]), sums)
            if GATED:
                ups = tl.dot(left, tl.load(above[None, :] + (at + k)[:, None]), ups)
        sums = tl.trans(sums)
        ups = tl.trans(ups)
    if GATED:
        gate = _rounded(sums, bias, real_n, x.dtype.element_ty, BIAS)
        sums = activated(gate, _rounded(ups, bias + rows, real_n, x.dtype.element_ty, BIAS), GELU)
    elif BIAS:
        # a sum in parts takes the bias with its first
        sums += tl.load(bias + real_n, mask=real_n * 0 + split == 0, other=0.0).to(tl.float32)[:, None]
    target = out + (split.to(tl.int64) * tokens + t.to(tl.int64))[None, :] * rows + n[:, None]
    tl.store(target, sums.to(out.dtype.element_ty), mask=(n < rows)[:, None] & real[None, :])


@triton.jit
def _token(x, residual, norm, at, inner, scale, offset, dtype: tl.constexpr, NORM: tl.constexpr, PARTS: tl.constexpr):
    """Entries ``at`` of the token in float32: of ``x`` itself, or (NORM) of the norm of x and the residual."""
    if NORM:
        total = _total(x, residual, at, at < inner, inner, dtype, PARTS).to(tl.float32)
        wide = (total * scale * (tl.load(norm + at).to(tl.float32) + offset)).to(dtype).to(tl.float32)
    else:
        wide = tl.load(x + at).to(tl.float32)
    return wide


@triton.jit
def _total(x, residual, at, mask, inner, dtype: tl.constexpr, PARTS: tl.constexpr):
    """Entries ``at`` of the PARTS of ``x`` and the residual, summed, as they are rounded for storing."""
    wide = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        wide += tl.load(x + part * inner + at, mask=mask, other=0.0)
    wide += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    return wide.to(dtype)


@triton.jit
def _multiplied(
    row, x, residual, norm, first_tile, first, last, k, inner, scale, offset, dtype: tl.constexpr, NORM: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sums of weights ``row`` by the token from ``first`` to ``last``; the first of their tiles is at hand."""
    token = _token(x, residual, norm, first + k, inner, scale, offset, dtype, NORM, PARTS)
    sums = first_tile.to(tl.float32) * token[None, :]
    for at in range(first + BLOCK_K, last, BLOCK_K):
        tile = tl.load(row[:, None] + (at + k)[None, :])
        token = _token(x, residual, norm, at + k, inner, scale, offset, dtype, NORM, PARTS)
        sums += tile.to(tl.float32) * token[None, :]
    return tl.sum(sums, 1)


@triton.jit
def vector(
    out, total, x, residual, norm, w, bias, rows, inner, share, eps, offset, BIAS: tl.constexpr, GATED: tl.constexpr,
    GELU: tl.constexpr, NORM: tl.constexpr, PARTS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr, EARLY: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """One token. ``out`` [splits, rows], ``x`` [inner]; ``w``, ``bias``, ``share``, GATED and EARLY as in
    :func:`skinny`.

    NORM: what is multiplied is the norm of the token, by ``norm`` [inner] + offset, after ``residual`` [inner] is
    added to ``x`` [PARTS, inner]; their sum is left in ``total`` [inner]. Each program computes it again, which takes
    less than a kernel of its own. Without NORM these are any pointers.

    Grid (ceil(rows / BLOCK_N), splits); BLOCK_K divides ``share`` and ``inner``; BLOCK_X is a power of two >= inner.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    k = tl.arange(0, BLOCK_K)
    first = split * share
    last = tl.minimum(first + share, inner)
    real_n = tl.minimum(n, rows - 1)
    row = w + real_n.to(tl.int64) * inner
    above = row + rows.to(tl.int64) * inner
    tile = tl.load(row[:, None] + (first + k)[None, :])
    if GATED:
        second = tl.load(above[:, None] + (first + k)[None, :])
    if EARLY:
        lines = tl.minimum(first + BLOCK_K + LINE * tl.arange(0, EARLY // LINE), last - 1)
        fetch_early(row[:, None] + lines[None, :], OVERLAP)
        if GATED:
            fetch_early(above[:, None] + lines[None, :], OVERLAP)
    enter_ahead(OVERLAP)
    scale = 1.0
    if NORM:
        at = tl.arange(0, BLOCK_X)
        whole = _total(x, residual, at, at < inner, inner, w.dtype.element_ty, PARTS)
        wide = whole.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, 0) / inner + eps)
        if (tl.program_id(0) == 0) & (split == 0):
            tl.store(total + at, whole, mask=at < inner)
    dtype: tl.constexpr = w.dtype.element_ty
    sums = _multiplied(row, x, residual, norm, tile, first, last, k, inner, scale, offset, dtype, NORM, PARTS, BLOCK_K)
    if BIAS:
        sums += tl.load(bias + real_n, mask=real_n * 0 + split == 0, other=0.0).to(tl.float32)
    if GATED:
        ups = _multiplied(
            above, x, residual, norm, second, first, last, k, inner, scale, offset, dtype, NORM, PARTS, BLOCK_K
        )
        if BIAS:
            ups += tl.load(bias + rows + real_n).to(tl.float32)
        sums = activated(sums.to(dtype).to(tl.float32), ups.to(dtype).to(tl.float32), GELU)
    tl.store(out + split.to(tl.int64) * rows + n, sums.to(out.dtype.element_ty), mask=n < rows)
