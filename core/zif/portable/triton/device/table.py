"""Reading and writing the request table before a decode step."""

import triton
import triton.language as tl

from zif.portable.triton.device.overlap import enter


@triton.jit(do_not_specialize=["seqs", "width", "pages_row"])
def decode_inputs(
    tokens, positions, kv_lens, order, tables, rows, known, last_token, kv_len, pages, page_rows, page_indices,
    page_ids, seqs, width, pages_row, FIRST: tl.constexpr, SEQS: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """One cache group's share of the op of this name, and, if FIRST, what all of them have in common.

    Out: ``tokens``, ``positions``, ``kv_lens`` [seqs], ``order`` [seqs + 1], ``tables`` [seqs, width]. In: ``rows``
    and ``known`` [seqs]; of the table ``last_token`` and ``kv_len``, ``pages`` with rows ``pages_row`` apart; the
    assignments ``page_rows``, ``page_indices``, ``page_ids`` [seqs]. All int32; ``kv_len`` and ``pages`` are updated.
    Grid (seqs, ceil(width / BLOCK)); SEQS is a power of two >= seqs, BLOCK one.

    A program makes one assignment, and puts those of its own row into what it copies itself: whether another
    program has made them yet is left open.
    """
    enter(OVERLAP)
    seq = tl.program_id(0)
    row = tl.load(rows + seq).to(tl.int64)
    if tl.program_id(1) == 0:
        target = pages + tl.load(page_rows + seq).to(tl.int64) * pages_row + tl.load(page_indices + seq)
        tl.store(target, tl.load(page_ids + seq))
        if FIRST:
            before = tl.load(kv_len + row)
            after = before + (row > 0).to(tl.int32)
            token = tl.load(known + seq)
            tl.store(tokens + seq, tl.where(token < 0, tl.load(last_token + row), token))
            tl.store(positions + seq, before)
            tl.store(kv_lens + seq, after)
            tl.store(kv_len + row, after)
            tl.store(order + seq, seq)
            tl.store(order + seqs, seqs, mask=seq == seqs - 1)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    line = tl.load(pages + row * pages_row + column, mask=column < width, other=0)
    entry = tl.arange(0, SEQS)
    mine = (tl.load(page_rows + entry, mask=entry < seqs, other=0) == row) & (row > 0)
    for _ in range(tl.sum(mine.to(tl.int32), 0)):
        at = tl.min(tl.where(mine, entry, SEQS), 0)
        line = tl.where(column == tl.load(page_indices + at), tl.load(page_ids + at), line)
        mine = mine & (entry != at)
    tl.store(tables + seq.to(tl.int64) * width + column, line, mask=column < width)
