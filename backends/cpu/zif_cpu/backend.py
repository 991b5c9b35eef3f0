"""The cpu backend: the torch reference, with native kernels and packed weights where they can be had."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Mapping, Sequence

import torch

from zif.contract import (
    ONE_DEVICE,
    ArraySpec,
    Capabilities,
    Communicator,
    Device,
    Group,
    InvalidSettings,
    KernelSet,
    MemoryInfo,
    OutOfMemory,
)
from zif.reference.torch.backend import TorchBackend
from zif.reference.torch.runtime import TorchRuntime, torch_dtype
from zif_cpu.build import BuildFailed
from zif_cpu.kernels import NativeKernels
from zif_cpu.native import Native
from zif_cpu.packing import PanelPacker
from zif_cpu.threads import thread_count

logger = logging.getLogger(__name__)
LARGE_BYTES = 2**20
"""Zeros from which on they are reserved instead of written."""


class CpuBackend(TorchBackend):
    """One process's cores.

    Runs are complete when they return, so overlapping the host with them gains nothing. Without
    native kernels everything still works, through the reference: a warning says why, and so does
    ``zif devices --ops cpu``.
    """

    name = "cpu"
    capabilities = Capabilities(
        dtypes=("bfloat16", "float32"),
        asynchronous=False,
        cache_share=0.25,  # the rest of the memory is for whoever else uses the machine
    )

    def __init__(
        self, threads: int, native: Native | None, missing: str | None, communicator: Communicator = ONE_DEVICE
    ) -> None:
        super().__init__(CpuRuntime(communicator.size))
        self.communicator = communicator
        self.threads = threads
        self._kernels = NativeKernels(native, missing)
        if native is not None:
            self.packer = PanelPacker(self.runtime, native)

    def kernels(self) -> Sequence[KernelSet]:
        return (self._kernels, *super().kernels())


class CpuRuntime(TorchRuntime):
    """Host memory, of which each of ``ranks`` processes has a share."""

    def __init__(self, ranks: int) -> None:
        super().__init__("cpu")
        self._ranks = ranks

    def memory(self) -> MemoryInfo:
        host = super().memory()
        return MemoryInfo(host.total // self._ranks, host.free // self._ranks)

    def zeros(self, spec: ArraySpec) -> torch.Tensor:
        """Large ones are address space that the system fills with zeros page by page, as they are written.

        So a cache costs the memory that is used of it, and no start waits for gigabytes of zeros.
        """
        if spec.nbytes < LARGE_BYTES:
            return super().zeros(spec)
        try:
            pages = mmap.mmap(-1, spec.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise OutOfMemory(f"cpu: {spec.nbytes / 2**30:.1f} GiB cannot be reserved: {error.strerror}") from error
        return torch.frombuffer(pages, dtype=torch_dtype(spec.dtype)).view(spec.shape)


def create(options: Mapping[str, str], device: Device, group: Group | None = None) -> CpuBackend:
    """The backend for options ``threads`` (0: one a core) and ``native`` (auto, or off for torch alone).

    The ranks of a ``group`` are on the same cores, and share them.
    """
    communicator: Communicator = ONE_DEVICE
    threads = thread_count(options.get("threads", "0"))
    if group is not None:
        from zif.reference.torch.communicator import gloo

        communicator = gloo(group)
        threads = max(1, threads // group.size)
    torch.set_num_threads(threads)  # the reference kernels and ours share one pool
    choice = options.get("native", "auto")
    if choice not in ("auto", "off"):
        raise InvalidSettings(f"--device-opt cpu.native={choice}: give auto or off")
    if choice == "off":
        return CpuBackend(threads, None, "native kernels are switched off (cpu.native=off)", communicator)
    try:
        return CpuBackend(threads, Native(threads), None, communicator)
    except BuildFailed as failure:
        logger.warning("cpu: no native kernels; torch's serve instead, which are slower: %s", failure)
        return CpuBackend(threads, None, str(failure), communicator)
