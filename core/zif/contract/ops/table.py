"""Ops that read and write the request table: before the model runs, and after it.

The table has N rows, one per request. Row 0 pads: its length is 0, and its page tables name page 0, the sink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from zif.contract.ops.facts import VOCAB
from zif.contract.ops.sampling import argmax, clear_seeds, draw_logits, sample, spoiled
from zif.contract.ops.tolerances import EXACT
from zif.contract.opspec import OpCase, OpRequest, op

A = np.ndarray[Any, Any]
ROWS = 9
"""Rows of the cases' tables, row 0 included."""


def _decode_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    # rows, tokens, width; then assignments as (row, index): of a row of the step, of another, twice of one
    cases: list[tuple[str, list[int], list[int], int, list[tuple[int, int]], int]] = [
        ("one", [3], [-1], 5, [(3, 2)], 1),
        ("padded", [7, 2, 0], [-1, 11, 0], 6, [(2, 0), (0, 0), (0, 0)], 1),
        ("no page begins", [5, 1, 8, 0, 0], [-1, -1, -1, 0, 0], 4, [(0, 0)] * 5, 1),
        ("a row of another step, and one twice", [4, 6, 1, 2], [-1, 7, -1, 0], 3, [(6, 1), (8, 0), (6, 2), (4, 5)], 1),
        ("pages of two sizes", [4, 6, 1, 2], [-1, 7, -1, 0], 5, [(6, 1), (8, 0), (6, 2), (4, 5)], 2),
    ]
    for label, rows, tokens, width, assigned, factor in cases:
        kv_len = rng.integers(0, 90, ROWS).astype(np.int32)
        kv_len[0] = 0
        pages = {group: rng.integers(1, 999, (ROWS, 7)).astype(np.int32) for group in ("full", "window")}
        for table in pages.values():
            table[0] = 0
        at = np.array(assigned, np.int32)
        factors = {"full": factor, "window": 1}
        ids = {group: rng.integers(1, 999, (ROWS, 7)).astype(np.int32) for group in pages}
        arguments = {
            "rows": np.array(rows, np.int32),
            "tokens": np.array(tokens, np.int32),
            "last_token": rng.integers(0, 999, ROWS).astype(np.int32),
            "kv_len": kv_len,
            "pages": pages,
            "page_rows": at[:, 0].copy(),
            "page_indices": at[:, 1].copy(),
            "page_ids": {
                group: np.where(at[:, 0] > 0, ids[group][at[:, 0], at[:, 1] // factors[group]], 0).astype(np.int32)
                for group in pages
            },
            "width": width,
            "factors": factors,
        }
        yield OpCase(label, OpRequest.of("decode_inputs", dtype), arguments)


def _own(indices: Any, factor: int) -> Any:
    """Indices in pages of a group, from those in smallest pages."""
    return indices if factor == 1 else indices // factor


def _decode_inputs_composite(ops: Any) -> Callable[..., Any]:
    def decode_inputs(
        rows: Any, tokens: Any, last_token: Any, kv_len: Any, pages: Any, page_rows: Any, page_indices: Any,
        page_ids: Any, width: int, factors: Mapping[str, int],
    ) -> Any:  # fmt: skip
        pages = {
            group: ops.put(pages[group], (page_rows, _own(page_indices, factors[group])), page_ids[group])
            for group in pages
        }
        positions = kv_len[rows]
        kv_lens = positions + ops.cast(rows > 0, "int32")
        tokens = ops.where(tokens < 0, last_token[rows], tokens)
        order = ops.arange(rows.shape[0] + 1, rows)
        tables = {group: pages[group][rows][:, : -(-width // factors[group])] for group in pages}
        return tokens, positions, kv_lens, order, tables, ops.put(kv_len, (rows,), kv_lens), pages

    return decode_inputs


@op(
    profile="llm",
    tolerances=EXACT,
    cases=_decode_cases,
    composite=_decode_inputs_composite,
    static=("width", "factors"),
)
def decode_inputs(
    rows: A, tokens: A, last_token: A, kv_len: A, pages: Mapping[str, A], page_rows: A, page_indices: A,
    page_ids: Mapping[str, A], width: int, factors: Mapping[str, int],
) -> tuple[A, A, A, A, dict[str, A], A, dict[str, A]]:  # fmt: skip
    """The fields of a decode step, a token a request, and the request table after it; all int32.

    ``rows`` [B] are the requests' rows of the table: no row twice but 0, which pads. ``tokens`` [B], -1 where the
    token is the row's ``last_token``. The table's arrays: ``last_token`` and ``kv_len`` [N], ``pages`` {group: [N,
    P]}. ``width`` and ``page_indices`` count the model's smallest pages, of which a page of a group is
    ``factors[group]``. Before the step ``pages[group][page_rows[i], page_indices[i] // factors[group]]`` becomes
    ``page_ids[group][i]``, for i in [0, B): a place that comes twice gets the same page, as (0, 0) does, which pads
    with page 0; the rows need not be the step's.

    Returns (tokens [B], positions [B], kv_lens [B], 0 to B as [B+1], page tables {group: [B, ceil(width / factor)]},
    the table's kv_len, its pages): positions are the lengths before the step, kv_lens those after it, one more but
    for padding. Consumes ``kv_len`` and ``pages``.
    """
    pages = {group: table.copy() for group, table in pages.items()}
    for group, table in pages.items():
        table[page_rows, page_indices // factors[group]] = page_ids[group]
    positions = kv_len[rows]
    kv_lens = positions + (rows > 0).astype(np.int32)
    kv_len = kv_len.copy()
    kv_len[rows] = kv_lens
    tables = {group: table[rows, : -(-width // factors[group])] for group, table in pages.items()}
    order = np.arange(len(rows) + 1, dtype=np.int32)
    return np.where(tokens < 0, last_token[rows], tokens), positions, kv_lens, order, tables, kv_len, pages


def _mixed_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    # rows, tokens of each, of which the first ``decodes`` are not known to the host; padding tokens; width
    cases: list[tuple[str, list[int], list[int], int, int, int]] = [
        ("one prompt", [4], [13], 0, 0, 5),
        ("decodes and chunks, padded", [2, 7, 5, 8, 0, 0], [1, 1, 9, 30, 0, 0], 2, 6, 4),
    ]
    for label, rows, counts, decodes, padding, width in cases:
        total, seqs = sum(counts), len(rows)
        kv_len = rng.integers(0, 90, ROWS).astype(np.int32)
        kv_len[0] = 0
        tokens = rng.integers(0, 999, total + padding).astype(np.int32)
        tokens[:decodes], tokens[total:] = -1, 0
        arguments = {
            "rows": np.array(rows, np.int32),
            "tokens": tokens,
            "seqs": np.repeat([*range(seqs), seqs - 1], [*counts, padding]).astype(np.int32),
            "query_starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            "num_tokens": np.array([total], np.int32),
            "last_token": rng.integers(0, 999, ROWS).astype(np.int32),
            "kv_len": kv_len,
            "pages": {group: rng.integers(0, 999, (ROWS, 7)).astype(np.int32) for group in ("full", "window")},
            "width": width,
            "factors": {"full": 1, "window": 1 + seqs // 4},
        }
        yield OpCase(label, OpRequest.of("mixed_inputs", dtype), arguments)


def _mixed_inputs_composite(ops: Any) -> Callable[..., Any]:
    def mixed_inputs(
        rows: Any, tokens: Any, seqs: Any, query_starts: Any, num_tokens: Any, last_token: Any, kv_len: Any, pages: Any,
        width: int, factors: Mapping[str, int],
    ) -> Any:  # fmt: skip
        before = kv_len[rows]
        kv_lens = before + query_starts[1:] - query_starts[:-1]
        index = ops.arange(tokens.shape[0], rows)
        positions = ops.where(index < num_tokens, before[seqs] + index - query_starts[seqs], 0)
        tokens = ops.where(tokens < 0, last_token[rows][seqs], tokens)
        tables = {group: pages[group][rows][:, : -(-width // factors[group])] for group in pages}
        return tokens, positions, kv_lens, tables, ops.put(kv_len, (rows,), kv_lens)

    return mixed_inputs


@op(profile="llm", tolerances=EXACT, cases=_mixed_cases, composite=_mixed_inputs_composite, static=("width", "factors"))
def mixed_inputs(
    rows: A, tokens: A, seqs: A, query_starts: A, num_tokens: A, last_token: A, kv_len: A, pages: Mapping[str, A],
    width: int, factors: Mapping[str, int],
) -> tuple[A, A, A, dict[str, A], A]:  # fmt: skip
    """The fields of any other step that come from the request table, and its kv_len after the step; all int32.

    ``rows`` [B], ``last_token``, ``kv_len``, ``pages``, ``width`` and ``factors`` as in ``decode_inputs``, the page
    assignments made;
    ``tokens`` [T], of which -1 is the ``last_token`` of its sequence, ``seqs`` [T], ``query_starts`` [B+1] and
    ``num_tokens`` [1] as :class:`zif.contract.step.Step` has them: behind num_tokens, tokens are padding and known.

    Returns (tokens [T], positions [T], kv_lens [B], page tables {group: [B, ceil(width / factor)]}, the table's
    kv_len). Consumes ``kv_len``.
    """
    before = kv_len[rows]
    kv_lens = before + np.diff(query_starts)
    index = np.arange(len(tokens), dtype=np.int32)
    positions = np.where(index < num_tokens, before[seqs] + index - query_starts[seqs], 0).astype(np.int32)
    kv_len = kv_len.copy()
    kv_len[rows] = kv_lens
    tables = {group: table[rows, : -(-width // factors[group])] for group, table in pages.items()}
    return np.where(tokens < 0, last_token[rows[seqs]], tokens), positions, kv_lens, tables, kv_len


def _sample_rows_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    vocab = 600
    every = (("drawn", [4, 1, 7, 2, 0], True), ("greedy", [8, 0, 3], False))
    for label, rows, random in (*every, ("faults, drawn", [4, 6, 1], True), ("faults, greedy", [8, 5, 3], False)):
        logits = draw_logits(rng, len(rows), vocab)
        if "faults" in label:
            logits[:2] = spoiled(logits[:2])
        temperature = np.array([0.0, 1.0, 0.7, 2.0, 1.0, 1.0, 0.0, 0.0, 1.0])
        kv_len = rng.integers(0, 5000, ROWS).astype(np.int32)
        seed = rng.integers(-(2**31), 2**31, (ROWS, 2)).astype(np.int32)
        seed[rows] = clear_seeds(rng, logits, temperature[rows], kv_len[rows])
        arguments = {
            "logits": logits,
            "rows": np.array(rows, np.int32),
            "temperature": temperature,
            "seed": seed,
            "kv_len": kv_len,
            "last_token": rng.integers(0, vocab, ROWS).astype(np.int32),
            "random": random,
        }
        yield OpCase(label, OpRequest.of("sample_rows", dtype, vocab=vocab), arguments)


def _sample_rows_composite(ops: Any) -> Callable[..., Any]:
    def sample_rows(
        logits: Any, rows: Any, temperature: Any, seed: Any, kv_len: Any, last_token: Any, random: bool
    ) -> Any:
        tokens = ops.sample(logits, temperature[rows], seed[rows], kv_len[rows]) if random else ops.argmax(logits)
        return tokens, ops.put(last_token, (rows,), ops.where(tokens < 0, 0, tokens))

    return sample_rows


def _sample_rows_parts(request: OpRequest) -> Sequence[OpRequest]:
    return request.as_of("argmax"), request.as_of("sample")


@op(
    profile="llm",
    facts=(VOCAB,),
    tolerances=EXACT,
    cases=_sample_rows_cases,
    composite=_sample_rows_composite,
    parts=_sample_rows_parts,
    static=("random",),
)
def sample_rows(logits: A, rows: A, temperature: A, seed: A, kv_len: A, last_token: A, random: bool) -> tuple[A, A]:
    """(tokens [R] int32, last_token [N]): a token of each of logits [R, V] by its row's settings, kept there.

    ``sample`` with row ``rows`` [R] of temperature [N] float32, seed [N, 2] int32 and, as the position, kv_len [N]
    int32; without ``random``, which says that some temperature is not 0, ``argmax``. Consumes ``last_token`` [N]
    int32; where ``rows`` has a row twice, as padding has row 0, any one of its tokens stays. A row of logits that is
    not sound gives -1, of which 0 is kept: the next step looks its embedding up before the host knows.
    """
    tokens = sample(logits, temperature[rows], seed[rows], kv_len[rows]) if random else argmax(logits)
    last_token = last_token.copy()
    last_token[rows] = np.maximum(tokens, 0)
    return tokens, last_token
