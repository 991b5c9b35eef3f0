"""Which part of a model's weights a rank holds: specs of that part, and its slice of each tensor.

Sizes of what is split by columns or rows are those that :meth:`zif.contract.model.Model.local` gives, and
the vocabulary is divided here, rounded up: the last ranks' rows may be padding. A part of fewer heads than ranks
is held by several ranks alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from zif.contract.arrays import Tree
from zif.contract.weights import (
    EmbeddingSpec,
    ExpertsSpec,
    HeadsSpec,
    LinearSpec,
    PackedWeight,
    Split,
    WeightSpec,
)
from zif.weights.safetensors import HostArray

if TYPE_CHECKING:
    from zif.contract.model import Model


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank ``rank`` of ``size``."""

    rank: int
    size: int

    def slice(self, whole: int, local: int) -> slice:
        """The rank's ``local`` of ``whole`` rows, columns or heads, which ranks next to each other may share."""
        copies, rest = divmod(local * self.size, whole)
        assert copies and not rest and self.size % copies == 0, f"{self.size} ranks of {local} do not tile {whole}"
        start = self.rank // copies * local
        return slice(start, start + local)

    def vocab_rows(self, table: HostArray, local: int) -> HostArray:
        """The rank's rows of ``table`` [vocab, ...], zeros behind its end."""
        rows = table[self.rank * local : (self.rank + 1) * local]
        if len(rows) == local:
            return rows
        return np.concatenate([rows, np.zeros((local - len(rows), *table.shape[1:]), table.dtype)])


ALONE = Shard(0, 1)


def local_weights(model: Model, size: int) -> dict[str, Tree]:
    """The spec tree of a rank, in the shape of ``model.weights()``. Raises UnsupportedModel."""
    if size == 1:
        return model.weights()
    local: dict[str, Tree] = _vocab_divided(model.local(size).weights(), size)
    return local


def _vocab_divided(specs: Tree, size: int) -> Tree:
    if isinstance(specs, dict):
        return {key: _vocab_divided(spec, size) for key, spec in specs.items()}
    if isinstance(specs, list | tuple):
        return type(specs)(_vocab_divided(spec, size) for spec in specs)
    if isinstance(specs, EmbeddingSpec) and specs.split == "vocab":
        return replace(specs, vocab=-(-specs.vocab // size))
    if isinstance(specs, LinearSpec) and specs.split == "vocab":
        return replace(specs, out_features=tuple(-(-rows // size) for rows in specs.out_features))
    return specs  # a RepeatedSpec too: a vocabulary is no layer's


def split_of(spec: WeightSpec) -> Split | None:
    """How a weight is divided. Experts' results are partial sums, as those of rows are."""
    if isinstance(spec, LinearSpec | EmbeddingSpec):
        return spec.split
    return "rows" if isinstance(spec, ExpertsSpec) else "columns" if isinstance(spec, HeadsSpec) else None


def marked(packed: Tree, spec: WeightSpec, shard: Shard) -> Tree:
    """A packed weight that says how it is divided."""
    if shard.size == 1 or not isinstance(packed, PackedWeight):
        return packed
    return replace(packed, split=split_of(spec))


def linear_parts(spec: LinearSpec, local: LinearSpec, parts: Sequence[HostArray], shard: Shard) -> list[HostArray]:
    """A rank's share of a linear's weights [out_i, in], or of its biases [out_i].

    The bias of a weight split by rows is added once: ranks but the first hold zeros.
    """
    sizes = zip(spec.out_features, local.out_features, strict=True)
    if spec.split == "columns":
        return [part[shard.slice(*rows)] for part, rows in zip(parts, sizes, strict=bool(parts))]
    if spec.split == "vocab":
        return [shard.vocab_rows(part, rows) for part, (_, rows) in zip(parts, sizes, strict=bool(parts))]
    if spec.split == "rows":
        inputs = shard.slice(spec.in_features, local.in_features)
        return [_bias_once(part, shard) if part.ndim == 1 else part[:, inputs] for part in parts]
    return list(parts)


def _bias_once(bias: HostArray, shard: Shard) -> HostArray:
    return bias if shard.rank == 0 else np.zeros_like(bias)
