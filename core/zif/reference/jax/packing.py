"""Weights as JAX arrays in the checkpoint's own layout: format ``dense``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zif.contract.arrays import Tree
from zif.contract.ops.draw import numpy_dtype
from zif.contract.weights import HostArray
from zif.reference.jax.runtime import JaxRuntime
from zif.reference.jax.trees import Runs, register_trees
from zif.reference.packing import DensePacker


class JaxPacker(DensePacker):
    """Packs to ``dense``; layers are stacked in runs, for ``repeat`` to scan over."""

    def __init__(self, runtime: JaxRuntime) -> None:
        self.runtime = runtime
        register_trees()

    def stack(self, layers: Sequence[Tree]) -> Runs:
        """Layers in runs of alike packing. Their own arrays are given back as soon as they are stacked."""
        register_trees()
        runs = runs_of(layers)
        return Runs(tuple(self._stacked(run) for run in runs), tuple(len(run) for run in runs))

    def rows(self, parts: Iterable[HostArray], shape: tuple[int, ...], dtype: str) -> jax.Array:
        """See :class:`DensePacker`."""
        parts = iter(parts)
        first = next(parts)
        if first.shape == shape:
            return self.runtime.put(first.astype(numpy_dtype(dtype), copy=False))
        host, row = np.empty(shape, numpy_dtype(dtype)), 0
        for part in chain((first,), parts):
            host[row : row + len(part)] = part
            row += len(part)
        assert row == shape[0], f"{shape[0]} rows were declared and {row} came"
        host.flags.writeable = False  # nobody else has it: the device's memory may be this
        return self.runtime.put(host)

    def _stacked(self, layers: list[Tree]) -> Tree:
        """One leaf after another, so that no more than one of them is there twice."""
        structure = jax.tree.structure(layers[0])
        every = zip(*(jax.tree.leaves(layer) for layer in layers), strict=True)
        return jax.tree.unflatten(structure, [self.stacked_leaf(leaves) for leaves in every])

    def stacked_leaf(self, leaves: Sequence[jax.Array]) -> jax.Array:
        """One array [layers, ...] of ``leaves``, which it consumes."""
        stacked = jnp.stack(leaves).block_until_ready()
        for leaf in leaves:
            leaf.delete()
        return stacked


def runs_of(layers: Sequence[Tree]) -> list[list[Tree]]:
    """Consecutive layers that are packed alike."""
    return [list(run) for _, run in groupby(layers, key=_likeness)]


def _likeness(layer: Tree) -> Any:
    leaves, structure = jax.tree.flatten(layer)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
