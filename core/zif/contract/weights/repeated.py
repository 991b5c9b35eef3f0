"""Layers that differ in names alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from zif.contract.arrays import Tree
from zif.contract.opspec import OpRequest
from zif.contract.weights.packed import packed_weights
from zif.contract.weights.spec import Loading, Shape, WeightSpec, named_specs, shares


@dataclass(frozen=True)
class RepeatedSpec(WeightSpec):
    """``len(copies)`` trees of specs that differ in names alone: the body of a ``repeat``.

    Within them a dict key names one kind of weight: what a stack was packed to is known by it.
    """

    copies: Sequence[Tree]

    def stored(self) -> Mapping[str, Shape]:
        return {name: shape for spec in self._specs() for name, shape in spec.stored().items()}

    def share(self, size: int) -> Self:
        return replace(self, copies=shares(list(self.copies), size))

    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Tree]) -> Tree:
        pairs = zip(self.copies, local.copies, strict=True)
        return loading.packer.stack([loading.tree(*pair) for pair in pairs])

    def per_token(self) -> int:
        return sum(spec.per_token() for spec in self._specs())

    def requests(self, packed: Tree, dtype: str) -> Iterator[OpRequest]:
        specs: dict[str, WeightSpec] = {}
        for name, spec in named_specs(list(self.copies)):
            other = specs.setdefault(name, spec)
            both = f"{type(other).__name__} and {type(spec).__name__}"
            assert type(other) is type(spec), f"weights named {name!r} are {both}"
        for name, weight in packed_weights(packed):
            yield from specs[name].read_by(weight, dtype)

    def repeated_names(self) -> tuple[str, ...]:
        return tuple(name for spec in self._specs() for name in spec.repeated_names())

    def _specs(self) -> Iterator[WeightSpec]:
        for _, spec in named_specs(list(self.copies)):
            yield spec
