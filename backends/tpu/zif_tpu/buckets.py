"""The padded extents that programs are compiled for: few, since each is a compilation of the whole model."""

from __future__ import annotations

from itertools import product

LADDERS = {"tokens": (64, 512), "decode_seqs": (8, 32, 128), "logits": (64, 512), "rows": (8,)}
"""Extents an axis is padded to, besides its limit."""

PAGES_RATIO = 16
"""A page table is as wide as the context needs, or 1/16 of that. Kernels skip pages that are not
there; what a wide table costs is its own staging, and memory where histories are gathered."""

GROWTH = 4
"""Axes without a real limit (assignments, histories) are padded to powers of this from ``LEAST``."""
LEAST = 64
UNBOUNDED = 1 << 30

AT_MOST = 24
"""Executables of a model, for any limits."""


def bucket(axis: str, size: int, limit: int) -> int:
    """The padded extent of ``size`` on ``axis``; ``seqs`` of a mixed step are always padded to the limit."""
    return next(extent for extent in extents(axis, limit, size) if extent >= size)


def extents(axis: str, limit: int, size: int = 0) -> tuple[int, ...]:
    """Every extent of ``axis`` under ``limit``, rising; of an unbounded axis, those up to ``size``."""
    if limit >= UNBOUNDED:
        grown = [LEAST]
        while grown[-1] < size:
            grown.append(grown[-1] * GROWTH)
        return tuple(grown)
    ladder = (max(8, -(-limit // PAGES_RATIO)),) if axis == "pages" else LADDERS.get(axis, ())
    return (*(extent for extent in ladder if extent < limit), limit)


def model_shapes(tokens: int, rows: int, pages: int) -> tuple[tuple[int, int, int, int], ...]:
    """(tokens, seqs, pages, logits) of every step that the limits allow: decode steps, then mixed ones."""
    widths = extents("pages", pages)
    decode = [(seqs, seqs, width, seqs) for seqs, width in product(extents("decode_seqs", rows), widths)]
    mixed = [
        (count, rows, width, logits)
        for count, width, logits in product(extents("tokens", tokens), widths, extents("logits", tokens))
        if logits <= bucket("logits", count, tokens)
    ]
    return (*decode, *mixed)
