"""The tokens of a step, given to the requests that they were drawn for: on arrays, where there is nothing special."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zif.cache.allocator import IntArray
from zif.sampling.params import SCORED
from zif.scheduler.batch import Committed, Update
from zif.scheduler.request import Request
from zif.scheduler.running import BoolArray, Running


def take(
    running: Running, requests: Sequence[Request], rows: IntArray, tokens: IntArray, counts: IntArray | None
) -> Committed:
    """Append ``tokens``, one for each of ``requests`` or ``counts``, and say what became of it. Ends nothing.

    ``rows`` are the requests' when the step was launched. Requests that run no more are passed over.
    """
    each = np.ones(len(rows), np.int32) if counts is None else counts
    runs = len(tokens) if counts is None else len(counts)
    assert runs == len(rows) == len(requests), f"{runs} runs of tokens for {len(requests)} entries"
    assert counts is None or len(tokens) == counts.sum(), f"{len(tokens)} tokens in runs of {counts}"
    ends = running.may_end(tokens)
    last = tokens
    if counts is not None and len(counts):
        firsts = np.cumsum(counts) - counts
        ends = np.logical_or.reduceat(ends, firsts)
        last = tokens[firsts + counts - 1]
    alive = running.alive[rows]
    special = ends | (last < 0) | (running.made[rows] + each >= running.most[rows])
    special &= alive
    grows = alive & ~special
    told = grows & ~running.quiet[rows]
    plain = grows & ~told
    at = np.flatnonzero(plain)
    committed = Committed(requests, at, running.number[rows[at]], _of(tokens, counts, plain), None, [])
    if counts is not None:
        committed.counts = counts[at]
    running.append(rows[at], committed.tokens, committed.counts)
    if len(at) < len(rows):
        rich = np.flatnonzero(special | told)
        offsets = (rich if counts is None else firsts[rich]).tolist()
        for index, offset, count in zip(rich.tolist(), offsets, each[rich].tolist(), strict=True):
            run = tokens[offset : offset + count].tolist()
            committed.updates.append(_take(running, requests[index], index, run))
    return committed


def _take(running: Running, request: Request, index: int, run: list[int]) -> Update:
    """Give ``request`` its tokens, cut where they end it."""
    row = request.row
    made = int(running.made[row])
    if run[-1] < 0:
        return Update(request, [], -1, "error", first=not made)
    kept, reason, stop = request.rule.cut(made, run)
    del run[kept:]
    running.made[row] += len(run)
    running.pull(request)
    request.extend_output(run)
    running.quiet[row] = not request.params.needs & SCORED
    return Update(request, run, index, reason, stop, first=not made)


def _of(tokens: IntArray, counts: IntArray | None, entries: BoolArray) -> IntArray:
    """The tokens of some entries."""
    return tokens[entries if counts is None else np.repeat(entries, counts)]
