"""The cuda backend: portable Triton kernels and flashinfer on one GPU, decode and mixed steps as graphs."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from zif.contract.backend import Capabilities, ConfigChange
from zif.contract.comm import ONE_DEVICE, Communicator, Group
from zif.contract.errors import InvalidSettings
from zif.contract.info import Device
from zif.contract.kernel import KernelSet
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
EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2")
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
        if device.facts().capability >= OLDEST_EIGHT_BITS:
            self.capabilities = replace(self.capabilities, cache_dtypes=EIGHT_BITS)
        portable = _portable(device, self.capabilities.cache_dtypes)
        self._choices, own = _own(device, tune, communicator.size)
        planned = FlashinferAttention(device, flashinfer, portable, executables.captures)
        self._kernels = (*own, planned, *portable, TorchReference())

    def kernels(self) -> Sequence[KernelSet]:
        return self._kernels

    def tune(self) -> None:
        """Measure the linears that programs run from now on, unless that is switched off (cuda.tune=off)."""
        if self._choices is not None:
            self._choices.measure()

    def resolve_config(self, config: Mapping[str, Any]) -> Sequence[ConfigChange]:
        """Changes nothing. Raises InvalidSettings for a cache of eight bits on a GPU that cannot convert them."""
        if config["kv_cache_dtype"] in set(EIGHT_BITS) - set(self.capabilities.cache_dtypes):
            major, minor = self._device.facts().capability
            raise InvalidSettings(
                "--kv-cache-dtype fp8_e4m3 and fp8_e5m2 need a GPU of compute capability 8.9 or later (Ada, Hopper, "
                f"Blackwell), and this one has {major}.{minor}; leave it at auto"
            )
        return ()


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


def _portable(device: CudaDevice, cache_dtypes: tuple[str, ...]) -> tuple[KernelSet, ...]:
    """The portable Triton kernels, where there is Triton."""
    if importlib.util.find_spec("triton") is None:
        return ()
    from zif.portable.triton import Machine, TritonKernels
    from zif_cuda.launching import launch_for

    facts = device.facts()
    machine = Machine(facts.processors, facts.shared_bytes, cache_dtypes)
    return (TritonKernels(machine, launch_for(facts.capability)),)
