"""Tensor parallelism over a mesh: one process, and every program a ``shard_map`` over all of its devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from zif.contract.arrays import Tree
from zif.contract.comm import Communicator
from zif.contract.packer import Packer
from zif.reference.jax.runtime import RANKS, JaxRuntime
from zif.reference.jax.trees import register_trees


class MeshCommunicator(Communicator):
    """The collectives of the devices of a runtime, as XLA has them; called in programs alone."""

    def __init__(self, runtime: JaxRuntime) -> None:
        assert runtime.mesh is not None, "one device talks to nobody"
        self.size = len(runtime.devices)
        self._runtime = runtime

    @property
    def rank(self) -> Any:
        """A traced number, another on each device."""
        return jax.lax.axis_index(RANKS)

    def all_reduce(self, x: Any) -> Any:
        return jax.lax.psum(x, RANKS)  # type: ignore[no-untyped-call]

    def all_gather(self, x: Any) -> Any:
        return jax.lax.all_gather(x, RANKS, axis=x.ndim - 1, tiled=True)

    def packers(self, packer: Packer) -> Mapping[int, Packer]:
        """A packer of the same kind for each device, whose part is packed there."""
        kind: Any = type(packer)
        return {rank: kind(alone) for rank, alone in enumerate(self._runtime.each())}

    def join(self, trees: Sequence[Tree]) -> Tree:
        """An array each of what the devices hold already: nothing is copied."""
        register_trees()
        return jax.tree.map(lambda *parts: self._runtime.joined(parts), *trees)
