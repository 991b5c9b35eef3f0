"""The request table: what the device knows of each running request, a row a request.

One of the three places that hold device state. Core sends deltas (a request is admitted, a page is
assigned); the device itself keeps lengths and last tokens, so that the host can launch a step
before it has read the one before. Row 0 is the scratch row: padding reads and writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract.arrays import ArraySpec, Tree, tree_map
from zif.contract.backend import Runtime
from zif.contract.ops.threefry import seed_words
from zif.sampling.params import ADJUSTED as ADJUSTMENT
from zif.sampling.params import MAX_STOP_TOKEN_IDS, PARAMETERS, Row, SamplingParams

HostArray = np.ndarray[Any, Any]
BANS = MAX_STOP_TOKEN_IDS + 8
SCRATCH = 0
"""The row that padding uses."""


def _asked(adjusted: bool) -> tuple[tuple[str, Row], ...]:
    """(parameter, field) of all that parameters fill: of the adjustments, or of the table itself."""
    chosen = (p for p in PARAMETERS.values() if bool(p.needs & ADJUSTMENT) == adjusted)
    return tuple((parameter.name, row) for parameter in chosen for row in parameter.rows)


_IN_TABLE, _IN_ADJUSTMENTS = _asked(False), _asked(True)
# Fields that a request brings to its row when it is admitted: what follows from it, and what it asks for.
ADMITTED = {
    "kv_len": Row("kv_len", "int32"),
    "seed": Row("seed", "int32", width=2),
    **{row.name: row for _, row in _IN_TABLE},
}
ADJUSTED = {
    "ban_ids": Row("ban_ids", "int32", width=BANS),
    "ban_values": Row("ban_values", "float32", width=BANS),
    "ban_until": Row("ban_until", "int32"),
    **{row.name: row for _, row in _IN_ADJUSTMENTS},
}


@dataclass(frozen=True, slots=True)
class TableShape:
    """Running requests (rows 1 to ``rows``), the longest one in smallest pages, cache groups, vocabulary, most drafts.

    ``factors``: how many smallest pages a page of each group is. ``drafts``: of a row.
    """

    rows: int
    pages: int
    groups: tuple[str, ...]
    factors: tuple[int, ...]
    vocab: int
    drafts: int = 0

    @property
    def factor_of(self) -> dict[str, int]:
        """``factors`` by group."""
        return dict(zip(self.groups, self.factors, strict=True))

    def fields(self, of: Mapping[str, Row], rows: int) -> dict[str, ArraySpec]:
        """Specs of the fields ``of`` :data:`ADMITTED` or :data:`ADJUSTED` for ``rows`` requests."""
        return {
            name: ArraySpec((rows,) if row.width is None else (rows, row.width), row.dtype) for name, row in of.items()
        }

    def table(self) -> Tree:
        """Specs of the table itself, of N = rows + 1 rows.

        ``last_token`` [N]; ``kv_len`` [N], cached tokens; ``pages`` {group: [N, ceil(P / factor)]}; and a
        sampling field each. Where there are drafts: ``drafts`` [N, D], to be verified by the next step, and
        ``accepted`` [N], how many of the last step's were.
        """
        rows = self.rows + 1
        drafts = {
            "drafts": ArraySpec((rows, self.drafts), "int32"),
            "accepted": ArraySpec((rows,), "int32"),
        }
        return {
            **(drafts if self.drafts else {}),
            "last_token": ArraySpec((rows,), "int32"),
            "pages": {
                group: ArraySpec((rows, -(-self.pages // factor)), "int32") for group, factor in self.factor_of.items()
            },
            **self.fields(ADMITTED, rows),
        }

    def adjustments(self) -> Tree:
        """Specs of what only requests with penalties, biases or min_tokens need; made when one comes.

        Requests without any read the scratch row, which changes nothing: it holds what idle parameters make.

        ``output_counts`` [N, vocab] and ``in_prompt`` [N, vocab], and a field each.
        """
        rows = self.rows + 1
        return {
            "output_counts": ArraySpec((rows, self.vocab), "int32"),
            "in_prompt": ArraySpec((rows, self.vocab), "bool"),
            **self.fields(ADJUSTED, rows),
        }


class RequestTable:
    """The only holder of the table's arrays; programs are run on them and give them back."""

    def __init__(self, shape: TableShape, runtime: Runtime) -> None:
        self.shape = shape
        self.arrays: Tree = tree_map(runtime.zeros, shape.table())
        self.adjustments = OnDemand(lambda: _adjustments(shape, runtime))
        self.held = OnDemand(lambda: runtime.zeros(ArraySpec((shape.rows + 1, shape.vocab), "float32")))
        """Logits [N, vocab] whose tokens wait for a mask."""


class OnDemand:
    """The only holder of arrays that few engines need; they are made when a program is first run on them."""

    def __init__(self, make: Callable[[], Tree]) -> None:
        self._make = make
        self._arrays: Tree = None

    @property
    def arrays(self) -> Tree:
        if self._arrays is None:
            self._arrays = self._make()
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Tree) -> None:
        self._arrays = arrays


def _adjustments(shape: TableShape, runtime: Runtime) -> Tree:
    arrays = tree_map(runtime.zeros, shape.adjustments())
    for name, value in adjusted_row(SamplingParams(), 0, ()).items():
        if np.any(value):
            arrays[name] = runtime.put(np.stack([value] * (shape.rows + 1)))
    return arrays


def admitted_row(params: SamplingParams, seed: int, kv_len: int) -> dict[str, Any]:
    """The values of :data:`ADMITTED` for one request; ``kv_len`` tokens are already cached."""
    asked = {row.name: row.make(getattr(params, name)) for name, row in _IN_TABLE}
    return {"kv_len": kv_len, "seed": seed_words(seed), **asked}


def adjusted_row(params: SamplingParams, prompt_len: int, banned: Sequence[int]) -> dict[str, HostArray]:
    """The values of :data:`ADJUSTED` for one request; ``banned`` tokens may not come before min_tokens."""
    assert len(banned) <= BANS, f"{len(banned)} tokens to ban, room for {BANS}"
    ban_ids, ban_values = np.zeros(BANS, np.int32), np.zeros(BANS, np.float32)
    ban_ids[: len(banned)] = banned
    ban_values[: len(banned)] = -np.inf
    asked = {row.name: row.make(getattr(params, name)) for name, row in _IN_ADJUSTMENTS}
    values = {"ban_ids": ban_ids, "ban_values": ban_values, "ban_until": prompt_len + params.min_tokens, **asked}
    return {name: np.asarray(values[name], row.dtype) for name, row in ADJUSTED.items()}
