"""From a scheduled batch to the host arrays that a step's programs are staged with: numpy, no device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract.step import HostStep, StepShape
from zif.engine.table import SCRATCH
from zif.sampling.params import ADJUSTED, FILTERED, RANDOM, SCORED
from zif.sampling.sampler import SamplerShape
from zif.scheduler.batch import Batch

IntArray = np.ndarray[Any, np.dtype[np.int32]]
Bucket = Callable[[str, int, int], int]


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of the padded extents."""

    tokens: int
    rows: int
    pages: int
    page_size: int


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


def step_shape(
    batch: Batch, logits: int, limits: Limits, bucket: Bucket, captures: Callable[[StepShape], bool] = lambda _: False
) -> StepShape:
    """The padded shape that a batch with ``logits`` logits rows runs as.

    A mixed step has a row of logits a sequence where that makes it one of those that ``captures`` says are captured.
    """
    size = len(batch.requests)
    longest = int(batch.starts.max()) + 1 if batch.decode_only else int((batch.starts + batch.counts).max())
    pages = bucket("pages", -(-longest // limits.page_size), limits.pages)
    if batch.decode_only:
        seqs = bucket("decode_seqs", size, limits.rows)
        return StepShape(seqs, seqs, pages, seqs, decode=True)
    tokens = bucket("tokens", batch.num_tokens, limits.tokens)
    seqs = bucket("seqs", size, limits.rows)
    even = StepShape(tokens, seqs, pages, seqs, decode=False)
    if logits <= seqs and captures(even):
        return even
    return StepShape(tokens, seqs, pages, bucket("logits", max(logits, 1), limits.tokens), decode=False)


def forward_inputs(batch: Batch, plan: LogitsPlan, shape: StepShape) -> dict[str, IntArray]:
    """Host arrays of the forward program, page assignments aside. Unknown tokens are -1."""
    size, total = len(batch.requests), batch.num_tokens
    tokens = np.zeros(shape.tokens, np.int32)
    tokens[: batch.num_decodes] = -1
    tokens[batch.num_decodes : total] = batch.tokens
    inputs = {
        "rows": padded(batch.rows, shape.seqs, SCRATCH),
        "tokens": tokens,
        "num_tokens": np.array([total], np.int32),
    }
    if not shape.decode:
        starts = np.full(shape.seqs + 1, total, np.int32)
        starts[0] = 0
        np.cumsum(batch.counts, out=starts[1 : size + 1])
        seqs = np.full(shape.tokens, shape.seqs - 1, np.int32)
        seqs[:total] = np.repeat(np.arange(size, dtype=np.int32), batch.counts)
        inputs |= {"query_starts": starts, "seqs": seqs, "logits_at": padded(plan.at, shape.logits, 0)}
    return inputs


def no_step(shape: StepShape) -> dict[str, IntArray]:
    """What :func:`forward_inputs` gives for a step of padding alone."""
    inputs = {"rows": shape.seqs, "tokens": shape.tokens, "num_tokens": 1}
    if not shape.decode:
        inputs |= {"query_starts": shape.seqs + 1, "seqs": shape.tokens, "logits_at": shape.logits}
    return {name: np.full(size, SCRATCH if name == "rows" else 0, np.int32) for name, size in inputs.items()}


def host_step(batch: Batch, shape: StepShape) -> HostStep:
    """What kernels that plan are told of a batch."""
    if batch.decode_only:
        return HostStep(shape, np.arange(len(batch.starts) + 1, dtype=np.int32), batch.starts + np.int32(1))
    starts = np.zeros(len(batch.counts) + 1, np.int32)
    np.cumsum(batch.counts, out=starts[1:])
    return HostStep(shape, starts, batch.starts + batch.counts)


def sampler_shape(batch: Batch, plan: LogitsPlan, rows: int) -> SamplerShape:
    """The least sampler that serves every request of a batch."""
    needs = batch.needs
    asked = [batch.requests[entry].params.prompt_logprobs for entry, _, _ in plan.scored]
    if needs & SCORED:
        asked += [request.params.logprobs for request in batch.sampling]
    top = [count for count in asked if count is not None]
    return SamplerShape(
        rows=rows,
        random=bool(needs & RANDOM),
        filtered=bool(needs & FILTERED),
        adjusted=bool(needs & ADJUSTED),
        top=_top_bucket(max(top)) if top else None,
        targets=bool(plan.scored),
    )


def assignment_inputs(
    rows: IntArray, indices: IntArray, ids: IntArray, groups: tuple[str, ...], size: int
) -> dict[str, IntArray]:
    """Page assignments padded to ``size``; ``ids`` is [groups, m]."""
    inputs = {"page_rows": padded(rows, size, SCRATCH), "page_indices": padded(indices, size, 0)}
    for group, column in zip(groups, ids, strict=True):
        inputs[f"page_ids.{group}"] = padded(column, size, 0)
    return inputs


def padded(values: Any, size: int, fill: int) -> IntArray:
    """``values`` as int32 [size], ``fill`` behind them; not to be written where there are none."""
    if not len(values):
        return _filled(size, fill)
    out = np.full(size, fill, np.int32)
    out[: len(values)] = values
    return out


@functools.lru_cache(maxsize=1024)
def _filled(size: int, fill: int) -> IntArray:
    out = np.full(size, fill, np.int32)
    out.flags.writeable = False
    return out


def _top_bucket(top: int) -> int:
    """0, 1, 5 or 20 alternatives: few sampler programs, and the count cut to the request's later."""
    return next(size for size in (0, 1, 5, 20) if top <= size)
