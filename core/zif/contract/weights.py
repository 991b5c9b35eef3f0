"""What a model's weights are, before and after a backend has packed them.

A model declares a tree (dict, list) of specs. Core streams the named tensors from a checkpoint,
decodes its dialect, and hands host arrays to the backend's packer; what comes back takes the
spec's place in the tree that the model's functions are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from zif.contract.arrays import Tree, tree

Split = Literal["columns", "rows", "vocab"]


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """y = x Wᵀ + b, with W the row-wise concatenation of checkpoint tensors ``names``, [out_i, in] each.

    ``split`` is the dimension that tensor parallelism divides: ``columns`` (outputs, each part by
    itself), ``rows`` (inputs; the result is then a partial sum), ``vocab`` (outputs of the head).
    ``tied`` names the embedding in the same tree whose table this is. ``gate`` is the activation of a weight
    whose halves are an MLP's gate and up projections, for ``gated_linear``.
    """

    names: tuple[str, ...]
    out_features: tuple[int, ...]
    in_features: int
    bias: tuple[str, ...] = ()
    split: Split | None = None
    tied: str | None = None
    gate: str | None = None

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
    """The experts of a layer, one weight: gated MLPs hidden -> size -> hidden.

    ``gate``, ``up`` [size, hidden] and ``down`` [hidden, size] are checkpoint names with ``{e}`` for
    the expert. A token goes to ``top_k`` of them; ``kind`` is the activation.
    """

    gate: str
    up: str
    down: str
    experts: int
    hidden: int
    size: int
    top_k: int
    kind: str = "silu"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(experts, size, hidden) of the packed weight."""
        return (self.experts, self.size, self.hidden)


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


@tree(static=("format", "shape", "facts", "split"))
@dataclass(frozen=True)
class PackedWeight:
    """A linear, an embedding, heads or experts as a kernel reads it.

    ``arrays`` are the backend's; ``format`` names what they mean (``dense``: one array ``w`` [out,
    in] and maybe ``b`` [out]). ``shape`` is (out, in) as the model sees it, of heads (heads, out, in),
    of experts (experts, size, hidden). ``facts`` are further hashable constants of the packing. A
    format that wraps another (an adapter over any base) holds that PackedWeight among its arrays.
    ``split`` is for core to set: how the weight is divided among ranks, None where it is whole.
    """

    arrays: Mapping[str, Any]
    format: str
    shape: tuple[int, ...]
    facts: tuple[Any, ...] = ()
    split: Split | None = None

    @cached_property
    def dispatch_key(self) -> Any:
        """What tells apart weights that may need different kernels.

        Names are sorted: a framework that flattens dicts gives them back in an order of its own.
        """
        inner = tuple((name, getattr(self.arrays[name], "dispatch_key", None)) for name in sorted(self.arrays))
        return (self.format, self.shape, self.facts, inner)


@tree(static=())
@dataclass(frozen=True)
class LoopStack:
    """Layers kept one by one, for frameworks whose ``repeat`` is a loop."""

    layers: list[Tree] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.layers)
