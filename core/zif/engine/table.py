"""The request table: what the device knows of each running request, a row a request.

One of the three places that hold device state. Core sends deltas (a request is admitted, a page is
assigned); the device itself keeps lengths and last tokens, so that the host can launch a step
before it has read the one before. Row 0 is the scratch row: padding reads and writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract.arrays import ArraySpec, Tree, tree_map
from zif.contract.backend import Runtime
from zif.contract.ops.threefry import seed_words
from zif.sampling.params import MAX_LOGIT_BIAS, MAX_STOP_TOKEN_IDS, SamplingParams

BANS = MAX_STOP_TOKEN_IDS + 8
SCRATCH = 0
"""The row that padding uses."""

# what a request brings to its row when it is admitted: name -> dtype
ADMITTED = {
    "kv_len": "int32",
    "temperature": "float32",
    "top_k": "int32",
    "top_p": "float32",
    "min_p": "float32",
    "seed": "int32",
}
ADJUSTED = {
    "repetition": "float32",
    "presence": "float32",
    "frequency": "float32",
    "bias_ids": "int32",
    "bias_values": "float32",
    "ban_ids": "int32",
    "ban_values": "float32",
    "ban_until": "int32",
}
_WIDTH = {"seed": 2, "bias_ids": MAX_LOGIT_BIAS, "bias_values": MAX_LOGIT_BIAS, "ban_ids": BANS, "ban_values": BANS}


@dataclass(frozen=True, slots=True)
class TableShape:
    """Running requests (rows 1 to ``rows``), width of the page tables, cache groups, vocabulary."""

    rows: int
    pages: int
    groups: tuple[str, ...]
    vocab: int

    def field(self, name: str, dtype: str, rows: int) -> ArraySpec:
        """Spec of one admitted field for ``rows`` requests."""
        width = _WIDTH.get(name)
        return ArraySpec((rows,) if width is None else (rows, width), dtype)

    def table(self) -> Tree:
        """Specs of the table itself.

        ``last_token`` [R+1]; ``kv_len`` [R+1], cached tokens; ``pages`` {group: [R+1, P]}; and a
        sampling field each.
        """
        rows = self.rows + 1
        return {
            "last_token": ArraySpec((rows,), "int32"),
            "pages": {group: ArraySpec((rows, self.pages), "int32") for group in self.groups},
            **{name: self.field(name, dtype, rows) for name, dtype in ADMITTED.items()},
        }

    def adjustments(self) -> Tree:
        """Specs of what only requests with penalties, biases or min_tokens need; made when one comes.

        Requests without any read the scratch row, which changes nothing: its ``repetition`` is 1 and
        its other factors are 0.

        ``output_counts`` [R+1, vocab] and ``in_prompt`` [R+1, vocab], and a field each.
        """
        rows = self.rows + 1
        return {
            "output_counts": ArraySpec((rows, self.vocab), "int32"),
            "in_prompt": ArraySpec((rows, self.vocab), "bool"),
            **{name: self.field(name, dtype, rows) for name, dtype in ADJUSTED.items()},
        }


class RequestTable:
    """The only holder of the table's arrays; programs are run on them and give them back."""

    def __init__(self, shape: TableShape, runtime: Runtime) -> None:
        self.shape = shape
        self.arrays: Tree = tree_map(runtime.zeros, shape.table())
        self.adjustments = Adjustments(shape, runtime)


class Adjustments:
    """The only holder of the adjustments' arrays, which are allocated when a program is first run on them."""

    def __init__(self, shape: TableShape, runtime: Runtime) -> None:
        self._shape = shape
        self._runtime = runtime
        self._arrays: Tree = None

    @property
    def arrays(self) -> Tree:
        if self._arrays is None:
            self._arrays = tree_map(self._runtime.zeros, self._shape.adjustments())
            self._arrays["repetition"] = self._runtime.put(np.ones(self._shape.rows + 1, np.float32))
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Tree) -> None:
        self._arrays = arrays


def admitted_row(params: SamplingParams, seed: int, kv_len: int) -> dict[str, Any]:
    """The values of :data:`ADMITTED` for one request; ``kv_len`` tokens are already cached."""
    return {
        "kv_len": kv_len,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "seed": seed_words(seed),
    }


def adjusted_row(params: SamplingParams, prompt_len: int, banned: Sequence[int]) -> dict[str, Any]:
    """The values of :data:`ADJUSTED` for one request; ``banned`` tokens may not come before min_tokens."""
    bias_ids, bias_values = np.zeros(MAX_LOGIT_BIAS, np.int32), np.zeros(MAX_LOGIT_BIAS, np.float32)
    bias_ids[: len(params.logit_bias)] = list(params.logit_bias)
    bias_values[: len(params.logit_bias)] = list(params.logit_bias.values())
    ban_ids, ban_values = np.zeros(BANS, np.int32), np.zeros(BANS, np.float32)
    assert len(banned) <= BANS, f"{len(banned)} tokens to ban, room for {BANS}"
    ban_ids[: len(banned)] = banned
    ban_values[: len(banned)] = -np.inf
    return {
        "repetition": params.repetition_penalty,
        "presence": params.presence_penalty,
        "frequency": params.frequency_penalty,
        "bias_ids": bias_ids,
        "bias_values": bias_values,
        "ban_ids": ban_ids,
        "ban_values": ban_values,
        "ban_until": prompt_len + params.min_tokens,
    }
