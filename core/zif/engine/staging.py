"""From a scheduled batch to the launches of its step: numpy, no device, nothing remembered."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zif.contract.model import InputSpec
from zif.contract.step import HostStep, StepShape
from zif.engine.admission import admissions
from zif.engine.inputs import HostArray, InputProvider, from_requests, staged_inputs
from zif.engine.launch import Launch
from zif.engine.logits import LogitsPlan, plan_logits
from zif.engine.masking import Draw, Hold, mask_words
from zif.engine.padding import IntArray, padded
from zif.engine.programs import Assign, Decode, Forward, Mixed, Sample
from zif.engine.shapes import UNBOUNDED, Shapes
from zif.engine.table import SCRATCH, TableShape
from zif.engine.verifying import Drafter, Verify, verify_inputs
from zif.sampling.masks import Mask
from zif.sampling.params import ADJUSTED, FILTERED, RANDOM, SCORED
from zif.sampling.sampler import SamplerShape
from zif.scheduler.batch import Batch, sampler_needs
from zif.scheduler.request import Request

_NO_PAGES = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Staging:
    """What staging goes by, beside the batch.

    ``fuse``: plain samplers are part of a decode step's program, and of a captured mixed one's. ``plans``: some kernel
    plans on the host, so that steps bring a :class:`HostStep`. ``seed`` is the engine's. ``inputs`` are the model's
    further ones, and ``provider`` gives their values. ``drafter`` makes drafts for the step after.
    """

    shapes: Shapes
    table: TableShape
    fuse: bool
    plans: bool
    seed: int
    inputs: Sequence[InputSpec] = ()
    provider: InputProvider = from_requests
    drafter: Drafter | None = None

    def launches(self, batch: Batch) -> tuple[list[Launch], LogitsPlan]:
        """The launches of a step, in order, and what its logits are for."""
        launches: list[Launch] = []
        if batch.new_requests:
            launches += admissions(batch, self.table, self.shapes.bucket, self.seed)
        plan = plan_logits(batch)
        shape = self.shapes.of(batch, len(plan.at))
        assigned = self.shapes.assigned(shape)
        inputs = forward_inputs(batch, plan, shape)
        if self.inputs:
            inputs |= staged_inputs(self.inputs, shape, batch, self.provider)
        if len(batch.page_rows) > assigned:
            launches.append(self._assignment(batch))
            inputs |= self.no_pages(assigned)
        elif assigned:
            inputs |= assignment_inputs(
                batch.page_rows, batch.page_indices, batch.page_ids, self.table.groups, assigned
            )
        sampler = sampler_shape(batch, plan, shape.logits)
        step = host_step(batch, shape) if self.plans else None
        if not batch.drafts and plan.held is None and self.drawn(shape, sampler):
            launches.append(self.drawing(shape, sampler, plan.rows, inputs, step))
        else:
            launches.append(Launch(Forward(shape, assigned), inputs, step=step))
            if batch.sampling or plan.scored:
                launches.append(self._sampling(shape, sampler, batch, plan))
            if plan.held is not None:
                rows = {"rows": padded(plan.held, shape.logits, SCRATCH)}
                launches.append(Launch(Hold(shape.logits), rows, takes=("logits",)))
        if self.drafter is not None:
            launches += self.drafter.launches(batch, shape)
        return launches, plan

    def draw(self, requests: Sequence[Request], masks: Sequence[Mask]) -> tuple[Launch, LogitsPlan]:
        """The launch that draws the next tokens of requests that waited for ``masks``, whose logits are held."""
        count = len(requests)
        size = self.shapes.bucket("rows", count, self.shapes.limits.rows)
        top = [request.params.logprobs for request in requests if request.params.logprobs is not None]
        shape = _sampler(size, sampler_needs(requests), top, masked=True)
        mask = np.full((size, mask_words(self.table.vocab)), -1, np.int32)
        mask[:count] = np.stack(masks)
        rows = np.array([request.row for request in requests], np.int32)
        inputs = {"rows": padded(rows, size, SCRATCH), "mask": mask}
        every = np.arange(count, dtype=np.int32)
        if shape.adjusted:
            inputs["adjusted_rows"] = _adjusted_rows(requests, every, size)
        return Launch(Draw(shape), inputs, drawn=True), LogitsPlan(every, rows, every, every, [])

    def drawn(self, shape: StepShape, sampler: SamplerShape) -> bool:
        """Whether a step and its sampler are one program."""
        return self.fuse and sampler.plain and self.shapes.assigned(shape) > 0

    def drawing(
        self,
        shape: StepShape,
        sampler: SamplerShape,
        rows: IntArray,
        inputs: dict[str, HostArray],
        step: HostStep | None,
    ) -> Launch:
        """A step and its sampler in one program; ``rows`` are the table's of the logits.

        A mixed step's sampler draws at random, which draws the same greedy tokens: a program less to capture.
        """
        if shape.decode:
            return Launch(Decode(shape, sampler), inputs, step=step, drawn=True)
        program = Mixed(shape, replace(sampler, random=True), self.shapes.assigned(shape))
        return Launch(program, {**inputs, "logits_rows": padded(rows, shape.logits, SCRATCH)}, step=step, drawn=True)

    def nothing(self, shape: StepShape) -> dict[str, HostArray]:
        """Inputs of a step of padding alone, page assignments included."""
        further = staged_inputs(self.inputs, shape, None, self.provider)
        return no_step(shape) | self.no_pages(self.shapes.assigned(shape)) | further

    def no_pages(self, count: int) -> dict[str, HostArray]:
        """Inputs of so many page assignments, all of them padding."""
        groups = self.table.groups
        if not count:
            return {}
        return assignment_inputs(_NO_PAGES, _NO_PAGES, np.zeros((len(groups), 0), np.int32), groups, count)

    def _sampling(self, step: StepShape, shape: SamplerShape, batch: Batch, plan: LogitsPlan) -> Launch:
        """The sampler of a step whose forward program is launched before it."""
        inputs = {"rows": padded(plan.rows, shape.rows, SCRATCH)}
        if shape.adjusted:
            inputs["adjusted_rows"] = _adjusted_rows(batch.sampling, plan.sampled, shape.rows)
        if shape.targets:
            inputs["targets"] = padded(plan.targets, shape.rows, -1)
        if plan.runs is None:
            return Launch(Sample(shape), inputs, takes=("logits",), drawn=True)
        program = Verify(shape, step.seqs, self.table.drafts)
        return Launch(program, inputs | verify_inputs(plan, program), takes=("logits",), drawn=True)

    def _assignment(self, batch: Batch) -> Launch:
        size = self.shapes.bucket("assignments", len(batch.page_rows), UNBOUNDED)
        groups = self.table.groups
        return Launch(
            Assign(size), assignment_inputs(batch.page_rows, batch.page_indices, batch.page_ids, groups, size)
        )


def forward_inputs(batch: Batch, plan: LogitsPlan, shape: StepShape) -> dict[str, HostArray]:
    """Host arrays of a step, page assignments aside. Unknown tokens are -1, and drafts -2 and below."""
    size, total = len(batch.requests), batch.num_tokens
    tokens = np.zeros(shape.tokens, np.int32)
    known = total - len(batch.tokens)
    tokens[:known] = -1 if not batch.drafts else _unknown(batch.counts[: batch.num_decodes])
    tokens[known:total] = batch.tokens
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


def no_step(shape: StepShape) -> dict[str, HostArray]:
    """What :func:`forward_inputs` gives for a step of padding alone."""
    inputs = {"rows": shape.seqs, "tokens": shape.tokens, "num_tokens": 1}
    if not shape.decode:
        inputs |= {"query_starts": shape.seqs + 1, "seqs": shape.tokens, "logits_at": shape.logits}
    return {name: np.full(size, SCRATCH if name == "rows" else 0, np.int32) for name, size in inputs.items()}


def host_step(batch: Batch, shape: StepShape) -> HostStep:
    """What kernels that plan are told of a batch."""
    if batch.one_each:
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
    return _sampler(rows, needs, top, targets=bool(plan.scored))


def _sampler(rows: int, needs: int, top: Sequence[int], *, targets: bool = False, masked: bool = False) -> SamplerShape:
    return _sampler_of(rows, needs, _top_bucket(max(top)) if top else None, targets, masked)


@functools.lru_cache(maxsize=1024)
def _sampler_of(rows: int, needs: int, top: int | None, targets: bool, masked: bool) -> SamplerShape:
    return SamplerShape(
        rows=rows,
        random=bool(needs & RANDOM),
        filtered=bool(needs & FILTERED),
        adjusted=bool(needs & ADJUSTED),
        top=top,
        targets=targets,
        masked=masked,
    )


def _adjusted_rows(requests: Sequence[Request], places: IntArray, size: int) -> IntArray:
    """[size]: the table row of each of ``requests`` that has adjustments, at its place; the scratch row elsewhere."""
    rows = np.full(size, SCRATCH, np.int32)
    rows[places] = [request.row if request.params.adjusted else SCRATCH for request in requests]
    return rows


def assignment_inputs(
    rows: IntArray, indices: IntArray, ids: IntArray, groups: tuple[str, ...], size: int
) -> dict[str, HostArray]:
    """Page assignments padded to ``size``; ``ids`` is [groups, m]."""
    inputs = {"page_rows": padded(rows, size, SCRATCH), "page_indices": padded(indices, size, 0)}
    for group, column in zip(groups, ids, strict=True):
        inputs[f"page_ids.{group}"] = padded(column, size, 0)
    return inputs


def _unknown(counts: IntArray) -> IntArray:
    """-1, -2, ... for each sequence: its last token, and its drafts."""
    ends = np.cumsum(counts)
    return -1 - np.arange(int(ends[-1]), dtype=np.int32) + np.repeat(ends - counts, counts).astype(np.int32)


def _top_bucket(top: int) -> int:
    """0, 1, 5 or 20 alternatives: few sampler programs, and the count cut to the request's later."""
    return next(size for size in (0, 1, 5, 20) if top <= size)
