"""What every weight of a model knows of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, Self

from zif.contract.arrays import Tree
from zif.contract.opspec import OpRequest
from zif.contract.weights.encoded import Encoded
from zif.contract.weights.packed import PackedWeight, Split, packed_weights
from zif.contract.weights.shard import HostArray, Shard

if TYPE_CHECKING:
    from zif.contract.packer import Packer

Shape = tuple[int, ...]


class Loading(Protocol):
    """What a spec packs itself with: the loading of one rank's share of a checkpoint."""

    @property
    def packer(self) -> Packer: ...
    @property
    def dtype(self) -> str:
        """The one that the model computes in."""
        ...

    @property
    def shard(self) -> Shard: ...

    def read(self, name: str, shape: Shape) -> HostArray:
        """The whole tensor ``name``: a read-only view of a mapped file, there until its spec is packed, or decoded."""
        ...

    def encoded(self, name: str, shape: Shape) -> Encoded | None:
        """The tensor as the checkpoint stores it, None where that is a plain one. ``read`` decodes it."""
        ...

    def tree(self, specs: Tree, local: Tree) -> Tree:
        """Packed weights in the place of ``specs``; ``local`` are the rank's."""
        ...


class WeightSpec(ABC):
    """A weight that a model declares: what a checkpoint stores of it, a rank's share, its packing, its readers.

    A new kind of weight is a subclass, and maybe a method of :class:`zif.contract.packer.Packer`; nothing else in
    core asks what kind a spec is. Kinds are frozen dataclasses.
    """

    __slots__ = ()

    @property
    def split(self) -> Split | None:
        """How tensor parallelism divides it; None where every rank has the whole."""
        return None

    @property
    def tied(self) -> str | None:
        """The weight in the same dict whose storage it shares: it is packed after that one."""
        return None

    @abstractmethod
    def stored(self) -> Mapping[str, Shape]:
        """The tensors that it is made of, by the names that models give them, with their shapes in a checkpoint."""

    @abstractmethod
    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Tree]) -> Tree:
        """Its packed form, of this rank's share.

        ``local`` is the spec of the share, equal to this one where nothing is divided. ``beside`` has what the
        other weights of its dict were packed to, if it is ``tied``.
        """

    def share(self, size: int) -> Self:
        """The spec of one of ``size`` ranks, as far as :meth:`zif.contract.model.Model.local` leaves it whole: the
        vocabulary is divided here, rounded up, so that the last ranks' rows may be padding.
        """
        return self

    def per_token(self) -> int:
        """How many of its numbers each token of a step is multiplied with."""
        return 0

    def requests(self, packed: Tree, dtype: str) -> Iterator[OpRequest]:
        """Those of the ops that read what it was packed to, for activations in ``dtype``."""
        for _, weight in packed_weights(packed):
            yield from self.read_by(weight, dtype)

    def read_by(self, weight: PackedWeight, dtype: str) -> Iterator[OpRequest]:
        """Those of the ops that read ``weight``, which is this one packed, or what it wraps."""
        yield from ()

    def repeated_names(self) -> tuple[str, ...]:
        """Tensors that a checkpoint may hold besides, and that are not read: they repeat those of another weight."""
        return ()


def named_specs(specs: Tree, name: str = "") -> Iterator[tuple[str, WeightSpec]]:
    """(the innermost dict's key, spec) of all specs in a tree."""
    if isinstance(specs, WeightSpec):
        yield name, specs
    elif isinstance(specs, dict):
        for key, child in specs.items():
            yield from named_specs(child, key)
    else:
        for child in specs:
            yield from named_specs(child, name)


def shares(specs: Tree, size: int) -> Tree:
    """A tree of specs as one of ``size`` ranks has it: see :meth:`WeightSpec.share`."""
    if isinstance(specs, WeightSpec):
        return specs.share(size)
    if isinstance(specs, dict):
        return {key: shares(child, size) for key, child in specs.items()}
    return type(specs)(shares(child, size) for child in specs)
