"""Attention over pages of sequences with one token each, as in decode steps, and histories in equal shares.

Flash-Decoding (Dao et al. 2023), with the shares chosen on the device, from the lengths that a step has. Programs
are small and many, so that they hide each other's waiting: a tile is no longer than a page, whose address is then one.
"""

import triton
import triton.language as tl

from zif.portable.triton.device.attention import NOTHING, take
from zif.portable.triton.device.overlap import enter


@triton.jit
def _tiles_of(length, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr):
    """(first tile of a history that a window leaves, how many from there on; one for an empty history)."""
    low = tl.maximum(length - WINDOW, 0) if WINDOW > 0 else length * 0
    first = low // BLOCK_N
    return first, tl.maximum(tl.cdiv(length, BLOCK_N) - first, 1)


@triton.jit
def _pages_of(table, start, last, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Pages of the tile of positions from ``start`` on, of which none beyond ``last`` is read: one, or each's own."""
    if PAGE_SIZE % BLOCK_N == 0:
        pages = tl.load(table + tl.minimum(start, last) // PAGE_SIZE)
    else:
        pages = tl.load(table + tl.minimum(start + tl.arange(0, BLOCK_N), last) // PAGE_SIZE)
    return pages


@triton.jit
def _join(
    out, partial, partial_top, head, kv_heads, first, pieces, GROUP: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Join what so many ``pieces``, from item ``first`` on, left of a history into ``out`` [GROUP, V_HEAD_DIM].

    BLOCK_S of them at a time.
    """
    s = tl.arange(0, BLOCK_S)
    m = tl.arange(0, BLOCK_M)
    e = tl.arange(0, BLOCK_V)
    highest = tl.full((BLOCK_M,), NOTHING, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mean = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for at in tl.range(0, pieces, BLOCK_S, num_stages=1):
        line = ((first + at + s).to(tl.int64) * kv_heads + head)[:, None] * GROUP + m[None, :]
        mask = (at + s < pieces)[:, None] & (m < GROUP)[None, :]
        inside = mask[:, :, None] & (e < V_HEAD_DIM)[None, None, :]
        tops = tl.load(partial_top + line, mask, float("-inf"), cache_modifier=".cg")
        means = tl.load(partial + line[:, :, None] * V_HEAD_DIM + e[None, None, :], inside, 0.0, cache_modifier=".cg")
        higher = tl.maximum(highest, tl.max(tops, 0))
        weight = tl.exp2(tops - higher[None, :])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weight, 0)
        mean = mean * shrink[:, None] + tl.sum(means * weight[:, :, None], 0)
        highest = higher
    mean = mean / tl.where(total > 0, total, 1.0)[:, None]
    inside = (m < GROUP)[:, None] & (e < V_HEAD_DIM)[None, :]
    tl.store(out + m[:, None] * V_HEAD_DIM + e[None, :], mean.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seqs", "pages_row"])
def decode(
    out, partial, partial_top, arrived, q, k_cache, v_cache, pages, query_starts, kv_lens, seqs, q_row, q_head, k_page,
    k_slot, k_head, v_page, v_slot, v_head, pages_row, scale, FRONT: tl.constexpr, GROUP: tl.constexpr,
    CAP: tl.constexpr, WINDOW: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_S: tl.constexpr, PIECES: tl.constexpr,
    LEAST: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """The last position of each sequence: ``q`` [seqs, kv_heads * GROUP, HEAD_DIM] -> ``out`` [., ., V_HEAD_DIM].

    ``k_cache`` [pages, PAGE_SIZE, kv_heads, HEAD_DIM], ``v_cache`` likewise; ``pages`` [seqs, .] int32;
    ``kv_lens`` [seqs] int32, 0 for padding, whose output is 0. Lengths, and ``query_starts``, are older than the last
    kernel before this one that waits before it lets others start (see ``overlap.enter_ahead``): in a decode step one
    that writes this step's keys, in another that of the other sequences.
    FRONT: of a step of any tokens, bounded by ``query_starts`` [seqs + 1] int32, those sequences at its front that have
    one token each, if they are as many as that; other rows of ``out`` are not written. 0: ``query_starts`` is any
    pointer.

    Histories, one behind another, are cut into equal shares of tiles of BLOCK_N positions, one for each program of a
    head: it works through the pieces of histories that are in its own. A share is no less than LEAST tiles, or than
    what cuts the longest history into PIECES if that is less: little is left to join where there is little to do.
    What a piece came to, unless it is all of a history, is left in ``partial`` [programs + seqs, kv_heads, GROUP,
    V_HEAD_DIM] float32, normalised, and the base-2 logarithm of its weight in ``partial_top`` [programs + seqs,
    kv_heads, GROUP] (-inf: nothing), in the line that its program's and its sequence's numbers add up to. Whoever
    finishes the last piece of a history joins all of them in order, so that the same histories give the same bits.
    ``arrived`` [seqs, kv_heads] int32 counts the pieces: it is 0 before and after.

    Grid (kv_heads, programs). Powers of two: BLOCK_B >= seqs, BLOCK_G >= max(GROUP, 16), BLOCK_M >= GROUP,
    BLOCK_N, BLOCK_D >= HEAD_DIM, BLOCK_V >= V_HEAD_DIM; BLOCK_S, pieces that are joined at a time.
    CAP and WINDOW are 0 for none.
    """
    kv_head, item = tl.program_id(0), tl.program_id(1)
    kv_heads, programs = tl.num_programs(0), tl.num_programs(1)
    every = tl.arange(0, BLOCK_B)
    if FRONT:
        ends = tl.load(query_starts + 1 + every, mask=every < seqs, other=0)
        seqs = tl.min(tl.where(ends == every + 1, BLOCK_B, every), 0)
        seqs = tl.where(seqs < FRONT, 0, seqs)
    _, tiles = _tiles_of(tl.load(kv_lens + every, mask=every < seqs, other=0), WINDOW, BLOCK_N)
    tiles = tl.where(every < seqs, tiles, 0)
    whole = tl.sum(tiles, 0)
    least = tl.minimum(tl.cdiv(tl.max(tiles, 0), PIECES), LEAST)
    share = tl.maximum(tl.cdiv(whole, programs), least)
    at = item * share
    until = tl.minimum(at + share, whole)
    before = tl.cumsum(tiles, 0) <= at
    sequence = tl.sum(before.to(tl.int64), 0)
    base = tl.sum(tl.where(before, tiles, 0), 0)  # where the sequence begins
    enter(OVERLAP)
    g = tl.arange(0, BLOCK_G)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    n = tl.arange(0, BLOCK_N)
    inside = (g < GROUP)[:, None] & (e < V_HEAD_DIM)[None, :]
    queries = q + (kv_head * GROUP + g)[:, None] * q_head + d[None, :]
    keys = k_cache + kv_head * k_head
    values = v_cache + kv_head * v_head
    while at < until:
        length = tl.load(kv_lens + sequence)
        low = tl.maximum(length - WINDOW, 0) if WINDOW > 0 else 0
        skipped, count = _tiles_of(length, WINDOW, BLOCK_N)
        through = tl.minimum(until, base + count)
        begin = (skipped + at - base) * BLOCK_N
        end = tl.minimum((skipped + through - base) * BLOCK_N, length)
        rows = tl.load(queries + sequence * q_row, mask=(g < GROUP)[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
        acc = tl.zeros((BLOCK_G, BLOCK_V), tl.float32)
        top = tl.full((BLOCK_G,), NOTHING, tl.float32)
        total = tl.zeros((BLOCK_G,), tl.float32)
        table = pages + sequence * pages_row
        last = tl.maximum(end - 1, 0)
        following = _pages_of(table, begin, last, PAGE_SIZE, BLOCK_N)
        for start in range(begin, end, BLOCK_N):
            position = start + n
            live = (position >= low) & (position < length)
            page = following.to(tl.int64)
            following = _pages_of(table, start + BLOCK_N, last, PAGE_SIZE, BLOCK_N)
            if PAGE_SIZE % BLOCK_N == 0:
                slot = start % PAGE_SIZE
                k_at = (keys + page * k_page + slot * k_slot) + ((n * k_slot)[None, :] + d[:, None])
                v_at = (values + page * v_page + slot * v_slot) + ((n * v_slot)[:, None] + e[None, :])
            else:
                slot = position % PAGE_SIZE
                k_at = keys + (page * k_page + slot * k_slot)[None, :] + d[:, None]
                v_at = values + (page * v_page + slot * v_slot)[:, None] + e[None, :]
            k_tile = tl.load(k_at, mask=live[None, :] & (d < HEAD_DIM)[:, None], other=0.0)
            v_tile = tl.load(v_at, mask=live[:, None] & (e < V_HEAD_DIM)[None, :], other=0.0)
            acc, top, total = take(rows, acc, top, total, k_tile, v_tile, live[None, :], scale, CAP)
        mean = acc / tl.where(total > 0, total, 1.0)[:, None]
        target = out + (sequence * kv_heads + kv_head) * GROUP * V_HEAD_DIM
        first = base // share
        pieces = (base + count - 1) // share - first + 1
        if pieces == 1:
            tl.store(target + g[:, None] * V_HEAD_DIM + e[None, :], mean.to(out.dtype.element_ty), mask=inside)
        else:
            line = ((item + sequence) * kv_heads + kv_head) * GROUP + g
            logarithm = tl.where(total > 0, top + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
            tl.store(partial + line[:, None] * V_HEAD_DIM + e[None, :], mean, mask=inside)
            tl.store(partial_top + line, logarithm, mask=g < GROUP)
            tl.debug_barrier()  # all of the piece is written before it is counted
            counter = arrived + sequence * kv_heads + kv_head
            if tl.atomic_add(counter, 1, sem="acq_rel") == pieces - 1:
                _join(
                    target, partial, partial_top, kv_head, kv_heads, first + sequence, pieces, GROUP, V_HEAD_DIM,
                    BLOCK_M, BLOCK_V, BLOCK_S,
                )  # fmt: skip
                tl.store(counter, 0)
        at = through
        base += count
        sequence += 1
