"""The cuda backend: portable Triton kernels and flashinfer on one GPU, decode steps as graphs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from zif.contract.backend import Capabilities
from zif.contract.info import Device
from zif.contract.kernel import KernelSet
from zif.reference.torch.backend import TorchBackend
from zif.reference.torch.reference import TorchReference
from zif_cuda.device import CudaDevice
from zif_cuda.executables import CudaExecutables
from zif_cuda.flashinfer_attention import FlashinferAttention, missing
from zif_cuda.kernels import CudaKernels
from zif_cuda.packing import CudaPacker
from zif_cuda.runtime import CudaRuntime


class CudaBackend(TorchBackend):
    """One GPU. ``flashinfer`` says why flashinfer is not used, None where it is."""

    name = "cuda"
    capabilities = Capabilities(
        dtypes=("bfloat16", "float16", "float32"),
        page_sizes=(16, 1, 2, 4, 8, 32, 64, 128),
        chunked_prefill_size=8192,
        warm_up=True,
        max_running_requests=256,
    )

    def __init__(self, device: CudaDevice, *, graphs: bool = True, flashinfer: str | None = None) -> None:
        runtime = CudaRuntime(device)
        super().__init__(runtime)
        self.packer = CudaPacker(runtime)
        self.executables = CudaExecutables(device, graphs=graphs)  # type: ignore[assignment]
        portable = _portable(device)
        self._kernels = (CudaKernels(), FlashinferAttention(device, flashinfer, portable), *portable, TorchReference())

    def kernels(self) -> Sequence[KernelSet]:
        return self._kernels


def create(options: Mapping[str, str], device: Device) -> CudaBackend:
    """The backend for options ``graphs`` and ``flashinfer``."""
    off = options.get("flashinfer") == "off"
    refusal = "flashinfer is switched off (cuda.flashinfer=off)" if off else missing()
    return CudaBackend(CudaDevice(device.index), graphs=options.get("graphs") != "off", flashinfer=refusal)


def _portable(device: CudaDevice) -> tuple[KernelSet, ...]:
    """The portable Triton kernels, where there is Triton."""
    if importlib.util.find_spec("triton") is None:
        return ()
    from zif.portable.triton import Machine, TritonKernels
    from zif_cuda.launching import launch_for

    facts = device.facts()
    narrow = ("float8_e4m3fn", "float8_e5m2") if facts.capability >= (8, 9) else ()
    machine = Machine(facts.processors, facts.shared_bytes, narrow)
    return (TritonKernels(machine, launch_for(facts.capability)),)
