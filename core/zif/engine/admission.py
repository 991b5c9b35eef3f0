"""The launches that set up the rows of newly admitted requests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from zif.engine.launch import Launch
from zif.engine.padding import IntArray, padded
from zif.engine.programs import Adjust, Admit
from zif.engine.shapes import UNBOUNDED, Bucket
from zif.engine.table import ADMITTED, SCRATCH, TableShape, adjusted_row, admitted_row
from zif.scheduler.batch import Batch
from zif.scheduler.request import Request


def admissions(batch: Batch, table: TableShape, bucket: Bucket, seed: int) -> Sequence[Launch]:
    """One launch for all of a batch's new requests, and one for each that has adjustments. ``seed`` is the engine's."""
    size = bucket("rows", len(batch.new_requests), table.rows)
    start_of = dict(zip((id(request) for request in batch.requests), batch.starts.tolist(), strict=True))
    inputs = no_requests(table, size)
    for place, request in enumerate(batch.new_requests):
        inputs["rows"][place] = request.row
        for name, value in admitted_row(request.params, _seed_of(request, seed), start_of[id(request)]).items():
            inputs[name][place] = value
    adjusted = [_adjustment(request, bucket) for request in batch.new_requests if request.params.adjusted]
    return [Launch(Admit(size), inputs), *adjusted]


def no_requests(table: TableShape, rows: int) -> dict[str, IntArray]:
    """Inputs of ``Admit`` of that many rows, all of them the scratch row."""
    fields = {name: np.zeros(spec.shape, spec.dtype) for name, spec in table.fields(ADMITTED, rows).items()}
    return {"rows": np.full(rows, SCRATCH, np.int32), **fields}


def _adjustment(request: Request, bucket: Bucket) -> Launch:
    prompt, output = request.prompt, request.output_ids
    prompt_size = bucket("history", len(prompt), UNBOUNDED)
    output_size = bucket("history", max(len(output), 1), UNBOUNDED)
    row = adjusted_row(request.params, len(prompt), sorted(request.rule.ends))
    inputs = {name: value[None] for name, value in row.items()}
    inputs |= {
        "row": np.array([request.row], np.int32),
        "prompt": padded(prompt, prompt_size, 0),
        "prompt_rows": padded([request.row] * len(prompt), prompt_size, SCRATCH),
        "output": padded(output, output_size, 0),
        "output_rows": padded([request.row] * len(output), output_size, SCRATCH),
    }
    return Launch(Adjust(prompt_size, output_size), inputs)


def _seed_of(request: Request, seed: int) -> int:
    """The request's own seed, or one that follows from the engine's and its place of arrival."""
    if request.params.seed is not None:
        return request.params.seed
    digest = hashlib.blake2b(f"{seed}:{request.order}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
