"""What a model's weights are, before and after a backend has packed them.

A model declares a tree (dict, list) of specs. Core streams the named tensors from a checkpoint,
decodes its dialect, and hands host arrays to the backend's packer; what comes back takes the
spec's place in the tree that the model's functions are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from zif.contract.arrays import Tree, tree

Split = Literal["columns", "rows", "vocab"]


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """y = x Wᵀ + b, with W the row-wise concatenation of checkpoint tensors ``names``, [out_i, in] each.

    ``split`` is the dimension that tensor parallelism divides: ``columns`` (outputs, each part by
    itself), ``rows`` (inputs; the result is then a partial sum), ``vocab`` (outputs of the head).
    ``tied`` names the embedding in the same tree whose table this is.
    """

    names: tuple[str, ...]
    out_features: tuple[int, ...]
    in_features: int
    bias: tuple[str, ...] = ()
    split: Split | None = None
    tied: str | None = None

    @property
    def rows(self) -> int:
        return sum(self.out_features)


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """A table [vocab, hidden] looked up by token id."""

    name: str
    vocab: int
    hidden: int
    split: Split | None = "vocab"


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """A small tensor kept as it is, in ``dtype`` or, if None, the model's."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    """Stacked linears of a mixture of experts: W [experts, out, in].

    ``names`` holds, a part each, a pattern with ``{e}`` for the expert.
    """

    names: tuple[str, ...]
    out_features: tuple[int, ...]
    in_features: int
    experts: int
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class HeadsSpec:
    """A linear of each head's own, W [heads, out, in], cut from the checkpoint tensor ``name``.

    That tensor is [heads * ``head_rows``, columns]. Of each head's rows, [``first``, ``last``) are
    taken: W[h] is that slice (out = last - first, in = columns), or its transpose if ``transposed``.
    Tensor parallelism divides the heads.
    """

    name: str
    heads: int
    head_rows: int
    columns: int
    first: int
    last: int
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(heads, out, in) of W."""
        rows = self.last - self.first
        return (self.heads, self.columns, rows) if self.transposed else (self.heads, rows, self.columns)

    def cut(self, tensor: Any) -> Any:
        """W as a view of the checkpoint's tensor (numpy)."""
        rows = tensor.reshape(self.heads, self.head_rows, self.columns)[:, self.first : self.last]
        return rows.swapaxes(1, 2) if self.transposed else rows


WeightSpec = LinearSpec | EmbeddingSpec | VectorSpec | ExpertsSpec | HeadsSpec


@dataclass(frozen=True)
class RepeatedSpec:
    """``len(copies)`` trees of specs that differ in names alone: the body of a ``repeat``."""

    copies: Sequence[Tree]


@tree(static=("format", "shape", "facts"))
@dataclass(frozen=True)
class PackedWeight:
    """A linear or embedding as a kernel reads it.

    ``arrays`` are the backend's; ``format`` names what they mean (``dense``: one array ``w`` [out,
    in] and maybe ``b`` [out]); ``shape`` is (out, in) as the model sees it; ``facts`` are further
    hashable constants of the packing.
    """

    arrays: Mapping[str, Any]
    format: str
    shape: tuple[int, int]
    facts: tuple[Any, ...] = ()

    @property
    def dispatch_key(self) -> Any:
        return (self.format, self.shape, self.facts, tuple(self.arrays))


@tree(static=())
@dataclass(frozen=True)
class LoopStack:
    """Layers kept one by one, for frameworks whose ``repeat`` is a loop."""

    layers: list[Tree] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.layers)
