"""What an engine's answers should have been: all tokens of a model at once, by the float64 specifications.

No scheduler, no cache that is filled in pieces, no program: one step over whole sequences. So what an engine got
wrong in any of them shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from zif.conformance.oracle import Float64Packer, Oracle, Specifications
from zif.conformance.paging import ragged_step
from zif.contract.binding import bind
from zif.contract.formats import plain_formats
from zif.contract.kernels import Kernel
from zif.contract.model import Model
from zif.contract.ops import op_specs
from zif.engine.requests import model_requests
from zif.engine.store import StoredGroup, stored_groups
from zif.weights import load_weights

A = np.ndarray[Any, Any]


def log_probabilities(
    model: Model, dtype: str, sequences: Sequence[Sequence[int]], stored: Sequence[StoredGroup] = ()
) -> list[A]:
    """float64 [tokens, vocab] of each sequence: of every next token, behind each of its own.

    Weights are those that ``load_format="dummy"`` makes in ``dtype``. ``stored``: the cache groups, where their formats
    lose something.
    """
    weights = load_weights(
        model, cast(Any, None), Float64Packer(), dtype, load_format="dummy", progress=False
    )  # random weights need no checkpoint
    lengths = [len(sequence) for sequence in sequences]
    page = max(lengths)
    groups = stored_groups(model.cache_groups, plain_formats("float32"), "float32", page, "the oracle")
    oracle = Oracle()
    kernels = Lossy({group.name: group for group in stored}) if stored else Specifications()
    providers = [kernels, Specifications()]  # the last would come behind the composites
    ops = bind(model_requests(model, weights, "float32", groups), providers).ops
    tables = np.arange(1, len(sequences) + 1, dtype=np.int32)[:, None]  # a page a sequence
    step = ragged_step(groups[0].name, tables, [0] * len(sequences), lengths)
    count = int(step.shape.tokens)
    step = replace(
        step,
        tokens=np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences]),
        pages={group.name: tables for group in groups},
        logits_at=np.arange(count, dtype=np.int32),
        shape=replace(step.shape, logits=count),
    )
    cache: Any = {
        group.name: {
            name: oracle.runtime.zeros(spec)
            for name, spec in group.format.arrays(group.group, page, len(sequences) + 1).items()
        }
        for group in groups
    }
    x, _ = model.layers(ops, weights, model.embed(ops, weights, step), cache, step)
    logits = np.asarray(model.head(ops, weights, x, step), np.float64)
    high = logits.max(-1, keepdims=True)
    scored = logits - high - np.log(np.exp(logits - high).sum(-1, keepdims=True))
    return np.split(scored, np.cumsum(lengths)[:-1])


@dataclass
class Lossy(Specifications):
    """The specifications, where attention reads of the cache what its format gives back."""

    groups: Mapping[str, StoredGroup]

    def kernels(self) -> Iterator[Kernel]:
        """``attention`` apart."""
        for kernel in super().kernels():
            if kernel.op == "attention":
                yield replace(kernel, maker=lambda *_: self._attention)
            else:
                yield kernel

    def _attention(
        self, q: A, k: A, v: A, cache: Any, layer: int, step: Any, spec: Any,
        angles: A | None = None, q_norm: A | None = None, k_norm: A | None = None,
    ) -> tuple[A, Any]:  # fmt: skip
        ops, stored = op_specs(), self.groups[spec.group]
        q, cache = ops["rope_and_cache"].reference(q, k, v, cache, layer, step, spec, angles, q_norm, k_norm)
        own = {name: array.copy() for name, array in cache[spec.group].items()}
        for page, length in zip(step.pages[spec.group][:, 0], step.kv_lens, strict=True):
            for array in own.values():
                array[layer : layer + 1, page, :length] = stored.format.restored(
                    array[layer : layer + 1, page, :length], stored.page_size
                )
        return ops["paged_attention"].reference(q, {spec.group: own}, layer, step, spec), cache
