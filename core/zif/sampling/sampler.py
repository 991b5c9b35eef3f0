"""The sampler: a device program over the ops, the same for every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zif.contract.arrays import Array, Tree
from zif.contract.optable import Ops


@dataclass(frozen=True, slots=True)
class SamplerShape:
    """What one compiled sampler does; a step takes the least that its requests need.

    ``rows`` R: logits rows. ``random``: some row has a temperature. ``filtered``: some row has
    top-k, top-p or min-p. ``adjusted``: some row has penalties, biases or min_tokens. ``top``:
    alternatives to report beside each logprob; None reports no logprobs. ``targets``: some rows
    score a given token (a prompt's) instead of drawing one. ``masked``: each row has a mask of the tokens that it may
    have.
    """

    rows: int
    random: bool = False
    filtered: bool = False
    adjusted: bool = False
    top: int | None = None
    targets: bool = False
    masked: bool = False

    @property
    def plain(self) -> bool:
        """True where the sampler is small enough to be compiled into every decode program."""
        return not (self.filtered or self.adjusted or self.targets or self.masked) and self.top is None


def draw(
    ops: Ops,
    shape: SamplerShape,
    logits: Array,
    rows: Array,
    table: Tree,
    *,
    adjusted_rows: Array | None = None,
    adjustments: Tree = None,
    targets: Array | None = None,
    mask: Array | None = None,
) -> tuple[dict[str, Array], Tree, Tree]:
    """Draw a token for each of ``logits`` [R, vocab] float32 by the settings of table row ``rows`` [R].

    Returns (outputs, table, adjustments). Outputs: ``tokens`` [R] int32, -1 where a row of logits is not sound
    (see :mod:`zif.contract.ops.sampling`), and with ``top``:
    ``logprob`` [R], ``rank`` [R], ``top_ids`` [R, top], ``top_logprobs`` [R, top] of the model's own
    distribution, before any penalty or temperature. ``adjusted_rows`` [R] are the rows of
    ``adjustments`` to go by, the scratch row for requests that have none. A row with ``targets`` >= 0
    reports that token (its table row is the scratch row, so that what was drawn goes nowhere). ``mask`` is
    ``mask_logits``' own.
    """
    scores = logits
    if shape.adjusted:
        assert adjusted_rows is not None, "an adjusting sampler is told the rows of its adjustments"
        scores = _adjust(ops, shape, scores, adjusted_rows, table["kv_len"][rows], adjustments)
    if mask is not None:
        scores = ops.mask_logits(scores, mask)
    if shape.filtered:
        settings = [table[name][rows] for name in ("temperature", "top_k", "top_p", "min_p")]
        scores = ops.filter_logits(scores, *settings)
    tokens, last_token = ops.sample_rows(
        scores, rows, table["temperature"], table["seed"], table["kv_len"], table["last_token"], shape.random
    )
    outputs: dict[str, Array] = {"tokens": tokens}
    indexed = ops.where(tokens < 0, 0, tokens) if shape.top is not None or shape.adjusted else tokens
    if shape.top is not None:
        reported = indexed if targets is None else ops.where(targets < 0, indexed, targets)
        names = ("logprob", "rank", "top_ids", "top_logprobs")
        outputs |= zip(names, ops.logprobs(logits, reported, shape.top), strict=True)
    table = {**table, "last_token": last_token}
    if adjusted_rows is not None:
        counts = ops.add_at(adjustments["output_counts"], (adjusted_rows, indexed), 1)
        adjustments = {**adjustments, "output_counts": counts}
    return outputs, table, adjustments


def _adjust(ops: Ops, shape: SamplerShape, logits: Array, rows: Any, position: Array, a: dict[str, Any]) -> Array:
    """Penalties, then biases, then -inf for all but the allowed tokens, and for the ends that min_tokens forbids."""
    scores = ops.penalize(
        logits,
        a["output_counts"][rows],
        a["in_prompt"][rows],
        a["repetition"][rows],
        a["presence"][rows],
        a["frequency"][rows],
    )
    line = ops.arange(shape.rows, rows)[:, None]
    scores = ops.add_at(scores, (line, a["bias_ids"][rows]), a["bias_values"][rows])
    # Of a row that is not limited, this puts back what is there; NaN and +inf stay, for the draw to find.
    allowed = (line, a["allowed_ids"][rows])
    barred = (a["limited"][rows] > 0)[:, None] & (scores < float("inf"))
    scores = ops.put(ops.where(barred, float("-inf"), scores), allowed, scores[allowed])
    forbidden = (position < a["ban_until"][rows])[:, None]
    return ops.add_at(scores, (line, a["ban_ids"][rows]), ops.where(forbidden, a["ban_values"][rows], 0.0))
