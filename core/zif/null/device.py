"""The simulated device: its clock, its memory, and handles to arrays that hold nothing.

The device runs one thing after another. Its clock is real time: a run that is launched at t ends at
max(t, end of the run before) + its duration, and whoever waits sleeps until then. No thread is
needed, and host work overlaps with the device's as it would with a real one.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract.arrays import TREE_TYPES, ArraySpec, Tree, tree_leaves
from zif.contract.errors import InvalidSettings, OutOfMemory


@dataclass(frozen=True, slots=True)
class NullOptions:
    """The plugin's options, parsed. ``token`` None means: a hash of the staged inputs."""

    step_ms: float = 0.0
    token: int | None = 7
    memory_mb: int = 1024
    ring: int = 2
    fail_at: int = 0
    fail_in: str = "wait"
    hang_at: int = 0

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> NullOptions:
        """From ``--device-opt`` values. Raises :class:`InvalidSettings` that names the option."""

        def number(name: str, kind: type[float] | type[int], low: int) -> Any:
            try:
                value = kind(options[name])
            except ValueError:
                value = kind(low - 1)
            if value < low:
                raise InvalidSettings(f"--device-opt null.{name}={options[name]}: must be a number of at least {low}")
            return value

        return cls(
            step_ms=number("step_ms", float, 0),
            token=None if options["token"] == "hash" else number("token", int, 0),
            memory_mb=number("memory_mb", int, 1),
            ring=number("ring", int, 1),
            fail_at=number("fail_at", int, 0),
            fail_in=options["fail_in"],
            hang_at=number("hang_at", int, 0),
        )


class Storage:
    """What would be memory on the device. Each time its contents are replaced, ``generation`` rises.

    ``owner`` says in words whose it is; ``ended`` what became of the generation before. ``seed`` is
    what made-up contents are derived from; None reads as zeros.
    """

    __slots__ = ("__weakref__", "device", "ended", "generation", "nbytes", "owner", "seed")

    def __init__(self, device: NullDevice, owner: str, nbytes: int) -> None:
        self.device = device
        self.owner = owner
        self.seed: int | None = None
        self.nbytes = nbytes
        self.generation = 0
        self.ended = ""

    def renew(self, why: str) -> None:
        """Make every handle of the present generation stale."""
        self.generation += 1
        self.ended = why


@dataclass(frozen=True, slots=True, eq=False)
class NullArray:
    """A handle to one generation of a storage. It has a shape and a dtype, and nothing else.

    Programs never run here, so arithmetic on it is not defined: an attempt shows device work
    outside an executable.
    """

    storage: Storage
    generation: int
    spec: ArraySpec

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def ndim(self) -> int:
        return len(self.spec.shape)

    @property
    def dtype(self) -> str:
        return self.spec.dtype


class NullDevice:
    """One device's memory and clock."""

    def __init__(self, options: NullOptions) -> None:
        self.options = options
        self.total = options.memory_mb << 20
        self.runs = 0
        self.failure: str | None = None
        self._output_bytes = 0
        self._free_at = 0.0
        self._storages: weakref.WeakSet[Storage] = weakref.WeakSet()
        self._retiring: deque[tuple[float, Callable[[], None]]] = deque()

    # --- memory ---

    @property
    def used(self) -> int:
        """Bytes of every storage that is still referred to, and of the outputs of the runs in flight."""
        return sum(storage.nbytes for storage in self._storages) + self._output_bytes

    def allocate(self, owner: str, spec: ArraySpec) -> NullArray:
        """A new array. Raises OutOfMemory where a device of this size would."""
        # Counting is slow, and small arrays come by the hundred: they are counted when a large one is asked for.
        if spec.nbytes >= 1 << 16:
            self._check_room(owner, spec.nbytes)
        return self._array(owner, spec, spec.nbytes)

    def allocate_outputs(self, owner: str, outputs: Mapping[str, ArraySpec]) -> dict[str, NullArray]:
        """New arrays for what runs of ``owner``, an executable, give. Raises OutOfMemory, as :meth:`allocate` does.

        All executables share one pool for their outputs. It has room for the largest, once for each run in flight.
        """
        pool = max(self._output_bytes, self.options.ring * sum(spec.nbytes for spec in outputs.values()))
        if pool > self._output_bytes:
            self._check_room(f"the outputs of {owner}", pool - self._output_bytes)
            self._output_bytes = pool
        return {key: self._array(f"output {key!r} of {owner}", spec, 0) for key, spec in outputs.items()}

    def _array(self, owner: str, spec: ArraySpec, nbytes: int) -> NullArray:
        storage = Storage(self, owner, nbytes)
        self._storages.add(storage)
        return NullArray(storage, 0, spec)

    def _check_room(self, owner: str, nbytes: int) -> None:
        free = max(0, self.total - self.used)
        if nbytes > free:
            raise OutOfMemory(
                f"null device: {owner} asks for {nbytes / 2**20:.1f} MiB, {free / 2**20:.1f} of "
                f"{self.options.memory_mb} are free; raise --device-opt null.memory_mb"
            )

    def check(self, root: Tree, where: str) -> None:
        """Assert that every leaf is an array of this device whose contents are still what they were."""
        for leaf in tree_leaves(root):
            fine = type(leaf) is NullArray and leaf.storage.device is self
            if not fine or leaf.generation != leaf.storage.generation:
                raise AssertionError(f"null device: {self._fault(root, leaf, where)}")

    def _fault(self, root: Tree, leaf: Any, where: str) -> str:
        place = where + next(path for path, value in _paths(root) if value is leaf)
        if not isinstance(leaf, NullArray):
            return f"{place} is {_describe(leaf)}: not staged through an executable, nor a resident it knows"
        if leaf.storage.device is not self:
            return f"{place} ({leaf.storage.owner}) belongs to another device"
        return f"{place} is a stale handle of {leaf.storage.owner}: {leaf.storage.ended}"

    # --- time ---

    def launch(self, seconds: float, retire: Callable[[], None]) -> float:
        """Queue a run of ``seconds``; returns when it ends, and calls ``retire`` some time after that."""
        self.settle()
        self.runs += 1
        if self.runs == self.options.fail_at:
            self.failure = f"null device: run {self.runs} failed, as null.fail_at asked\nand more, for programmers"
            if self.options.fail_in == "run":
                raise RuntimeError(self.failure)
        if self.runs == self.options.hang_at:
            self._free_at = float("inf")
        self._free_at = max(time.perf_counter(), self._free_at) + seconds
        self._retiring.append((self._free_at, retire))
        return self._free_at

    @property
    def free_at(self) -> float:
        """When all that was launched will have ended, on ``time.perf_counter``'s clock."""
        return self._free_at

    def settle(self) -> None:
        """Retire the runs that have ended by now."""
        now = time.perf_counter()
        while self._retiring and self._retiring[0][0] <= now:
            self._retiring.popleft()[1]()

    def passed(self, moment: float) -> bool:
        """Whether ``moment`` is over."""
        self.settle()
        return time.perf_counter() >= moment

    def wait_until(self, moment: float) -> None:
        """Sleep until ``moment``. Raises RuntimeError if the device has broken."""
        while (left := moment - time.perf_counter()) > 0:
            time.sleep(min(left, 3600.0))
        self.settle()
        if self.failure is not None:
            raise RuntimeError(self.failure)


def _paths(root: Tree) -> Iterator[tuple[str, Any]]:
    """The leaves of a tree, each with its path as Python would write it."""
    if root is None:
        return
    if isinstance(root, dict):
        children = [(f"[{key!r}]", value) for key, value in root.items()]
    elif isinstance(root, tuple | list):
        children = [(f"[{index}]", value) for index, value in enumerate(root)]
    elif (kind := TREE_TYPES.get(type(root))) is not None:
        children = [(f".{name}", getattr(root, name)) for name in kind.data]
    else:
        yield "", root
        return
    for step, child in children:
        for path, leaf in _paths(child):
            yield step + path, leaf


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"a host array of {value.dtype} {value.shape}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"
