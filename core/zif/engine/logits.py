"""Which positions of a batch get logits, and what for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

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
    Where nothing is scored, ``targets`` mean nothing. ``runs`` are the numbers of places of the entries of
    ``batch.sampling``, which follow their first one: one, and one a draft; None where there are no drafts.
    ``held`` [R] are the table rows of logits that wait for masks, the scratch row elsewhere; None: none wait.
    """

    at: IntArray
    rows: IntArray
    targets: IntArray
    sampled: IntArray
    scored: list[tuple[int, int, int]]
    runs: IntArray | None = None
    held: IntArray | None = None


def plan_logits(batch: Batch) -> LogitsPlan:
    """Logits of the last position of every entry that samples, and of all positions of scored prompts."""
    plan = _plan(batch)
    if batch.waits is None:
        return plan
    waits = batch.waits[batch.samples]
    places = plan.sampled[waits]
    rows, held = plan.rows.copy(), np.full(len(plan.rows), SCRATCH, np.int32)
    held[places], rows[places] = rows[places], SCRATCH
    runs = None if plan.runs is None else plan.runs[~waits]
    return replace(plan, rows=rows, held=held, sampled=plan.sampled[~waits], runs=runs)


def _plan(batch: Batch) -> LogitsPlan:
    """As if nothing waited."""
    if batch.one_each:
        every = np.arange(len(batch.requests), dtype=np.int32)
        return LogitsPlan(every, batch.rows, every, every, [])
    ends = np.cumsum(batch.counts, dtype=np.int32)
    if not batch.all_logits.any():
        entries = np.flatnonzero(batch.samples)
        if batch.drafts:
            return _with_drafts(batch, ends[entries].astype(np.int32), entries)
        count = len(entries)
        every = np.arange(count, dtype=np.int32)
        return LogitsPlan(ends[entries] - 1, batch.rows[entries], every, every, [])
    at: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    sampled: list[int] = []
    runs: list[int] = []
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
            run = count if entry < batch.num_decodes else 1
            runs.append(run)
            sampled.append(len(at))
            at += range(end - run, end)
            rows += [int(batch.rows[entry])] * run
            targets += [-1] * run
    made = [np.array(column, np.int32) for column in (at, rows, targets, sampled, runs)]
    return LogitsPlan(made[0], made[1], made[2], made[3], scored, made[4] if batch.drafts else None)


def _with_drafts(batch: Batch, ends: IntArray, entries: np.ndarray[Any, Any]) -> LogitsPlan:
    """Of ``entries`` that sample, whose tokens end at ``ends``."""
    runs = np.where(entries < batch.num_decodes, batch.counts[entries], 1).astype(np.int32)
    firsts = (np.cumsum(runs) - runs).astype(np.int32)
    every = np.arange(int(runs.sum()), dtype=np.int32)
    at = every + np.repeat(ends - runs - firsts, runs)
    return LogitsPlan(at, np.repeat(batch.rows[entries], runs), every, firsts, [], runs)
