"""What the scheduler hands to the engine for a step, and what it says when the step's tokens are in."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from zif.cache.allocator import IntArray
from zif.messages import FinishReason
from zif.scheduler.memory import IndexArray, PageChanges
from zif.scheduler.request import Request

BoolArray = npt.NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class Batch:
    """One step. Entry ``i`` computes ``counts[i]`` positions of ``requests[i]`` from ``starts[i]`` on.

    The first ``num_decodes`` entries are decodes. Their first token is the one last sampled on that row, which comes
    from the request table (the host may not know it yet); those behind it are drafts, which the device accepts up to
    the first wrong one. The others are prefill chunks: their tokens are ``tokens``, one entry after the other.

    Where drafts are in flight the host cannot know how many positions a request has: ``starts`` are then upper bounds,
    and ``exact`` is False.

    ==================  ==============  ====================================================================
    ``step``                            number of the step, counted from 0
    ``requests``        [n]             n >= 1; each request at most once
    ``rows``            [n] int32       row of the request table, from 1 on
    ``starts``          [n] int32       first position, or its bound; all before it are of earlier steps
    ``counts``          [n] int32       positions, at least 1; of a decode 1, and its drafts
    ``samples``         [n] bool        the entry ends where its known tokens end: its last logits are sampled
    ``all_logits``      [n] bool        the logits of every position are needed (prompt log-probabilities)
    ``tokens``          [t] int32       tokens of the prefill chunks, t = sum(counts[num_decodes:])
    ``new_requests``                    requests whose row must be set up before this step: newly admitted, or
                                        admitted again after a retraction (then ``output_ids`` is not empty)
    ``page_rows``       [m] int32       changes of the page tables, to be made before this step: entry
    ``page_indices``    [m] int32       (row, index) of group g's table becomes page_ids[g]. No pair is twice.
    ``page_ids``        [G, m] int32    0 (the sink) where a window group needs no page there any more
    ==================  ==============  ====================================================================

    ``sampling`` are the requests of the entries that sample, in order: ``commit`` takes the tokens of each.
    ``waits`` [n] bool are entries that sample later, once there is a mask for them (:meth:`Scheduler.draw`); they are
    not among ``sampling``. None: there are none. ``drafts`` counts those of all decodes. ``needs`` is what the
    samplers of ``sampling`` have to do, or-ed (:attr:`zif.sampling.params.SamplingParams.needs`).
    """

    step: int
    requests: list[Request]
    num_decodes: int
    rows: IntArray
    starts: IntArray
    counts: IntArray
    samples: BoolArray
    all_logits: BoolArray
    tokens: IntArray
    new_requests: list[Request]
    page_rows: IntArray
    page_indices: IntArray
    page_ids: IntArray
    sampling: list[Request]
    needs: int
    drafts: int = 0
    exact: bool = True
    waits: BoolArray | None = None

    @property
    def decode_only(self) -> bool:
        """Every entry is a decode."""
        return self.num_decodes == len(self.requests)

    @property
    def one_each(self) -> bool:
        """Every entry is a decode of one token."""
        return not self.drafts and self.num_decodes == len(self.requests)

    @property
    def sampled(self) -> IndexArray:
        """The entries of ``sampling``."""
        return np.flatnonzero(self.samples if self.waits is None else self.samples & ~self.waits)

    @property
    def num_tokens(self) -> int:
        """Positions computed by the step."""
        return self.num_decodes + self.drafts + len(self.tokens)


@dataclass(slots=True)
class Update:
    """News of one request from a committed step.

    ``tokens`` are those that it keeps, more than one where drafts were accepted. ``index`` is its place in
    ``batch.sampling``, -1 where there are none: a request that only has its prompt scored ends without one.
    ``first``: it had no tokens before.
    """

    request: Request
    tokens: list[int]
    index: int
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    first: bool = False


@dataclass(slots=True)
class Committed:
    """What a committed step brought.

    ``updates`` are of requests of which there is more to say than tokens: the first ones, an end, scores. The others
    that sampled have their tokens here, which is most of most steps: ``plain`` [m] are their places in ``sampling``,
    ``numbers`` [m] their orders of arrival, ``tokens`` those of one after the other, a token each or ``counts`` [m].
    Each request is in one of both. Iteration gives an update for each.
    """

    sampling: Sequence[Request]
    plain: IndexArray
    numbers: npt.NDArray[np.int64]
    tokens: IntArray
    counts: IntArray | None
    updates: list[Update]

    def __iter__(self) -> Iterator[Update]:
        yield from self.updates
        counts = [1] * len(self.plain) if self.counts is None else self.counts.tolist()
        runs = split_runs(self.tokens.tolist(), counts)
        for index, run in zip(self.plain.tolist(), runs, strict=True):
            yield Update(self.sampling[index], run, index)


class Decodes(NamedTuple):
    """The decode entries of the step in the making: ``starts`` and ``needs`` as a batch's.

    ``fresh`` are the indices of those that begin a page; ``counts``, where it is not None, positions of each.
    ``masked``: some wait for masks.
    """

    requests: list[Request]
    rows: IntArray
    starts: IntArray
    needs: int
    fresh: IndexArray
    counts: IntArray | None = None
    masked: bool = False


@dataclass(slots=True)
class Chunk:
    """A prefill entry of the step in the making: positions ``[start, start + count)``."""

    request: Request
    start: int
    count: int

    @property
    def last(self) -> bool:
        """Whether the prompt ends with this chunk."""
        return self.start + self.count == len(self.request.tokens)


def build_batch(
    step: int, decodes: Decodes, chunks: list[Chunk], new: list[Request], changes: PageChanges, *, exact: bool
) -> Batch:
    """Join ``decodes`` and ``chunks`` into a step."""
    n = len(decodes.requests)
    requests, sampling = decodes.requests.copy(), decodes.requests.copy()
    rows, starts, needs = decodes.rows, decodes.starts, decodes.needs
    counts = np.ones(n, np.int32) if decodes.counts is None else decodes.counts
    drafts = 0 if decodes.counts is None else int(counts.sum()) - n
    samples, all_logits = np.ones(n, np.bool_), np.zeros(n, np.bool_)
    tokens = _NO_TOKENS
    if chunks:
        more = [chunk.request for chunk in chunks]
        last = [chunk.last and chunk.request.samples for chunk in chunks]
        requests += more
        sampling += compress(more, last)
        needs |= sampler_needs(compress(more, last))
        rows = np.concatenate([rows, np.array([r.row for r in more], np.int32)])
        starts = np.concatenate([starts, np.array([c.start for c in chunks], np.int32)])
        counts = np.concatenate([counts, np.array([c.count for c in chunks], np.int32)])
        samples = np.concatenate([samples, np.array(last, np.bool_)])
        all_logits = np.concatenate([all_logits, np.array([not r.scored for r in more], np.bool_)])
        tokens = np.concatenate([c.request.tokens[c.start : c.start + c.count] for c in chunks])
    waits = None
    if decodes.masked or any(chunk.request.masks is not None for chunk in chunks):
        waits = samples & np.array([request.masks is not None for request in requests])
        sampling = [request for request in sampling if request.masks is None]
        needs = sampler_needs(sampling)
    page_rows, page_indices, page_ids = changes
    return Batch(
        step=step,
        requests=requests,
        num_decodes=n,
        rows=rows,
        starts=starts,
        counts=counts,
        samples=samples,
        all_logits=all_logits,
        tokens=tokens,
        new_requests=new,
        page_rows=page_rows,
        page_indices=page_indices,
        page_ids=page_ids,
        sampling=sampling,
        needs=needs,
        drafts=drafts,
        exact=exact,
        waits=waits,
    )


def split_runs(tokens: list[int], counts: Sequence[int]) -> list[list[int]]:
    """``tokens``, cut into runs of these lengths."""
    ends = list(itertools.accumulate(counts, initial=0))
    assert len(tokens) == ends[-1], f"{len(tokens)} tokens in runs of {ends[-1]}"
    return [tokens[begin:end] for begin, end in itertools.pairwise(ends)]


def sampler_needs(requests: Iterable[Request]) -> int:
    """What the samplers of ``requests`` have to do, or-ed."""
    return functools.reduce(operator.or_, (request.params.needs for request in requests), 0)


def join_changes(changes: Sequence[PageChanges], num_groups: int) -> PageChanges:
    """One set of page table changes out of many."""
    if len(changes) == 1:
        return changes[0]
    if not changes:
        return _NO_TOKENS, _NO_TOKENS, np.empty((num_groups, 0), np.int32)
    rows, indices, ids = zip(*changes, strict=True)
    return np.concatenate(rows), np.concatenate(indices), np.concatenate(ids, axis=1)


_NO_TOKENS: IntArray = np.empty(0, np.int32)
