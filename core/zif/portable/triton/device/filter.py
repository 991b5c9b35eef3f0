"""Top-k, top-p and min-p without a sort: a search for the least logit that stays."""

import triton
import triton.language as tl

from zif.portable.triton.device.overlap import enter


@triton.jit
def _search(line, vocab, low, high, top, rate, goal, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The largest logit x in [low, high] such that those >= x weigh ``goal`` or more; else ``low``.

    A logit weighs 1 (COUNT) or exp(rate * (x - top)). Bisection of the values, the bounds always
    drawn in to the nearest logits, so that it ends as soon as one value is left between them.
    """
    while low < high:
        middle = 0.5 * low + 0.5 * high
        middle = tl.where(middle > low, middle, high)
        held = tl.zeros((BLOCK,), tl.float32)
        above = tl.full((BLOCK,), float("inf"), tl.float32)
        below = tl.full((BLOCK,), float("-inf"), tl.float32)
        for start in range(0, vocab, BLOCK):
            ids = start + tl.arange(0, BLOCK)
            x = tl.load(line + ids, mask=ids < vocab, other=float("-inf"))
            inside = x >= middle
            if COUNT:
                held += tl.where(inside, 1.0, 0.0)
            else:
                held += tl.where(inside, tl.exp(rate * (x - top)), 0.0)
            above = tl.minimum(above, tl.where(inside, x, float("inf")))
            below = tl.maximum(below, tl.where(inside, float("-inf"), x))
        if tl.sum(held, 0) >= goal:
            low = tl.min(above, 0)
        else:
            high = tl.max(below, 0)
    return low


@triton.jit
def _mass(line, vocab, least, top, rate, STRICT: tl.constexpr, BLOCK: tl.constexpr):
    """What the logits >= ``least`` weigh, or those above it (STRICT)."""
    held = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(line + ids, mask=ids < vocab, other=float("-inf"))
        inside = x > least if STRICT else x >= least
        held += tl.where(inside, tl.exp(rate * (x - top)), 0.0)
    return tl.sum(held, 0)


@triton.jit
def filter_logits(
    out, logits, temperature, top_k, top_p, min_p, vocab, logits_row, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False
):
    """``out`` [rows, vocab]: the logits that stay, -inf for the others; the settings [rows].

    All of the rules keep a prefix of the order by logit, then by id: what is sought is its last logit,
    and how many of that logit's equals are in it. Of a row that is not sound nothing stays. Grid (rows).
    """
    enter(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * logits_row
    t = tl.load(temperature + row)
    rate = 1.0 / tl.where(t > 0, t, 1.0)
    k = tl.load(top_k + row)
    p = tl.load(top_p + row)
    m = tl.load(min_p + row)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)  # +inf stands for NaN too
    lowest = tl.full((BLOCK,), float("inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(line + ids, mask=ids < vocab, other=float("-inf"))
        highest = tl.maximum(highest, tl.where(x < float("inf"), x, float("inf")))
        lowest = tl.minimum(lowest, tl.where(x > float("-inf"), x, float("inf")))
    top = tl.max(highest, 0)
    sound = tl.abs(top) < float("inf")
    least = tl.minimum(tl.min(lowest, 0), top)
    if sound & (k > 0) & (k < vocab):
        least = _search(line, vocab, least, top, top, rate, k.to(tl.float32), True, BLOCK)
    equals = vocab
    if sound & (p < 1.0):
        goal = p * _mass(line, vocab, least, top, rate, False, BLOCK)
        least = _search(line, vocab, least, top, top, rate, goal, False, BLOCK)
        # of the equals of the last, as many as it takes, and one at least
        missing = goal - _mass(line, vocab, least, top, rate, True, BLOCK)
        wanted = tl.ceil(missing / tl.maximum(tl.exp(rate * (least - top)), 1e-37))
        equals = tl.maximum(tl.minimum(wanted, 2.0e9).to(tl.int32), 1)
    met = 0
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(line + ids, mask=ids < vocab, other=float("-inf"))
        equal = x == least
        rank = met + tl.cumsum(equal.to(tl.int32), 0) - 1
        met += tl.sum(equal.to(tl.int32), 0)
        keep = sound & ((x > least) | (equal & (rank < equals)))
        keep = keep & ((tl.exp(rate * (x - top)) >= m) | (m <= 0))
        tl.store(out + row * vocab + ids, tl.where(keep, x, float("-inf")), mask=ids < vocab)
