"""Rotary embeddings, norms of q and k a head, and writing the cache."""

import triton
import triton.language as tl

from zif.portable.triton.device.numbers import stored
from zif.portable.triton.device.overlap import enter


@triton.jit(do_not_specialize=["tokens"])
def rope_angles(
    out, positions, turns, tokens, factor, HALF: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """``out`` [tokens, 2 HALF] float32 = [cos | sin] * factor of ``positions`` [tokens] int32.

    ``turns`` [HALF] int64: how far a position turns a pair, in units of 2⁻⁶⁴ turns. Products wrap as
    angles do, so that nothing is lost at any position. Grid (ceil(tokens / TOKENS)); BLOCK is a
    power of two >= HALF.
    """
    enter(OVERLAP)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    pair = tl.arange(0, BLOCK)
    mask = (token < tokens)[:, None] & (pair < HALF)[None, :]
    position = tl.load(positions + token, mask=token < tokens, other=0).to(tl.int64)
    turn = tl.load(turns + pair, mask=pair < HALF, other=0)
    phase = ((position[:, None] * turn[None, :]) >> 32).to(tl.int32)
    angle = phase.to(tl.float32) * 1.4629180792671596e-09  # 2 pi / 2^32: in [-pi, pi)
    target = out + token.to(tl.int64)[:, None] * (2 * HALF) + pair[None, :]
    tl.store(target, tl.cos(angle) * factor, mask=mask)
    tl.store(target + HALF, tl.sin(angle) * factor, mask=mask)


@triton.jit
def _turn_heads(
    target, source, load, store, norm, angle, eps, offset, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr, NORM: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Heads of one token, maybe normalised, their first ROTARY dimensions turned, from source to target.

    ``source`` and ``target`` are pointers to the heads' first entries, ``load`` and ``store`` masks
    of the heads; ``angle`` points to the token's cosines, which its sines follow. HALF and REST are
    powers of two >= ROTARY / 2 and HEAD_DIM - ROTARY, where that is not 0.
    """
    squares = tl.zeros_like(load.to(tl.float32))
    if ROTARY > 0:
        pair = tl.arange(0, HALF)
        turned = pair < ROTARY // 2
        near = 2 * pair if INTERLEAVED else pair
        far = 2 * pair + 1 if INTERLEAVED else pair + ROTARY // 2
        mask = load[:, None] & turned[None, :]
        first = tl.load(source[:, None] + near[None, :], mask=mask, other=0.0).to(tl.float32)
        second = tl.load(source[:, None] + far[None, :], mask=mask, other=0.0).to(tl.float32)
        squares += tl.sum(first * first, 1) + tl.sum(second * second, 1)
    if ROTARY < HEAD_DIM:
        other = ROTARY + tl.arange(0, REST)
        passed = other < HEAD_DIM
        rest = tl.load(source[:, None] + other[None, :], mask=load[:, None] & passed[None, :], other=0.0).to(tl.float32)
        squares += tl.sum(rest * rest, 1)
    if NORM:
        scale = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
        if ROTARY > 0:
            first *= scale * (tl.load(norm + near, mask=turned, other=0.0).to(tl.float32) + offset)[None, :]
            second *= scale * (tl.load(norm + far, mask=turned, other=0.0).to(tl.float32) + offset)[None, :]
        if ROTARY < HEAD_DIM:
            rest *= scale * (tl.load(norm + other, mask=passed, other=0.0).to(tl.float32) + offset)[None, :]
    kind = target.dtype.element_ty
    if ROTARY > 0:
        cos = tl.load(angle + pair, mask=turned, other=0.0)[None, :]
        sin = tl.load(angle + ROTARY // 2 + pair, mask=turned, other=0.0)[None, :]
        mask = store[:, None] & turned[None, :]
        tl.store(target[:, None] + near[None, :], stored(first * cos - second * sin, kind), mask=mask)
        tl.store(target[:, None] + far[None, :], stored(second * cos + first * sin, kind), mask=mask)
    if ROTARY < HEAD_DIM:
        tl.store(target[:, None] + other[None, :], stored(rest, kind), mask=store[:, None] & passed[None, :])


@triton.jit
def rope(
    out, x, angles, heads, x_row, x_head, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """``x`` [tokens, heads, HEAD_DIM] turned by ``angles`` [tokens, ROTARY] float32 -> ``out``.

    Grid (tokens, ceil(heads / HEADS)); HEADS is a power of two.
    """
    enter(OVERLAP)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    real = head < heads
    source = x + token * x_row + head.to(tl.int64) * x_head
    target = out + (token * heads + head) * HEAD_DIM
    _turn_heads(
        target, source, real, real, None, angles + token * ROTARY, 0.0, 0.0,
        HEAD_DIM, ROTARY, INTERLEAVED, False, HALF, REST,
    )  # fmt: skip


@triton.jit
def _slot(pages, positions, seqs, num_tokens, pages_row, token, PAGE_SIZE: tl.constexpr):
    """(page as int64, slot in it, whether the token is real) of a token."""
    position = tl.load(positions + token)
    sequence = tl.load(seqs + token).to(tl.int64)
    real = token < tl.load(num_tokens)
    page = tl.load(pages + sequence * pages_row + position // PAGE_SIZE, mask=real, other=0)
    return page.to(tl.int64), position % PAGE_SIZE, real


@triton.jit
def _copy_heads(target, source, load, store, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < HEAD_DIM
    values = tl.load(source[:, None] + column[None, :], mask=load[:, None] & inside[None, :], other=0.0)
    values = stored(values, target.dtype.element_ty)
    tl.store(target[:, None] + column[None, :], values, mask=store[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["pages_row"])
def kv_write(
    k_cache, v_cache, k, v, pages, positions, seqs, num_tokens,
    k_row, k_head, v_row, v_head, k_page, k_slot, k_cache_head, v_page, v_slot, v_cache_head, pages_row,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Keys ``k`` [tokens, KV_HEADS, HEAD_DIM] and values ``v`` [tokens, KV_HEADS, V_HEAD_DIM] into a layer's cache.

    ``k_cache`` [pages, PAGE_SIZE, KV_HEADS, HEAD_DIM], ``v_cache`` likewise; ``pages`` [seqs, .] int32,
    ``positions`` and ``seqs`` [tokens] int32, ``num_tokens`` [1] int32: tokens beyond it write nothing.
    Grid (tokens, ceil(KV_HEADS / HEADS)); HEADS, BLOCK >= HEAD_DIM and V_BLOCK >= V_HEAD_DIM are powers of two.
    """
    enter(OVERLAP)
    token = tl.program_id(0)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    page, slot, real = _slot(pages, positions, seqs, num_tokens, pages_row, token, PAGE_SIZE)
    row = token.to(tl.int64)
    inside = (head < KV_HEADS) & real
    target = k_cache + page * k_page + slot * k_slot + head * k_cache_head
    _copy_heads(target, k + row * k_row + head * k_head, inside, inside, HEAD_DIM, BLOCK)
    target = v_cache + page * v_page + slot * v_slot + head * v_cache_head
    _copy_heads(target, v + row * v_row + head * v_head, inside, inside, V_HEAD_DIM, V_BLOCK)


@triton.jit(do_not_specialize=["pages_row"])
def rope_and_cache(
    out, k_cache, v_cache, q, k, v, q_norm, k_norm, angles, pages, positions, seqs, num_tokens,
    q_row, q_head, k_row, k_head, v_row, v_head,
    k_page, k_slot, k_cache_head, v_page, v_slot, v_cache_head, pages_row, eps, offset,
    Q_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr, ROTARY: tl.constexpr, INTERLEAVED: tl.constexpr, NORM: tl.constexpr,
    HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr, V_BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Norm (if NORM) and turn (if ROTARY) the heads of q and k; q to ``out``, k and v into a layer's cache.

    ``q`` [tokens, Q_HEADS, HEAD_DIM], ``out`` alike and contiguous; ``q_norm``, ``k_norm`` [HEAD_DIM]
    (any pointer without NORM); ``angles`` [tokens, ROTARY] float32 (any pointer if ROTARY is 0); the
    rest as in kv_write. Grid (tokens, ceil(Q_HEADS / HEADS) + ceil(KV_HEADS / HEADS)).
    """
    enter(OVERLAP)
    token = tl.program_id(0)
    row = token.to(tl.int64)
    block = tl.program_id(1)
    angle = angles + row * ROTARY
    blocks: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    if block < blocks:
        head = block * HEADS + tl.arange(0, HEADS)
        inside = head < Q_HEADS
        source = q + row * q_row + head * q_head
        turned = out + (row * Q_HEADS + head) * HEAD_DIM  # a name of its own: the cache may be of another dtype
        _turn_heads(
            turned, source, inside, inside, q_norm, angle, eps, offset,
            HEAD_DIM, ROTARY, INTERLEAVED, NORM, HALF, REST,
        )  # fmt: skip
    else:
        head = (block - blocks) * HEADS + tl.arange(0, HEADS)
        page, slot, real = _slot(pages, positions, seqs, num_tokens, pages_row, token, PAGE_SIZE)
        inside = (head < KV_HEADS) & real
        target = k_cache + page * k_page + slot * k_slot + head * k_cache_head
        _turn_heads(
            target, k + row * k_row + head * k_head, inside, inside, k_norm, angle, eps, offset,
            HEAD_DIM, ROTARY, INTERLEAVED, NORM, HALF, REST,
        )  # fmt: skip
        target = v_cache + page * v_page + slot * v_slot + head * v_cache_head
        _copy_heads(target, v + row * v_row + head * v_head, inside, inside, V_HEAD_DIM, V_BLOCK)
