"""Embeddings, and vectors that ops take as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from zif.contract.arrays import Tree
from zif.contract.opspec import OpRequest
from zif.contract.weights.packed import PackedWeight, Split
from zif.contract.weights.spec import Loading, Shape, WeightSpec


@dataclass(frozen=True, slots=True)
class EmbeddingSpec(WeightSpec):
    """A table [vocab, hidden] looked up by token id."""

    name: str
    vocab: int
    hidden: int
    split: Split | None = "vocab"

    def stored(self) -> Mapping[str, Shape]:
        return {self.name: (self.vocab, self.hidden)}

    def share(self, size: int) -> Self:
        return replace(self, vocab=-(-self.vocab // size)) if self.split == "vocab" else self

    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Tree]) -> Tree:
        table = loading.read(self.name, (self.vocab, self.hidden))
        if self.split is not None:
            table = loading.shard.vocab_rows(table, local.vocab)
        return loading.packer.embedding(local, table, loading.dtype)

    def read_by(self, weight: PackedWeight, dtype: str) -> Iterator[OpRequest]:
        vocab, hidden = weight.shape
        facts = {"key": weight.dispatch_key, "format": weight.format, "vocab": vocab, "hidden": hidden}
        yield OpRequest.of("embedding", dtype, **facts)


@dataclass(frozen=True, slots=True)
class VectorSpec(WeightSpec):
    """A small tensor kept as it is, in ``dtype`` or, if None, the model's. Every rank has the whole."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None = None

    def stored(self) -> Mapping[str, Shape]:
        return {self.name: self.shape}

    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Tree]) -> Tree:
        assert local == self, f"{self.name} is a vector, and vectors are not divided"
        return loading.packer.vector(self, loading.read(self.name, self.shape), loading.dtype)
