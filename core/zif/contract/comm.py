"""Tensor parallelism: how ranks talk, and what core passes between them.

Every rank runs the same model with its own slice of each weight (:attr:`zif.contract.weights.LinearSpec.split`),
its own heads and its own cache; what a step stages, samples and keeps in the request table is the same on all. A
backend brings the transport, a :class:`Communicator`; core calls it (:mod:`zif.parallel`), models never do.

A rank is a process of its own, or, where one process drives a whole mesh (JAX), a shard of one traced program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zif.contract.arrays import Array, Tree, tree
from zif.contract.form import Form
from zif.contract.info import Device
from zif.contract.packer import Packer


@dataclass(frozen=True, slots=True)
class Group:
    """The ranks that a backend is created as part of; given to ``zif_create_backend`` where there are several.

    ``devices`` has the device of each rank. Where ranks are processes, this process is ``rank``, and ``store`` is
    a directory, empty at first and readable to all ranks, in which they may leave each other the address at
    which they meet. Of a mesh, ``rank`` is 0 and ``store`` is empty.
    """

    rank: int
    devices: tuple[Device, ...]
    store: str = ""

    @property
    def size(self) -> int:
        return len(self.devices)


@tree()
@dataclass(frozen=True)
class Partial:
    """What ``linear`` of a weight split by rows returns, and ``moe``: this rank's addend of a sum over ranks.

    To a model it is opaque. A kernel that takes it (``takes={"x": (PARTIAL,)}``) does the reduction itself, by its
    backend's communicator.
    """

    addend: Array


PARTIAL = Form("partial", Partial)
"""What core gives of ``linear`` and ``moe`` where ranks share the weight. Ops that do not take it get it reduced."""


class Communicator(Protocol):
    """Collectives over the ranks of a group, called inside programs, by all ranks in the same order.

    Where programs are captured, they are captured with them. ``rank`` may be a traced integer: compute with it,
    never branch on it. Bodies are those of one process a rank.
    """

    size: int
    rank: Any

    def all_reduce(self, x: Array) -> Array:
        """The sum over ranks, in x's dtype; the same bits on each. Consumes ``x``: it may be the result's memory."""
        ...

    def all_gather(self, x: Array) -> Array:
        """Arrays of all ranks joined along their last axis, in the order of ranks."""
        ...

    def packers(self, packer: Packer) -> Mapping[int, Packer]:
        """The ranks whose weights this process holds, each with what packs for it; ``packer`` is the backend's."""
        return {self.rank: packer}

    def join(self, trees: Sequence[Tree]) -> Tree:
        """Packed weights of those ranks, in the order of ``packers``, as the one resident that programs are run on."""
        (only,) = trees
        return only

    def close(self) -> None:
        """Nothing is called any more. Waits neither for other ranks, which may be gone, nor for programs."""
        return


class OneDevice(Communicator):
    """A group of one."""

    size = 1
    rank = 0

    def all_reduce(self, x: Array) -> Array:
        return x

    def all_gather(self, x: Array) -> Array:
        return x


ONE_DEVICE = OneDevice()
