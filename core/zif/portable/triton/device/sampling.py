"""Choosing tokens from logits [rows, vocab] float32: in two stages, so that few rows keep a whole device busy."""

import triton
import triton.language as tl

from zif.portable.triton.device.numbers import LOG2_E, log2
from zif.portable.triton.device.overlap import enter
from zif.sampling import threefry

_PARITY = tl.constexpr(threefry.PARITY)
_EVEN = tl.constexpr(threefry.ROTATIONS[0])
_ODD = tl.constexpr(threefry.ROTATIONS[1])
_HALF = tl.constexpr(threefry.HALF)


@triton.jit
def _round(x0, x1, R: tl.constexpr):
    x0 += x1
    return x0, ((x1 << R) | (x1 >> (32 - R))) ^ x0


@triton.jit
def words(key0, key1, position, counters):
    """Both words of :func:`zif.sampling.threefry.threefry2x32`, uint32; arguments int32."""
    key0 = key0.to(tl.uint32, bitcast=True)
    key1 = key1.to(tl.uint32, bitcast=True)
    key2 = key0 ^ key1 ^ _PARITY
    x1 = counters.to(tl.uint32, bitcast=True) + key1
    x0 = tl.zeros_like(x1) + (position.to(tl.uint32, bitcast=True) + key0)
    for group in tl.static_range(5):
        for step in tl.static_range(4):
            x0, x1 = _round(x0, x1, _ODD[step] if group % 2 else _EVEN[step])
        x0 += key1 if group % 3 == 0 else key2 if group % 3 == 1 else key0
        x1 += key2 if group % 3 == 0 else key0 if group % 3 == 1 else key1
        x1 += group + 1
    return x0, x1


@triton.jit
def uniform(word):
    """Float32 in (0, 1), as :func:`zif.sampling.threefry.uniform` makes it of a word."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def noise(word):
    """-log2(-log2 u) for the u of a word: Gumbel noise in units of log 2, less a constant."""
    return -log2(-log2(uniform(word)))


@triton.jit
def best_of_chunk(
    best, best_id, logits, rows, temperature, seed, position, vocab, chunks, logits_row,
    RANDOM: tl.constexpr, TABLE: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """The largest (perturbed, if RANDOM) logit of each chunk of BLOCK, the lowest id among equals.

    ``temperature`` [rows] float32 (0: not perturbed), ``seed`` [rows, 2] and ``position`` [rows] int32; if TABLE
    they are a table's, of which ``rows`` [rows] int32 tells the rows. Without RANDOM these are any pointers.
    ``best`` [rows, chunks] float32, ``best_id`` int32. Grid (rows, chunks).
    BLOCK is a multiple of 256: the ids of its lower halves are Threefry's counters.
    """
    enter(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    lane = tl.arange(0, BLOCK // 2)
    lower = chunk * BLOCK + lane // _HALF * (2 * _HALF) + lane % _HALF
    upper = lower + _HALF
    line = logits + row * logits_row
    x = tl.load(line + lower, mask=lower < vocab, other=float("-inf"))
    y = tl.load(line + upper, mask=upper < vocab, other=float("-inf"))
    if RANDOM:
        at = tl.load(rows + row).to(tl.int64) if TABLE else row
        t = tl.load(temperature + at)
        if t != 0:
            rate = LOG2_E / t
            word0, word1 = words(tl.load(seed + 2 * at), tl.load(seed + 2 * at + 1), tl.load(position + at), lower)
            x = x * rate + noise(word0)
            y = y * rate + noise(word1)
    value = tl.max(tl.maximum(x, y), 0)
    held = tl.minimum(tl.where(x == value, lower, vocab), tl.where(y == value, upper, vocab))
    tl.store(best + row * chunks + chunk, value)
    tl.store(best_id + row * chunks + chunk, tl.minimum(tl.min(held, 0), vocab - 1))


@triton.jit
def best_of_row(
    out, last, rows, best, best_id, chunks, TABLE: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False
):
    """``out`` [rows] int32: the id of the largest of each row's chunks. Grid (rows); BLOCK >= chunks.

    If TABLE it goes to row ``rows`` [rows] int32 of ``last`` int32 as well.
    """
    enter(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, BLOCK)
    values = tl.load(best + row * chunks + chunk, mask=chunk < chunks, other=float("-inf"))
    _, index = tl.max(values, 0, return_indices=True)
    token = tl.load(best_id + row * chunks + tl.minimum(index, chunks - 1))
    tl.store(out + row, token)
    if TABLE:
        tl.store(last + tl.load(rows + row), token)


@triton.jit
def penalize(
    out, logits, output_counts, in_prompt, repetition, presence, frequency,
    vocab, logits_row, counts_row, prompt_row, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Logits after penalties. ``output_counts`` int32 and ``in_prompt`` bool as ``logits``; the others [rows].

    Grid (rows, ceil(vocab / BLOCK)).
    """
    enter(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = ids < vocab
    x = tl.load(logits + row * logits_row + ids, mask=mask, other=0.0)
    count = tl.load(output_counts + row * counts_row + ids, mask=mask, other=0)
    prompt = tl.load(in_prompt + row * prompt_row + ids, mask=mask, other=0)
    said = count > 0
    factor = tl.where(said | (prompt != 0), tl.load(repetition + row), 1.0)
    x = tl.where(x > 0, x / factor, x * factor)
    x = x - tl.load(frequency + row) * count.to(tl.float32) - tl.where(said, tl.load(presence + row), 0.0)
    tl.store(out + row * vocab + ids, x, mask=mask)
