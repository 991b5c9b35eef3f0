"""Array ops, and ``repeat`` as a scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zif.contract.arrays import Tree
from zif.contract.kernels import KernelSet, kernel
from zif.reference.jax.runtime import jax_dtype
from zif.reference.jax.trees import Runs, register_trees

Array = jax.Array
Block = Callable[[Tree, Tree, Any], Tree]


class JaxArrays(KernelSet):
    """Array ops. ``put`` and ``add_at`` update in place where the compiler sees that the target is consumed."""

    level = 1

    @kernel("where")
    def where(self, condition: Array, x: Any, y: Any) -> Array:
        return jnp.where(condition, x, y)

    @kernel("arange")
    def arange(self, size: int, like: Array) -> Array:
        return jnp.arange(size, dtype=jnp.int32)

    @kernel("cast")
    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(jax_dtype(dtype))

    @kernel("put")
    def put(self, target: Array, index: tuple[Array, ...], values: Any) -> Array:
        return target.at[index].set(jnp.asarray(values).astype(target.dtype))

    @kernel("add_at")
    def add_at(self, target: Array, index: tuple[Array, ...], values: Any) -> Array:
        return target.at[index].add(jnp.asarray(values).astype(target.dtype))

    @kernel("concat")
    def concat(self, parts: Sequence[Array]) -> Array:
        return jnp.concatenate(parts, axis=-1)

    @kernel("repeat")
    def repeat(self, block: Block, stacked: Runs, carry: Tree, start: int, stop: int) -> Tree:
        """A scan a run of alike layers. Compile time grows with the runs, not with the layers."""
        register_trees()
        first = 0
        for layers, length in zip(stacked.stacks, stacked.lengths, strict=True):
            low, high = max(start, first), min(stop, first + length)
            if low < high:
                carry = _scan(block, layers, first, carry, low, high)
            first += length
        return carry


def _scan(block: Block, layers: Tree, first: int, carry: Tree, start: int, stop: int) -> Tree:
    """Layers [start, stop), of which ``first`` is the first of the stack ``layers``.

    A scan's carry keeps its structure. A block whose first turn changes it (a plain sum becomes a
    partial one, None an array) has that turn outside.
    """

    def layer(i: Any) -> Tree:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i - first, keepdims=False), layers)

    def turn(carry: Tree, i: Any) -> tuple[Tree, None]:
        return block(layer(i), carry, i), None

    if stop - start > 1 and _structure(carry) == _structure(jax.eval_shape(turn, carry, start)[0]):
        return jax.lax.scan(turn, carry, jnp.arange(start, stop, dtype=jnp.int32))[0]
    carry, _ = turn(carry, start)
    if stop - start == 1:
        return carry
    return jax.lax.scan(turn, carry, jnp.arange(start + 1, stop, dtype=jnp.int32))[0]


def _structure(carry: Tree) -> Any:
    leaves, structure = jax.tree.flatten(carry)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
