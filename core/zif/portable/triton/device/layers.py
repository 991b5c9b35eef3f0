"""Norms, activations, soft caps."""

import triton
import triton.language as tl

from zif.portable.triton.device.numbers import activated, tanh
from zif.portable.triton.device.overlap import enter, enter_ahead


@triton.jit
def _normed(wide, weight, columns, size, eps, offset):
    """Rows of ``wide`` [ROWS, BLOCK] float32, zero beyond ``size``, by their root mean square."""
    scale = tl.rsqrt(tl.sum(wide * wide, 1) / size + eps)
    factor = tl.load(weight + columns, mask=columns < size, other=0.0).to(tl.float32) + offset
    return wide * scale[:, None] * factor[None, :]


@triton.jit(do_not_specialize=["rows"])
def rms_norm(
    out, x, weight, rows, heads, size, x_row, x_head, eps, offset, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """``x`` [rows / heads, heads, size] -> ``out`` [rows, size]; ``weight`` [size].

    PARTS of ``x``, [rows, size] each, lie one behind the other, and what is normalised is their sum.

    Grid (ceil(rows / ROWS)). BLOCK is a power of two >= size, ROWS a power of two.
    """
    enter_ahead(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (columns < size)[None, :]
    start = (row // heads).to(tl.int64) * x_row + (row % heads).to(tl.int64) * x_head
    wide = tl.load(x + start[:, None] + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        wide += tl.load(x + start[:, None] + columns[None, :] + part * rows * size, mask=mask, other=0.0)
    y = _normed(wide, weight, columns, size, eps, offset)
    target = out + row.to(tl.int64)[:, None] * size + columns[None, :]
    tl.store(target, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def add_norm(
    out, total, x, residual, weight, rows, size, x_row, residual_row, eps, offset,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """``total`` = ``x`` + ``residual`` and ``out`` = its norm; all [rows, size], ``weight`` [size].

    What is normalised is the total as it was rounded for storing. Grid, blocks and PARTS as rms_norm's.
    """
    enter_ahead(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (columns < size)[None, :]
    long = row.to(tl.int64)[:, None]
    left = tl.load(x + long * x_row + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        left += tl.load(x + long * x_row + columns[None, :] + part * rows * size, mask=mask, other=0.0)
    right = tl.load(residual + long * residual_row + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    rounded = (left + right).to(total.dtype.element_ty)
    tl.store(total + long * size + columns[None, :], rounded, mask=mask)
    y = _normed(rounded.to(tl.float32), weight, columns, size, eps, offset)
    tl.store(out + long * size + columns[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count"])
def add_parts(
    out, x, residual, count, PARTS: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False
):  # fmt: skip
    """``out`` [count] = the sum of ``x`` [PARTS, count] + ``residual`` [count]. Grid (ceil(count / BLOCK))."""
    enter(OVERLAP)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    wide = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        wide += tl.load(x + part * count + at, mask=mask, other=0.0)
    wide += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, wide.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gated_activation(out, x, size, x_row, GELU: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False):
    """``x`` = [gate | up] [rows, 2 size] -> ``out`` [rows, size]: silu(gate) * up, or GELU's tanh form.

    Grid (rows, ceil(size / BLOCK)).
    """
    enter(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < size
    gate = tl.load(x + row * x_row + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_row + size + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, activated(gate, up, GELU).to(out.dtype.element_ty), mask=mask)


@triton.jit
def softcap(out, x, count, cap, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False):
    """``out`` = cap * tanh(x / cap), both of ``count`` elements. Grid (ceil(count / BLOCK))."""
    enter(OVERLAP)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    wide = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    tl.store(out + at, (tanh(wide / cap) * cap).to(out.dtype.element_ty), mask=at < count)
