"""The padded sizes that steps are run as: which one a batch takes, and which there are."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zif.contract.step import StepShape
from zif.scheduler.batch import Batch

Bucket = Callable[[str, int, int], int]
UNBOUNDED = 1 << 30
"""The limit of an axis that has none."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of the padded extents, and ``drafts`` that a decode brings at most."""

    tokens: int
    rows: int
    pages: int
    page_size: int
    drafts: int = 0


def _never(shape: StepShape) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Shapes:
    """``bucket`` is the backend's; ``captures`` says of a mixed step whether its program is captured."""

    limits: Limits
    bucket: Bucket
    captures: Callable[[StepShape], bool] = _never

    def of(self, batch: Batch, logits: int) -> StepShape:
        """The padded shape that a batch with ``logits`` logits rows runs as.

        A mixed step has a row of logits a sequence where that makes it one of those that are captured.
        """
        limits, bucket, size, exact = self.limits, self.bucket, len(batch.requests), batch.exact
        longest = int(batch.starts.max()) + 1 if batch.one_each else int((batch.starts + batch.counts).max())
        pages = bucket("pages", -(-longest // limits.page_size), limits.pages)
        if batch.one_each:
            seqs = bucket("decode_seqs", size, limits.rows)
            return _decode(seqs, pages, exact)
        tokens = bucket("tokens", batch.num_tokens, limits.tokens)
        seqs = bucket("seqs", size, limits.rows)
        even = StepShape(tokens, seqs, pages, seqs, decode=False, exact=exact)
        if logits <= seqs and self.captures(even):
            return even
        rows = bucket("logits", max(logits, 1), limits.tokens)
        return StepShape(tokens, seqs, pages, rows, decode=False, exact=exact)

    def assigned(self, shape: StepShape) -> int:
        """Page assignments that there is room for in a step's own program; none where it is launched op by op."""
        return shape.tokens if shape.decode or self.captures(shape) else 0

    def extents(self, axis: str, most: int, limit: int | None = None) -> list[int]:
        """What sizes of an axis up to ``most`` are padded to; ``limit`` is the axis's, if it is another."""
        limit = most if limit is None else limit
        return sorted({self.bucket(axis, size, limit) for size in range(1, most + 1)})

    def warmed(self) -> Sequence[StepShape]:
        """The steps whose programs are compiled before the first request: decode steps, and mixed ones that are
        captured."""
        limits = self.limits
        widths = self.extents("pages", limits.pages)
        mixed = [
            StepShape(tokens, seqs, width, seqs, decode=False)
            for tokens in self.extents("tokens", limits.tokens)
            for seqs in self.extents("seqs", limits.rows)
            for width in widths
            if seqs <= self.bucket("seqs", min(tokens, limits.rows), limits.rows)
        ]
        return [*self._decodes(widths), *filter(self.captures, mixed)]

    def every(self) -> Sequence[StepShape]:
        """Every shape that a step can have, those of decode steps first: each is a program of the whole model."""
        limits = self.limits
        widths = self.extents("pages", limits.pages)
        counts, seqs, logits = (self.extents(axis, limit) for axis, limit in (
            ("tokens", limits.tokens), ("seqs", limits.rows), ("logits", limits.tokens)
        ))  # fmt: skip
        most = {count: self.bucket("logits", count, limits.tokens) for count in counts}
        mixed = (StepShape(*size, decode=False) for size in itertools.product(counts, seqs, widths, logits))
        return [*self._decodes(widths), *(shape for shape in mixed if shape.logits <= most[shape.tokens])]

    def _decodes(self, widths: Sequence[int]) -> list[StepShape]:
        sizes = itertools.product(self.extents("decode_seqs", self.limits.rows), widths)
        return [_decode(size, width, True) for size, width in sizes]


@functools.lru_cache(maxsize=1024)
def _decode(size: int, pages: int, exact: bool) -> StepShape:
    """Steps that follow one another have one shape, mostly: it is not made anew for each."""
    return StepShape(size, size, pages, size, decode=True, exact=exact)
