"""What a packer makes of a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from zif.contract.arrays import TREE_TYPES, Tree, tree

Split = Literal["columns", "rows", "vocab"]
"""How tensor parallelism divides a weight: its outputs, its inputs (results are partial sums), or the vocabulary."""


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


def packed_weights(root: Tree, name: str = "") -> Iterator[tuple[str, PackedWeight]]:
    """(the innermost dict's key, weight) of every PackedWeight in a tree, those that another wraps included.

    That key is what a weight's spec and what became of it have in common, whatever a backend made of
    the layers around it. A weight that another wraps goes by the other's name.
    """
    if isinstance(root, PackedWeight):
        yield name, root
        for array in root.arrays.values():
            yield from packed_weights(array, name)
    elif isinstance(root, dict):
        for key, child in root.items():
            yield from packed_weights(child, key)
    elif isinstance(root, tuple | list):
        for child in root:
            yield from packed_weights(child, name)
    elif (kind := TREE_TYPES.get(type(root))) is not None:
        for data in kind.data:
            yield from packed_weights(getattr(root, data), name)
