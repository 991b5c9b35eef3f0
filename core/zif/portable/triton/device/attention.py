"""Attention over pages of ragged steps, in blocks of queries; and the running softmax that decode steps share.

Online softmax (Milakov and Gimelshein 2018) in tiles (Dao 2023). The query heads that share a kv head are rows of
one tile, so that its keys and values are read once for all of them.
"""

import triton
import triton.language as tl

from zif.portable.triton.device.numbers import LOG2_E, tanh
from zif.portable.triton.device.overlap import enter

NOTHING = tl.constexpr(-1.0e30)
"""Less than any score: where a row's running maximum starts. Finite, so that differences are numbers."""


@triton.jit
def take(q, acc, top, total, k, v, seen, scale, CAP: tl.constexpr):
    """One tile into the running softmax of the rows ``q`` [M, D]: keys ``k`` [D, N], values ``v`` [N, V].

    ``seen``, which broadcasts to [M, N], or None for all, says which positions a row sees.
    """
    score = tl.dot(q, k.to(q.dtype), input_precision="ieee") * scale
    if CAP > 0:
        score = CAP * tanh(score / CAP)
    score *= LOG2_E
    if seen is not None:
        score = tl.where(seen, score, float("-inf"))
    higher = tl.maximum(top, tl.max(score, 1))
    weight = tl.exp2(score - higher[:, None])
    shrink = tl.exp2(top - higher)
    total = total * shrink + tl.sum(weight, 1)
    acc = tl.dot(weight.to(q.dtype), v.to(q.dtype), acc * shrink[:, None], input_precision="ieee")
    return acc, higher, total


@triton.jit
def attend(
    q, acc, top, total, position, begin, end, low, high, k_cache, v_cache, table, k_page, k_slot, v_page, v_slot,
    scale, CAP: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Take positions [begin, end) into the running softmax of the rows ``q`` [M, BLOCK_D].

    MASKED: only [low, high) of them is read, and a row sees no further than its ``position``, nor
    back beyond its window. ``k_cache`` and ``v_cache`` point to the kv head.
    """
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    for start in range(begin, end, BLOCK_N):
        at = start + n
        if MASKED:
            live = (at >= low) & (at < high)
            page = tl.load(table + at // PAGE_SIZE, mask=live, other=0).to(tl.int64)
        else:
            page = tl.load(table + at // PAGE_SIZE).to(tl.int64)
        slot = at % PAGE_SIZE
        k_at = k_cache + (page * k_page + slot * k_slot)[None, :] + d[:, None]
        v_at = v_cache + (page * v_page + slot * v_slot)[:, None] + e[None, :]
        if MASKED:
            k = tl.load(k_at, mask=live[None, :] & (d < HEAD_DIM)[:, None], other=0.0)
            v = tl.load(v_at, mask=live[:, None] & (e < V_HEAD_DIM)[None, :], other=0.0)
        else:
            k = tl.load(k_at, mask=(d < HEAD_DIM)[:, None], other=0.0)
            v = tl.load(v_at, mask=(e < V_HEAD_DIM)[None, :], other=0.0)
        seen = None
        if MASKED:
            seen = live[None, :] & (at[None, :] <= position[:, None])
            if WINDOW > 0:
                seen = seen & (at[None, :] > position[:, None] - WINDOW)
        acc, top, total = take(q, acc, top, total, k, v, seen, scale, CAP)
    return acc, top, total


@triton.jit
def _sequence_of(query_starts, seqs, block, BLOCK_Q: tl.constexpr):
    """The sequence that a block of queries belongs to: the last whose own first block is not after it.

    Sequence i begins at block query_starts[i] // BLOCK_Q + i, which leaves each enough of them.
    """
    left: tl.int32 = 0
    right = seqs
    while left < right:
        middle = (left + right) // 2
        if tl.load(query_starts + middle) // BLOCK_Q + middle <= block:
            left = middle + 1
        else:
            right = middle
    return left - 1


@triton.jit
def _front(query_starts, seqs, FRONT: tl.constexpr):
    """Whether the first FRONT sequences, of which none is empty then, have one token each."""
    last = tl.minimum(FRONT, seqs)
    before = tl.load(query_starts + last - 1)
    return (seqs >= FRONT) & (before == FRONT - 1) & (tl.load(query_starts + last) == FRONT)


@triton.jit(do_not_specialize=["seqs", "pages_row"])
def ragged(
    out, q, k_cache, v_cache, pages, query_starts, kv_lens, seqs, q_row, q_head,
    k_page, k_slot, k_head, v_page, v_slot, v_head, pages_row, scale,
    GROUP: tl.constexpr, CAP: tl.constexpr, WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, FRONT: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Causal attention of new tokens of several sequences: ``q`` [tokens, kv_heads * GROUP, HEAD_DIM] -> ``out``.

    ``query_starts`` [seqs + 1] int32 bounds each sequence's tokens, the last of ``kv_lens`` [seqs] positions;
    the cache as in ``decode.decode``. Rows beyond the last sequence are not written, nor those of the sequences at the
    front that have one token each, if they are FRONT or more: they are ``decode.decode``'s.

    Grid (tokens // BLOCK_Q + seqs, kv_heads). A tile has BLOCK_Q queries of GROUP heads: BLOCK_M is a
    power of two >= BLOCK_Q * GROUP.
    """
    enter(OVERLAP)
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the last blocks of a sequence see most: begin with them
    kv_head = tl.program_id(1)
    sequence = _sequence_of(query_starts, seqs, block, BLOCK_Q)
    start = tl.load(query_starts + sequence)
    queries = tl.load(query_starts + sequence + 1) - start
    first = (block - start // BLOCK_Q - sequence) * BLOCK_Q
    if (first < queries) & ((start > sequence) | (queries > 1) | (_front(query_starts, seqs, FRONT) == 0)):
        length = tl.load(kv_lens + sequence)
        m = tl.arange(0, BLOCK_M)
        d = tl.arange(0, BLOCK_D)
        e = tl.arange(0, BLOCK_V)
        query = first + m // GROUP
        head = kv_head * GROUP + m % GROUP
        real = (query < queries) & (m < BLOCK_Q * GROUP)
        token = (start + query).to(tl.int64)
        rows = tl.load(
            q + (token * q_row + head * q_head)[:, None] + d[None, :],
            mask=real[:, None] & (d < HEAD_DIM)[None, :],
            other=0.0,
        )
        nearest = length - queries + first
        position = length - queries + query
        high = tl.minimum(nearest + BLOCK_Q, length)
        low = tl.maximum(nearest - WINDOW + 1, 0) if WINDOW > 0 else 0
        keys = k_cache + kv_head * k_head
        values = v_cache + kv_head * v_head
        table = pages + sequence.to(tl.int64) * pages_row
        acc = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
        top = tl.full((BLOCK_M,), NOTHING, tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        begin = low // BLOCK_N * BLOCK_N
        if WINDOW == 0:
            # what every query of the block sees needs no mask
            begin = (nearest + 1) // BLOCK_N * BLOCK_N
            acc, top, total = attend(
                rows, acc, top, total, position, 0, begin, low, high, keys, values, table,
                k_page, k_slot, v_page, v_slot, scale, CAP, WINDOW, False,
                HEAD_DIM, V_HEAD_DIM, PAGE_SIZE, BLOCK_N, BLOCK_D, BLOCK_V,
            )  # fmt: skip
        acc, top, total = attend(
            rows, acc, top, total, position, begin, high, low, high, keys, values, table,
            k_page, k_slot, v_page, v_slot, scale, CAP, WINDOW, True,
            HEAD_DIM, V_HEAD_DIM, PAGE_SIZE, BLOCK_N, BLOCK_D, BLOCK_V,
        )  # fmt: skip
        mean = acc / tl.where(total > 0, total, 1.0)[:, None]
        heads = tl.num_programs(1) * GROUP
        line = (token * heads + head) * V_HEAD_DIM
        inside = real[:, None] & (e < V_HEAD_DIM)[None, :]
        tl.store(out + line[:, None] + e[None, :], mean.to(out.dtype.element_ty), mask=inside)
