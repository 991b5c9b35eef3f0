"""What a plugin brings: a :class:`Backend` object. Nothing about it is global; two can live in one process.

Inherit from these protocols (or from a framework reference's classes, which do the same): a member
that a later API version adds comes with a body in the protocol, and so reaches every plugin that was
written before it. A member without a body is required from version 1 on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zif.contract.arrays import Array, ArraySpec
from zif.contract.cache import CacheFormat
from zif.contract.comm import ONE_DEVICE, Communicator
from zif.contract.executable import Executables, Fetch
from zif.contract.kernels import KernelSet
from zif.contract.packer import Packer


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Frozen facts that core plans with.

    ``dtypes``: activation dtypes, best first. ``page_sizes``: those the kernels take, best first;
    empty for any. ``asynchronous``: launches return before the device is done, so that overlap
    pays. ``fuse_sampling``: sampling may be compiled into the programs of decode steps and of captured mixed
    ones. ``warm_up``: these programs are to be compiled and run before the first request. ``cache_share``: the share
    that the KV cache takes by default of what ``mem_fraction_static`` leaves it; below 1 where the memory is not the
    device's alone but that of a machine which others use too. The rest are defaults of the settings of the same names.
    """

    dtypes: tuple[str, ...]
    page_sizes: tuple[int, ...] = ()
    asynchronous: bool = True
    fuse_sampling: bool = True
    warm_up: bool = False
    max_running_requests: int = 256
    chunked_prefill_size: int = 2048
    mem_fraction_static: float = 0.88
    cache_share: float = 1.0


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Bytes that the device has, and that are free for this process now."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A setting that the backend wants otherwise, and why; core applies and reports it."""

    field: str
    value: Any
    reason: str


class Runtime(Protocol):
    """Memory and transfers of one device."""

    def put(self, host: np.ndarray[Any, Any]) -> Array:
        """A device array with the host array's contents, shape and dtype."""
        ...

    def zeros(self, spec: ArraySpec) -> Array: ...

    def fetch(self, arrays: Mapping[str, Array]) -> Fetch:
        """Start copying outputs of executables to the host, ordered after all that was launched before.

        Outputs only: a resident may be consumed by a later run before the copy is done.
        """
        ...

    def memory(self) -> MemoryInfo: ...

    def synchronize(self) -> None:
        """Wait until the device has done all that was launched."""
        ...


class Backend(Protocol):
    """One accelerator kind, made by a plugin's ``zif_create_backend``. Inherit from it: what is added later has a body.

    ``communicator`` is that of the group that it was created for.
    """

    name: str
    capabilities: Capabilities
    runtime: Runtime
    packer: Packer
    executables: Executables
    communicator: Communicator = ONE_DEVICE

    def resolve_config(self, config: Mapping[str, Any]) -> Sequence[ConfigChange]:
        """What the backend would have otherwise in resolved engine settings; changes nothing itself."""
        ...

    def tune(self) -> None:
        """Measure, in the programs that are run from now on, what there is to choose from, and keep it on disk.

        ``zif warmup`` asks for it; otherwise what was kept is taken, or a default. Of ranks that are processes each
        is asked, and may choose otherwise than the others where a weight is split, which changes how its own addends
        and columns are rounded. What is whole on each has to come out with the same bits on all.
        """

    def kernels(self) -> Sequence[KernelSet]:
        """Providers in order of preference; the last is the framework reference."""
        ...

    def cache_formats(self) -> Sequence[CacheFormat]:
        """The formats that it stores cache groups in, in order of preference; one of each of its dtypes' names."""
        ...
