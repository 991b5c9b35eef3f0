"""Log-probabilities of chosen tokens, their ranks, and the most likely tokens, in two stages."""

import triton
import triton.language as tl

from zif.portable.triton.device.overlap import enter

TAKEN = tl.constexpr(-(2**31))
"""Below the key of any number."""


@triton.jit
def _key(x):
    """Int32 that are ordered as the float32 ``x`` are; the map is its own inverse, on the bits."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _value(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["count"])
def summarize_chunk(
    highest, mass, above, keys, ids_of, logits, tokens, vocab, chunks, logits_row, count, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Of each chunk of BLOCK logits: the largest, the sum of exp(x - largest), how many exceed the token's,
    and the ``count`` largest in order.

    ``highest``, ``mass`` float32 and ``above`` int32 [rows, chunks]; ``keys`` and ``ids_of`` [rows,
    chunks, count] int32; ``tokens`` [rows] int32. Grid (rows, chunks).
    """
    enter(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    ids = chunk * BLOCK + lane
    line = logits + row * logits_row
    x = tl.load(line + ids, mask=ids < vocab, other=float("-inf"))
    chosen = tl.load(line + tl.load(tokens + row))
    top = tl.max(x, 0)
    place = row * chunks + chunk
    tl.store(highest + place, top)
    tl.store(mass + place, tl.sum(tl.where(x > float("-inf"), tl.exp(x - top), 0.0), 0))
    tl.store(above + place, tl.sum((x > chosen).to(tl.int32), 0))
    key = tl.where(ids < vocab, _key(x), TAKEN)
    for i in range(count):
        best, index = tl.max(key, 0, return_indices=True)
        tl.store(keys + place * count + i, best)
        tl.store(ids_of + place * count + i, chunk * BLOCK + index)
        key = tl.where(lane == index, TAKEN, key)


@triton.jit(do_not_specialize=["count"])
def summarize_row(
    chosen, rank, top_ids, top_values, highest, mass, above, keys, ids_of, logits, tokens, chunks, logits_row, count,
    BLOCK: tl.constexpr, BLOCK_TOP: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Join the chunks: ``chosen`` [rows] float32, ``rank`` [rows] int32, ``top_ids``, ``top_values`` [rows, count].

    Grid (rows). BLOCK and BLOCK_TOP are powers of two >= chunks and chunks * count.
    """
    enter(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, BLOCK)
    inside = chunk < chunks
    tops = tl.load(highest + row * chunks + chunk, mask=inside, other=float("-inf"))
    masses = tl.load(mass + row * chunks + chunk, mask=inside, other=0.0)
    exceeding = tl.load(above + row * chunks + chunk, mask=inside, other=0)
    top = tl.max(tops, 0)
    log_mass = tl.log(tl.sum(masses * tl.exp(tops - top), 0))
    token = tl.load(tokens + row)
    tl.store(chosen + row, tl.load(logits + row * logits_row + token) - top - log_mass)
    tl.store(rank + row, 1 + tl.sum(exceeding, 0))
    lane = tl.arange(0, BLOCK_TOP)
    found = row * chunks * count
    key = tl.load(keys + found + lane, mask=lane < chunks * count, other=TAKEN)
    for i in range(count):
        # candidates lie by chunk, and in a chunk by rank: among equals the first has the lowest id
        best, index = tl.max(key, 0, return_indices=True)
        tl.store(top_ids + row * count + i, tl.load(ids_of + found + index))
        tl.store(top_values + row * count + i, _value(best) - top - log_mass)
        key = tl.where(lane == index, TAKEN, key)
