"""The cpu backend's hooks: found through an entry point, as any other plugin is."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zif.contract import Available, BackendInfo, Device, DeviceOption, ProbeResult, Unavailable, hookimpl

if TYPE_CHECKING:
    from zif.contract import Backend, Group


@hookimpl
def zif_backend_info() -> BackendInfo:
    """The cpu: torch, and kernels compiled for it at first use."""
    return BackendInfo(
        name="cpu",
        summary="any CPU that torch runs on; kernels compiled for it at first use",
        api=(1, 1),
        framework="torch",
        verified_on="x86-64 with AVX-512",
        preference=0,
        ranks="processes",
    )


@hookimpl
def zif_cli_options() -> Sequence[DeviceOption]:
    """``cpu.threads`` and ``cpu.native``."""
    return [
        DeviceOption(name="threads", summary="threads of a step; 0: one for each usable core", default="0"),
        DeviceOption(
            name="native", summary="off: torch's kernels alone, nothing is compiled", default="auto",
            choices=("auto", "off"),
        ),
    ]  # fmt: skip


@hookimpl
def zif_probe() -> ProbeResult:
    """Available wherever torch is installed."""
    if importlib.util.find_spec("torch") is None:
        return Unavailable("torch is not installed", "pip install torch")
    model, flags = _cpuinfo()
    cores = len(os.sched_getaffinity(0))
    features = [name for name in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if name in flags]
    detail = ", ".join([model, f"{cores} usable core{'s' if cores != 1 else ''}", *features])
    notes = () if features else ("no vector extension that the kernels have a fast path for",)
    return Available((Device(name="cpu", memory_bytes=_memory_bytes(), detail=detail, shared=True),), notes)


@hookimpl
def zif_create_backend(options: Mapping[str, str], device: Device, group: Group | None) -> Backend:
    """The backend; torch is imported from here on."""
    from zif_cpu.backend import create

    return create(options, device, group)


def _cpuinfo() -> tuple[str, frozenset[str]]:
    """The processor's name and feature flags, as far as the system tells."""
    fields: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    if path.exists():
        first_processor = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
        for line in first_processor.splitlines():
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(fields.get("flags", fields.get("features", "")).split())


def _memory_bytes() -> int:
    """Physical memory, or the control group's limit where that is smaller."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return physical if text == "max" else min(physical, int(text))
