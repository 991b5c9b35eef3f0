"""Choosing tokens from logits [rows, vocab] float32: in two stages, so that few rows keep a whole device busy.

The stages of a draw are those of :func:`zif.contract.ops.sampling.sample`, in units of log 2.
"""

import triton
import triton.language as tl

from zif.contract.ops import threefry
from zif.portable.triton.device.numbers import LOG2_E, log2
from zif.portable.triton.device.overlap import enter

_PARITY = tl.constexpr(threefry.PARITY)
_EVEN = tl.constexpr(threefry.ROTATIONS[0])
_ODD = tl.constexpr(threefry.ROTATIONS[1])
_HALF = tl.constexpr(threefry.HALF)
_BLOCK = tl.constexpr(threefry.BLOCK)
_FIRST_BLOCK = tl.constexpr(threefry.FIRST_BLOCK)


@triton.jit
def _round(x0, x1, R: tl.constexpr):
    x0 += x1
    return x0, ((x1 << R) | (x1 >> (32 - R))) ^ x0


@triton.jit
def words(key0, key1, position, counters):
    """Both words of :func:`zif.contract.ops.threefry.threefry2x32`, uint32; arguments of 32 bits."""
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
    """Float32 in (0, 1), as :func:`zif.contract.ops.threefry.uniform` makes it of a word."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def noise(word):
    """-log2(-log2 u) for the u of a word: Gumbel noise in units of log 2, less a constant."""
    return -log2(-log2(uniform(word)))


@triton.jit
def _halves(line, lower, vocab):
    """Logits of ids ``lower`` and of those a half behind them; -inf behind the vocabulary."""
    upper = lower + _HALF
    x = tl.load(line + lower, mask=lower < vocab, other=float("-inf"))
    return x, tl.load(line + upper, mask=upper < vocab, other=float("-inf"))


@triton.jit
def _first_of_highest(x, x_id, y, y_id):
    """The larger and its id; of equals the lower id."""
    other = (y > x) | ((y == x) & (y_id < x_id))
    return tl.where(other, y, x), tl.where(other, y_id, x_id)


@triton.jit
def _largest(x, y):
    """The largest x or y along axis 1; +inf where there is a NaN, which ``tl.max`` would pass over."""
    larger = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    return tl.max(tl.where(larger < float("inf"), larger, float("inf")), 1)


@triton.jit
def _log2_mass(x, y, t):
    """log2 of the sum of exp(x / t) and exp(y / t) along axis 1; of t = 0 the largest x or y; +inf of a NaN."""
    score = _largest(x, y)
    if t != 0:
        rate = LOG2_E / t
        score *= rate
        finite = tl.abs(score) < float("inf")
        base = tl.where(finite, score, 0.0)[:, None]
        mass = tl.sum(tl.exp2(x * rate - base) + tl.exp2(y * rate - base), 1)
        score = tl.where(finite, score + log2(mass), score)
    return score


@triton.jit
def score_blocks(
    scores, logits, rows, temperature, vocab, blocks, logits_row,
    RANDOM: tl.constexpr, TABLE: tl.constexpr, COUNT: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """``scores`` [rows, blocks] float32: the largest logit of each block of ids, or if RANDOM, where its row's
    temperature is not 0, log2 of the sum of exp(logit / temperature). +inf of a block with a NaN.

    ``temperature`` [rows] float32; if TABLE it is a table's, of which ``rows`` [rows] int32 tells the rows. Without
    RANDOM these are any pointers. Grid (rows, ceil(blocks / COUNT)). A block is read as two halves, of which a warp
    loads a line at once: so it sums up whole blocks, and no warp waits for another.
    """
    enter(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * COUNT + tl.arange(0, COUNT)
    lower = block[:, None] * _BLOCK + tl.arange(0, _HALF)[None, :]
    at = tl.load(rows + row) if TABLE else row
    x, y = _halves(logits + row * logits_row, lower, vocab)
    # the temperature is asked for before anything waits for the logits
    score = _log2_mass(x, y, tl.load(temperature + at)) if RANDOM else _largest(x, y)
    tl.store(scores + row * blocks + block, score, mask=block < blocks)


@triton.jit
def choose_token(
    out, last, scores, logits, rows, temperature, seed, position, vocab, blocks, logits_row,
    RANDOM: tl.constexpr, TABLE: tl.constexpr, BLOCKS: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """``out`` [rows] int32: of the block with the highest score the id with the highest logit, both perturbed if RANDOM
    and the row's temperature is not 0; the lowest among equals. -1 if the row is not sound: then, and only then, is the
    highest score infinite. If TABLE the token, or 0 for -1, goes to row ``rows`` of ``last`` int32 too.

    ``seed`` [rows, 2] and ``position`` [rows] int32; they and the others as :func:`score_blocks` has them. It is
    launched behind that, which waits first: what is older, such as a row's settings, is read ahead of :func:`enter`,
    and the noise of blocks made there. Grid (rows); BLOCKS is a power of two >= blocks.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    at = tl.load(rows + row).to(tl.int64) if TABLE else row
    score = tl.zeros((BLOCKS,), tl.float32)
    if RANDOM:
        t = tl.load(temperature + at)
        key0, key1, place = tl.load(seed + 2 * at), tl.load(seed + 2 * at + 1), tl.load(position + at)
        if t != 0:
            word, _ = words(key0, key1, place, block.to(tl.uint32) | _FIRST_BLOCK)
            score = noise(word)
    enter(OVERLAP)
    score += tl.load(scores + row * blocks + block, mask=block < blocks, other=float("-inf"))
    highest, index = tl.max(score, 0, return_indices=True)
    lower = tl.minimum(index, blocks - 1) * _BLOCK + tl.arange(0, _HALF)
    x, y = _halves(logits + row * logits_row, lower, vocab)
    if RANDOM:
        word0, word1 = words(key0, key1, place, lower)
        if t != 0:
            rate = LOG2_E / t
            x = x * rate + noise(word0)
            y = y * rate + noise(word1)
    _, token = tl.reduce(_first_of_highest(x, lower, y, lower + _HALF), 0, _first_of_highest)
    token = tl.minimum(token, vocab - 1)
    sound = tl.abs(highest) < float("inf")
    tl.store(out + row, tl.where(sound, token, -1))
    if TABLE:
        tl.store(last + at, tl.where(sound, token, 0))


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
