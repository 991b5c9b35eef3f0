"""The cuda backend's hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zif.contract import BackendInfo, Device, DeviceOption, ProbeResult, hookimpl

if TYPE_CHECKING:
    from zif.contract import Backend, Group


@hookimpl
def zif_backend_info() -> BackendInfo:
    """NVIDIA GPUs, through torch."""
    return BackendInfo(
        name="cuda",
        summary="NVIDIA GPUs of compute capability 8.0 and later; cuBLAS, Triton, flashinfer, CUDA graphs",
        api=(1, 1),
        framework="torch",
        verified_on="two H100, two H200",
        preference=100,
        ranks="processes",
    )


@hookimpl
def zif_cli_options() -> Sequence[DeviceOption]:
    """``cuda.graphs``, ``cuda.flashinfer`` and ``cuda.tune``."""
    return [
        DeviceOption(
            name="graphs", summary="decode and small mixed steps as CUDA graphs, or all op by op", default="on",
            choices=("on", "off"),
        ),
        DeviceOption(
            name="flashinfer", summary="its attention where it is installed, or none of it", default="auto",
            choices=("auto", "off"),
        ),
        DeviceOption(
            name="tune",
            summary="linears of few tokens: as measured by `zif warmup`, as measured then or now, or by rule",
            default="auto", choices=("auto", "on", "off"),
        ),
    ]  # fmt: skip


@hookimpl
def zif_environment() -> Mapping[str, str]:
    """GPUs are numbered as NVML and nvidia-smi number them, not by speed."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@hookimpl
def zif_probe() -> ProbeResult:
    """Ask the driver; no CUDA context is made."""
    from zif_cuda.probe import probe

    return probe()


@hookimpl
def zif_create_backend(options: Mapping[str, str], device: Device, group: Group | None) -> Backend:
    """The backend; torch is imported from here on."""
    from zif_cuda.backend import create

    return create(options, device, group)
