"""Attention over pages: one token a sequence, in equal shares of all histories; and ragged, in blocks of queries.

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
def _attend(
    q, acc, top, total, position, begin, end, low, high, k_cache, v_cache, table, k_page, k_slot, v_page, v_slot,
    scale, CAP: tl.constexpr, WINDOW: tl.constexpr, BOUNDED: tl.constexpr, CAUSAL: tl.constexpr,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Take positions [begin, end) into the running softmax of the rows ``q`` [M, BLOCK_D].

    BOUNDED: only [low, high) of them is read. CAUSAL: a row sees no further than its ``position``, nor
    back beyond its window. ``k_cache`` and ``v_cache`` point to the kv head.
    """
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    for start in range(begin, end, BLOCK_N):
        at = start + n
        if BOUNDED:
            live = (at >= low) & (at < high)
            page = tl.load(table + at // PAGE_SIZE, mask=live, other=0).to(tl.int64)
        else:
            page = tl.load(table + at // PAGE_SIZE).to(tl.int64)
        slot = at % PAGE_SIZE
        k_at = k_cache + (page * k_page + slot * k_slot)[None, :] + d[:, None]
        v_at = v_cache + (page * v_page + slot * v_slot)[:, None] + e[None, :]
        if BOUNDED:
            k = tl.load(k_at, mask=live[None, :] & (d < HEAD_DIM)[:, None], other=0.0)
            v = tl.load(v_at, mask=live[:, None] & (e < V_HEAD_DIM)[None, :], other=0.0)
        else:
            k = tl.load(k_at, mask=(d < HEAD_DIM)[:, None], other=0.0)
            v = tl.load(v_at, mask=(e < V_HEAD_DIM)[None, :], other=0.0)
        score = tl.dot(q, k.to(q.dtype), input_precision="ieee") * scale
        if CAP > 0:
            score = CAP * tanh(score / CAP)
        score *= LOG2_E
        if BOUNDED:
            score = tl.where(live[None, :], score, float("-inf"))
        if CAUSAL:
            seen = at[None, :] <= position[:, None]
            if WINDOW > 0:
                seen = seen & (at[None, :] > position[:, None] - WINDOW)
            score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weight, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(weight.to(q.dtype), v.to(q.dtype), acc, input_precision="ieee")
        top = higher
    return acc, top, total


@triton.jit
def _tiles_of(length, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr):
    """(first tile of a history that a window leaves, how many from there on; one for an empty history)."""
    low = tl.maximum(length - WINDOW, 0) if WINDOW > 0 else length * 0
    first = low // BLOCK_N
    return first, tl.maximum(tl.cdiv(length, BLOCK_N) - first, 1)


@triton.jit
def _join(
    out, partial, partial_top, head, kv_heads, first, last, opening,
    GROUP: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Join what the shares [first, last] left of one history into ``out`` [GROUP, V_HEAD_DIM].

    ``opening`` is the part of the first share that holds it (0 or 1); of the others it is 0.
    """
    s = tl.arange(0, BLOCK_S)
    m = tl.arange(0, BLOCK_M)
    e = tl.arange(0, BLOCK_V)
    real = m < GROUP
    highest = tl.full((BLOCK_M,), NOTHING, tl.float32)
    for at in range(first, last + 1, BLOCK_S):
        share = at + s
        part = (share.to(tl.int64) * kv_heads + head) * 2 + tl.where(share == first, opening, 0)
        mask = (share <= last)[:, None] & real[None, :]
        tops = tl.load(partial_top + part[:, None] * GROUP + m[None, :], mask, float("-inf"), cache_modifier=".cg")
        highest = tl.maximum(highest, tl.max(tops, 0))
    total = tl.zeros((BLOCK_M,), tl.float32)
    mean = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for at in range(first, last + 1, BLOCK_S):
        share = at + s
        part = (share.to(tl.int64) * kv_heads + head) * 2 + tl.where(share == first, opening, 0)
        mask = (share <= last)[:, None] & real[None, :]
        tops = tl.load(partial_top + part[:, None] * GROUP + m[None, :], mask, float("-inf"), cache_modifier=".cg")
        weight = tl.exp2(tops - highest[None, :])
        line = (part[:, None] * GROUP + m[None, :])[:, :, None] * V_HEAD_DIM + e[None, None, :]
        inside = mask[:, :, None] & (e < V_HEAD_DIM)[None, None, :]
        shares = tl.load(partial + line, inside, 0.0, cache_modifier=".cg")
        total += tl.sum(weight, 0)
        mean += tl.sum(shares * weight[:, :, None], 0)
    mean = mean / tl.where(total > 0, total, 1.0)[:, None]
    inside = real[:, None] & (e < V_HEAD_DIM)[None, :]
    tl.store(out + m[:, None] * V_HEAD_DIM + e[None, :], mean.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seqs", "pages_row"])
def decode(
    out, partial, partial_top, arrived, q, k_cache, v_cache, pages, kv_lens, seqs, q_row, q_head,
    k_page, k_slot, k_head, v_page, v_slot, v_head, pages_row, scale,
    GROUP: tl.constexpr, CAP: tl.constexpr, WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_S: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """The last position of each sequence: ``q`` [seqs, kv_heads * GROUP, HEAD_DIM] -> ``out`` [., ., V_HEAD_DIM].

    ``k_cache`` [pages, PAGE_SIZE, kv_heads, HEAD_DIM], ``v_cache`` likewise; ``pages`` [seqs, .] int32;
    ``kv_lens`` [seqs] int32, 0 for padding, whose output is 0.

    All histories, in tiles of BLOCK_N and one behind the other, are cut into equal shares, a program
    each, whatever their lengths are (Lean Attention, Sanovar et al. 2024). A history that is cut is left in
    parts: ``partial`` [shares, kv_heads, 2, GROUP, V_HEAD_DIM] float32, normalised, the first and the last
    that a share has, and the base-2 logarithms of their weights in ``partial_top`` [shares, kv_heads, 2,
    GROUP] (-inf: nothing). Whoever finishes the last part of it joins all of them in order, so that the
    same histories give the same bits. ``arrived`` [seqs, kv_heads] int32 counts the parts: it is 0 before
    and after.

    Grid (kv_heads, shares). Powers of two: BLOCK_B >= seqs, BLOCK_G >= max(GROUP, 16), BLOCK_M >= GROUP, BLOCK_N,
    BLOCK_D >= HEAD_DIM, BLOCK_V >= V_HEAD_DIM; BLOCK_S, parts that are joined at a time. CAP and WINDOW are 0
    for none.
    """
    enter(OVERLAP)
    kv_head, share = tl.program_id(0), tl.program_id(1)
    kv_heads = tl.num_programs(0)
    every = tl.arange(0, BLOCK_B)
    _, tiles = _tiles_of(tl.load(kv_lens + every, mask=every < seqs, other=0), WINDOW, BLOCK_N)
    tiles = tl.where(every < seqs, tiles, 0)
    ends = tl.cumsum(tiles, 0)
    whole = tl.sum(tiles, 0)
    size = tl.cdiv(whole, tl.num_programs(1))
    mine = share * size
    stop = tl.minimum(mine + size, whole)
    start = tl.sum(tl.where(ends <= mine, tiles, 0), 0)  # of the first sequence
    sequence = tl.sum((ends <= mine).to(tl.int64), 0)
    met = tl.sum(((ends > mine) & (ends - tiles < stop)).to(tl.int32), 0)
    g = tl.arange(0, BLOCK_G)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    head = kv_head * GROUP + g
    inside = (g < GROUP)[:, None] & (e < V_HEAD_DIM)[None, :]
    for _ in range(met):
        high = tl.load(kv_lens + sequence)
        low = tl.maximum(high - WINDOW, 0) if WINDOW > 0 else 0
        skipped, count = _tiles_of(high, WINDOW, BLOCK_N)
        begin = skipped + tl.maximum(mine - start, 0)
        end = skipped + tl.minimum(stop - start, count)
        rows = tl.load(
            q + sequence * q_row + head[:, None] * q_head + d[None, :],
            mask=(g < GROUP)[:, None] & (d < HEAD_DIM)[None, :],
            other=0.0,
        )
        acc = tl.zeros((BLOCK_G, BLOCK_V), tl.float32)
        top = tl.full((BLOCK_G,), NOTHING, tl.float32)
        total = tl.zeros((BLOCK_G,), tl.float32)
        acc, top, total = _attend(
            rows, acc, top, total, g, begin * BLOCK_N, tl.minimum(end * BLOCK_N, high), low, high,
            k_cache + kv_head * k_head, v_cache + kv_head * v_head, pages + sequence * pages_row,
            k_page, k_slot, v_page, v_slot, scale, CAP, WINDOW, True, False,
            HEAD_DIM, V_HEAD_DIM, PAGE_SIZE, BLOCK_N, BLOCK_D, BLOCK_V,
        )  # fmt: skip
        mean = acc / tl.where(total > 0, total, 1.0)[:, None]
        target = out + (sequence * kv_heads + kv_head) * GROUP * V_HEAD_DIM
        first_share = start // size
        last_share = (start + count - 1) // size
        if first_share == last_share:
            tl.store(target + g[:, None] * V_HEAD_DIM + e[None, :], mean.to(out.dtype.element_ty), mask=inside)
        else:
            part = (share.to(tl.int64) * kv_heads + kv_head) * 2 + (start > mine).to(tl.int32)
            logarithm = tl.where(total > 0, top + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
            tl.store(partial + (part * GROUP + g)[:, None] * V_HEAD_DIM + e[None, :], mean, mask=inside)
            tl.store(partial_top + part * GROUP + g, logarithm, mask=g < GROUP)
            tl.debug_barrier()  # all of the part is written before it is counted
            counter = arrived + sequence * kv_heads + kv_head
            if tl.atomic_add(counter, 1, sem="acq_rel") == last_share - first_share:
                _join(
                    target, partial, partial_top, kv_head, kv_heads, first_share, last_share,
                    (start > first_share * size).to(tl.int32), GROUP, V_HEAD_DIM, BLOCK_M, BLOCK_V, BLOCK_S,
                )  # fmt: skip
                tl.store(counter, 0)
        start += count
        sequence += 1


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


@triton.jit(do_not_specialize=["seqs", "pages_row"])
def ragged(
    out, q, k_cache, v_cache, pages, query_starts, kv_lens, seqs, q_row, q_head,
    k_page, k_slot, k_head, v_page, v_slot, v_head, pages_row, scale,
    GROUP: tl.constexpr, CAP: tl.constexpr, WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Causal attention of new tokens of several sequences: ``q`` [tokens, kv_heads * GROUP, HEAD_DIM] -> ``out``.

    ``query_starts`` [seqs + 1] int32 bounds each sequence's tokens, the last of ``kv_lens`` [seqs] positions;
    the cache as in ``decode``. Rows beyond the last sequence are not written.

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
    if first < queries:
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
            acc, top, total = _attend(
                rows, acc, top, total, position, 0, begin, low, high, keys, values, table,
                k_page, k_slot, v_page, v_slot, scale, CAP, WINDOW, False, False,
                HEAD_DIM, V_HEAD_DIM, PAGE_SIZE, BLOCK_N, BLOCK_D, BLOCK_V,
            )  # fmt: skip
        acc, top, total = _attend(
            rows, acc, top, total, position, begin, high, low, high, keys, values, table,
            k_page, k_slot, v_page, v_slot, scale, CAP, WINDOW, True, True,
            HEAD_DIM, V_HEAD_DIM, PAGE_SIZE, BLOCK_N, BLOCK_D, BLOCK_V,
        )  # fmt: skip
        mean = acc / tl.where(total > 0, total, 1.0)[:, None]
        heads = tl.num_programs(1) * GROUP
        line = (token * heads + head) * V_HEAD_DIM
        inside = real[:, None] & (e < V_HEAD_DIM)[None, :]
        tl.store(out + line[:, None] + e[None, :], mean.to(out.dtype.element_ty), mask=inside)
