"""The cuda backend: portable Triton kernels and flashinfer on one GPU, decode and mixed steps as graphs."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zif.contract import (
    EIGHT_BITS,
    ONE_DEVICE,
    CacheFormat,
    CacheGroup,
    Capabilities,
    Communicator,
    Device,
    Group,
    KernelSet,
    PlainFormat,
    plain_formats,
)
from zif.reference.host import user_cache
from zif.reference.torch.backend import TorchBackend
from zif.reference.torch.reference import TorchReference
from zif_cuda.communicator import NcclCommunicator
from zif_cuda.device import CudaDevice
from zif_cuda.executables import CudaExecutables
from zif_cuda.flashinfer_attention import FlashinferAttention
from zif_cuda.flashinfer_modules import missing
from zif_cuda.packing import CudaPacker
from zif_cuda.runtime import CudaRuntime

if TYPE_CHECKING:
    from zif_cuda.tuning import Choices

logger = logging.getLogger(__name__)
Tuning = Literal["auto", "on", "off"]
OLDEST_EIGHT_BITS = (8, 9)
"""The first compute capability that converts them."""


class CudaBackend(TorchBackend):
    """One GPU. ``flashinfer`` says why flashinfer is not used, None where it is; ``tune`` how linears are chosen."""

    name = "cuda"
    capabilities = Capabilities(
        dtypes=("bfloat16", "float16", "float32"),
        page_sizes=(16, 1, 2, 4, 8, 32, 64, 128),
        chunked_prefill_size=8192,
        warm_up=True,
        max_running_requests=256,
    )

    def __init__(
        self,
        device: CudaDevice,
        *,
        graphs: bool = True,
        flashinfer: str | None = None,
        tune: Tuning = "auto",
        communicator: Communicator = ONE_DEVICE,
    ) -> None:
        self._device = device
        self.communicator = communicator
        runtime = CudaRuntime(device)
        super().__init__(runtime)
        self.packer = CudaPacker(runtime)
        executables = CudaExecutables(device, graphs=graphs)
        self.executables = executables  # type: ignore[assignment]
        portable = _portable(device)
        self._choices, own = _own(device, tune, communicator.size)
        planned = FlashinferAttention(device, flashinfer, portable, executables.captures)
        self._kernels = (*own, planned, *portable, TorchReference())

    def kernels(self) -> Sequence[KernelSet]:
        return self._kernels

    def tune(self) -> None:
        """Measure the linears that programs run from now on, unless that is switched off (cuda.tune=off)."""
        if self._choices is not None:
            self._choices.measure()

    def cache_formats(self) -> Sequence[CacheFormat]:
        """Plain ones. Those of eight bits are listed on every GPU, and say what they need where it lacks that."""
        wide = self.capabilities.dtypes
        return (*plain_formats(*wide), *(EightBits(name, self._device.facts().capability) for name in EIGHT_BITS))


@dataclass(frozen=True)
class EightBits(PlainFormat):
    """A plain format of eight bits, on a GPU of this compute capability."""

    capability: tuple[int, int]

    def refusal(self, group: CacheGroup, page_size: int) -> str | None:
        if self.capability >= OLDEST_EIGHT_BITS:
            return None
        major, minor = self.capability
        return (
            "fp8_e4m3 and fp8_e5m2 need a GPU of compute capability 8.9 or later (Ada, Hopper, Blackwell), and this "
            f"one has {major}.{minor}"
        )


def create(options: Mapping[str, str], device: Device, group: Group | None = None) -> CudaBackend:
    """The backend for options ``graphs``, ``flashinfer`` and ``tune``, as a rank of ``group``."""
    gpu = CudaDevice(device.index)
    off = options.get("flashinfer") == "off"
    refusal = "flashinfer is switched off (cuda.flashinfer=off)" if off else missing()
    tune: Any = options.get("tune", "auto")
    graphs = options.get("graphs") != "off"
    communicator = NcclCommunicator(gpu, group) if group is not None else ONE_DEVICE
    return CudaBackend(gpu, graphs=graphs, flashinfer=refusal, tune=tune, communicator=communicator)


def _own(device: CudaDevice, tune: Tuning, ranks: int) -> tuple[Choices | None, tuple[KernelSet, ...]]:
    """The backend's own kernels, and what chooses among them, where there is Triton."""
    if importlib.util.find_spec("triton") is None:
        return None, ()
    from zif.portable.triton import Machine
    from zif_cuda.launching import launch_for
    from zif_cuda.linears import CudaLinears
    from zif_cuda.timing import LinearTimer
    from zif_cuda.tuning import Choices, TuningFile

    facts = device.facts()
    launch, gpu = launch_for(facts.capability), Machine(facts.processors, facts.shared_bytes)
    if tune == "off":
        choices = Choices(gpu)
    else:
        try:
            file = TuningFile(user_cache() / "zif" / "cuda", device.description())
        except OSError as error:  # a user without a home
            logger.warning("what is measured of linears is not kept: %s", error)
            file = None
        choices = Choices(gpu, file, LinearTimer(launch, device))
        if tune == "on":
            choices.measure()
    return choices, (CudaLinears(launch, choices, ranks),)


def _portable(device: CudaDevice) -> tuple[KernelSet, ...]:
    """The portable Triton kernels, where there is Triton."""
    if importlib.util.find_spec("triton") is None:
        return ()
    from zif.portable.triton import Machine, TritonKernels
    from zif_cuda.launching import launch_for

    facts = device.facts()
    narrow = tuple(EIGHT_BITS.values()) if facts.capability >= OLDEST_EIGHT_BITS else ()
    machine = Machine(facts.processors, facts.shared_bytes, narrow)
    return (TritonKernels(machine, launch_for(facts.capability)),)
