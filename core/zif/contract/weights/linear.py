"""Linears, the head among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from zif.contract.arrays import Tree
from zif.contract.opspec import OpRequest
from zif.contract.weights.packed import PackedWeight, Split
from zif.contract.weights.shard import HostArray, Shard
from zif.contract.weights.spec import Loading, Shape, WeightSpec


@dataclass(frozen=True, slots=True)
class LinearSpec(WeightSpec):
    """y = x Wᵀ + b, with W the row-wise concatenation of checkpoint tensors ``names``, [out_i, in] each.

    One name for several ``out_features`` is a tensor that holds all parts.

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

    def stored(self) -> Mapping[str, Shape]:
        if self.tied is not None:
            return {}
        weights = {name: (rows, self.in_features) for name, rows in self._tensors(self.names)}
        return {**weights, **{name: (rows,) for name, rows in self._tensors(self.bias)}}

    def share(self, size: int) -> Self:
        if self.split != "vocab":
            return self
        return replace(self, out_features=tuple(-(-rows // size) for rows in self.out_features))

    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Tree]) -> Tree:
        if self.tied is not None:
            return loading.packer.tied(local, beside[self.tied])
        stored, shard = self.stored(), loading.shard
        biases = self._share(self._parts([loading.read(name, stored[name]) for name in self.bias]), local, shard)
        if shard.size == 1:  # a share of a weight is decoded
            encoded = [loading.encoded(name, stored[name]) for name in self.names]
            whole = [weight for weight in encoded if weight is not None]
            if len(whole) == len(encoded):
                packed = loading.packer.encoded(local, whole, biases, loading.dtype)
                if packed is not None:
                    return packed
        weights = self._share(self._parts([loading.read(name, stored[name]) for name in self.names]), local, shard)
        return loading.packer.linear(local, weights, biases, loading.dtype)

    def per_token(self) -> int:
        """None of the head's: they are for the rows of logits."""
        return 0 if self.split == "vocab" else self.rows * self.in_features

    def read_by(self, weight: PackedWeight, dtype: str) -> Iterator[OpRequest]:
        """``linear``, and what is made of it: ``logits`` of a head, ``gated_linear`` of gate and up."""
        rows, inner = weight.shape
        facts = {
            "key": weight.dispatch_key,
            "format": weight.format,
            "out_features": rows,
            "in_features": inner,
            "bias": "b" in weight.arrays,
        }
        yield OpRequest.of("linear", dtype, **facts)
        if self.split == "vocab":
            yield OpRequest.of("logits", dtype, **facts)
        if self.gate is not None:
            yield OpRequest.of("gated_linear", dtype, kind=self.gate, **facts)

    def repeated_names(self) -> tuple[str, ...]:
        return self.names if self.tied is not None else ()

    def _tensors(self, names: tuple[str, ...]) -> list[tuple[str, int]]:
        """(tensor, its rows): one a part, or one tensor that holds all parts."""
        if len(names) == 1:
            return [(names[0], self.rows)]
        return list(zip(names, self.out_features, strict=True)) if names else []

    def _parts(self, tensors: list[HostArray]) -> list[HostArray]:
        """The parts, where one tensor holds them all too."""
        if len(tensors) != 1 or len(self.out_features) == 1:
            return tensors
        parts, row = [], 0
        for rows in self.out_features:
            parts.append(tensors[0][row : row + rows])
            row += rows
        return parts

    def _share(self, parts: Sequence[HostArray], local: LinearSpec, shard: Shard) -> list[HostArray]:
        """A rank's share of weights [out_i, in], or of biases [out_i]."""
        sizes = zip(self.out_features, local.out_features, strict=True)
        if self.split == "columns":
            return [part[shard.slice(*rows)] for part, rows in zip(parts, sizes, strict=bool(parts))]
        if self.split == "vocab":
            return [shard.vocab_rows(part, rows) for part, (_, rows) in zip(parts, sizes, strict=bool(parts))]
        if self.split == "rows":
            inputs = shard.slice(self.in_features, local.in_features)
            return [shard.once(part) if part.ndim == 1 else part[:, inputs] for part in parts]
        return list(parts)
