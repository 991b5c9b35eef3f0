"""Linears of each head's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from zif.contract.arrays import Tree
from zif.contract.opspec import OpRequest
from zif.contract.weights.packed import PackedWeight, Split
from zif.contract.weights.shard import HostArray
from zif.contract.weights.spec import Loading, Shape, WeightSpec


@dataclass(frozen=True, slots=True)
class HeadsSpec(WeightSpec):
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
    def split(self) -> Split:
        return "columns"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(heads, out, in) of W."""
        rows = self.last - self.first
        return (self.heads, self.columns, rows) if self.transposed else (self.heads, rows, self.columns)

    def cut(self, tensor: HostArray) -> HostArray:
        """W as a view of the checkpoint's tensor."""
        rows = tensor.reshape(self.heads, self.head_rows, self.columns)[:, self.first : self.last]
        return rows.swapaxes(1, 2) if self.transposed else rows

    def stored(self) -> Mapping[str, Shape]:
        return {self.name: (self.heads * self.head_rows, self.columns)}

    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Tree]) -> Tree:
        whole = loading.read(self.name, (self.heads * self.head_rows, self.columns))
        heads = loading.shard.slice(self.heads, local.heads)
        return loading.packer.heads(local, self.cut(whole)[heads], loading.dtype)

    def per_token(self) -> int:
        return math.prod(self.shape)

    def read_by(self, weight: PackedWeight, dtype: str) -> Iterator[OpRequest]:
        yield head_linear_request(dtype, weight)


def head_linear_request(dtype: str, w: PackedWeight) -> OpRequest:
    """The request that a per-head weight makes."""
    heads, outer, inner = w.shape
    sizes = {"heads": heads, "in_features": inner, "out_features": outer}
    return OpRequest.of("head_linear", dtype, key=w.dispatch_key, format=w.format, **sizes)
