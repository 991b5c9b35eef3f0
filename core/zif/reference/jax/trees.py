"""The contract's trees as JAX's, and a stack of layers as a scan runs over it."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from zif.contract.arrays import TREE_TYPES, Tree, tree

_registered: set[type] = set()


def register_trees() -> None:
    """Tell JAX of every ``@tree`` class that there is by now."""
    for kind in TREE_TYPES.values():
        if kind.cls not in _registered:
            _registered.add(kind.cls)
            jax.tree_util.register_dataclass(kind.cls, data_fields=kind.data, meta_fields=kind.static)


@tree(static=("lengths",))
@dataclass(frozen=True)
class Runs:
    """Layers for ``repeat``: consecutive ones that are packed alike are stacked, leaf by leaf.

    ``stacks`` [i] is the tree of one layer with ``lengths[i]`` as a leading extent of every leaf. As
    many layers as there are, a program has as many loops as there are runs.
    """

    stacks: tuple[Tree, ...]
    lengths: tuple[int, ...]
