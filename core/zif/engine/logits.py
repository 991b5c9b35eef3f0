"""Which positions of a batch get logits, and what for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zif.engine.padding import IntArray
from zif.engine.table import SCRATCH
from zif.scheduler.batch import Batch


@dataclass(slots=True)
class LogitsPlan:
    """Which positions of a batch get logits, and what for: R of them before padding.

    ``at`` [R] token indices; ``rows`` [R] table rows, the scratch row where a prompt is only
    scored; ``targets`` [R] the prompt token to score, -1 to draw one. ``sampled`` has the place in
    R of each entry of ``batch.sampling``; ``scored`` (entry, first place, count) of scored prompts.
    Where nothing is scored, ``targets`` mean nothing.
    """

    at: IntArray
    rows: IntArray
    targets: IntArray
    sampled: IntArray
    scored: list[tuple[int, int, int]]


def plan_logits(batch: Batch) -> LogitsPlan:
    """Logits of the last position of every entry that samples, and of all positions of scored prompts."""
    if batch.decode_only:
        every = np.arange(len(batch.requests), dtype=np.int32)
        return LogitsPlan(every, batch.rows, every, every, [])
    ends = np.cumsum(batch.counts, dtype=np.int32)
    if not batch.all_logits.any():
        entries = np.flatnonzero(batch.samples)
        count = len(entries)
        every = np.arange(count, dtype=np.int32)
        return LogitsPlan(ends[entries] - 1, batch.rows[entries], every, every, [])
    at: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    sampled: list[int] = []
    scored: list[tuple[int, int, int]] = []
    for entry, request in enumerate(batch.requests):
        end, count = int(ends[entry]), int(batch.counts[entry])
        if batch.all_logits[entry]:
            first = int(batch.starts[entry]) + 1
            following = request.prompt[first : first + count].tolist()
            if following:
                scored.append((entry, len(at), len(following)))
            at += range(end - count, end - count + len(following))
            rows += [SCRATCH] * len(following)
            targets += following
        if batch.samples[entry]:
            sampled.append(len(at))
            at.append(end - 1)
            rows.append(int(batch.rows[entry]))
            targets.append(-1)
    as_ints = [np.array(column, np.int32) for column in (at, rows, targets, sampled)]
    return LogitsPlan(as_ints[0], as_ints[1], as_ints[2], as_ints[3], scored)
