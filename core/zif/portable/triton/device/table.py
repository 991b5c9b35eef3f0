"""Reading and writing the request table before a step."""

import triton
import triton.language as tl

from zif.portable.triton.device.overlap import enter


@triton.jit(do_not_specialize=["seqs", "width", "pages_row"])
def decode_inputs(
    tokens, positions, kv_lens, order, tables, rows, known, last_token, kv_len, pages, page_rows, page_indices,
    page_ids, seqs, width, pages_row, FIRST: tl.constexpr, FACTOR: tl.constexpr, SEQS: tl.constexpr,
    BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """One cache group's share of the op of this name, and, if FIRST, what all of them have in common.

    Out: ``tokens``, ``positions``, ``kv_lens`` [seqs], ``order`` [seqs + 1], ``tables`` [seqs, width]. In: ``rows``
    and ``known`` [seqs]; of the table ``last_token`` and ``kv_len``, ``pages`` with rows ``pages_row`` apart; the
    assignments ``page_rows``, ``page_indices``, ``page_ids`` [seqs], of whose indices FACTOR are one place. All int32;
    ``kv_len`` and ``pages`` are updated.
    Grid (seqs, ceil(width / BLOCK)); SEQS is a power of two >= seqs, BLOCK one.

    A program makes one assignment, and puts those of its own row into what it copies itself: whether another
    program has made them yet is left open.
    """
    enter(OVERLAP)
    seq = tl.program_id(0)
    row = tl.load(rows + seq).to(tl.int64)
    if tl.program_id(1) == 0:
        target = pages + tl.load(page_rows + seq).to(tl.int64) * pages_row + tl.load(page_indices + seq) // FACTOR
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
        line = tl.where(column == tl.load(page_indices + at) // FACTOR, tl.load(page_ids + at), line)
        mine = mine & (entry != at)
    tl.store(tables + seq.to(tl.int64) * width + column, line, mask=column < width)


@triton.jit(do_not_specialize=["seqs", "total", "width", "pages_row"])
def mixed_inputs(
    tokens, positions, kv_lens, tables, rows, known, query_starts, num_tokens, last_token, kv_len, pages,
    seqs, total, width, pages_row, FIRST: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """One cache group's share of the op of this name, and, if FIRST, what all of them have in common.

    Out: ``tokens``, ``positions`` [total], ``kv_lens`` [seqs], ``tables`` [seqs, width]. In: ``rows`` [seqs],
    ``known`` [total], ``query_starts`` [seqs + 1], ``num_tokens`` [1]; of the table ``last_token`` and ``kv_len``,
    which is updated, and ``pages`` with rows ``pages_row`` apart. All int32. Grid (seqs + 1); BLOCK is a power of two.

    A program has a sequence and all of its tokens, so that nobody else needs the length that it changes; the last
    program has the padding behind them.
    """
    enter(OVERLAP)
    seq = tl.program_id(0)
    if seq < seqs:
        row = tl.load(rows + seq).to(tl.int64)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            line = tl.load(pages + row * pages_row + column, mask=column < width, other=0)
            tl.store(tables + seq.to(tl.int64) * width + column, line, mask=column < width)
        if FIRST:
            first = tl.load(query_starts + seq)
            end = tl.load(query_starts + seq + 1)
            before = tl.load(kv_len + row)
            last = tl.load(last_token + row)
            for start in range(first, end, BLOCK):
                index = start + tl.arange(0, BLOCK)
                token = tl.load(known + index, mask=index < end, other=0)
                tl.store(tokens + index, tl.where(token < 0, last, token), mask=index < end)
                tl.store(positions + index, before + index - first, mask=index < end)
            tl.store(kv_lens + seq, before + end - first)
            tl.store(kv_len + row, before + end - first)
    elif FIRST:
        for start in range(tl.load(num_tokens), total, BLOCK):
            index = start + tl.arange(0, BLOCK)
            tl.store(tokens + index, tl.load(known + index, mask=index < total, other=0), mask=index < total)
            tl.store(positions + index, tl.zeros_like(index), mask=index < total)
