"""The tpu backend's hooks. JAX is imported when the backend is made, not before."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zif.contract import Available, BackendInfo, Device, DeviceOption, ProbeResult, Unavailable, hookimpl
from zif_tpu.chips import CHIPS, GOOGLE, Chip

if TYPE_CHECKING:
    from zif.contract import AheadBackend, Backend, Group

TRY_ON_CPU = "try it without one on JAX's CPU platform: --device tpu --device-opt tpu.platform=cpu"
CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


@hookimpl
def zif_backend_info() -> BackendInfo:
    """TPUs through JAX; any other platform of JAX's when asked for."""
    return BackendInfo(
        name="tpu",
        summary="Google TPUs through JAX and Pallas; JAX on CPU or CUDA with tpu.platform",
        api=(1, 1),
        framework="jax",
        verified_on=None,
        profiles=("llm", "moe", "mla"),
        preference=60,
        ranks="mesh",
    )


@hookimpl
def zif_cli_options() -> Sequence[DeviceOption]:
    """Where JAX runs, how Pallas kernels run, and where compiled programs are kept."""
    return [
        DeviceOption(
            name="platform",
            summary="JAX platform; auto: a TPU. cpu and cuda run the same programs where there is none",
            default="auto",
            choices=("auto", "cpu", "cuda"),
        ),
        DeviceOption(
            name="pallas",
            summary="Pallas kernels; auto: on a TPU. interpret: simulated on the host, slow, for tests of kernels",
            default="auto",
            choices=("auto", "interpret", "off"),
        ),
        DeviceOption(
            name="compilation_cache",
            summary="directory of compiled programs, kept between runs; empty: the user's cache directory, off: none",
        ),
    ]


@hookimpl
def zif_probe(options: Mapping[str, str]) -> ProbeResult:
    """A TPU on the PCI bus with libtpu installed, or the platform that was asked for instead."""
    if importlib.util.find_spec("jax") is None:
        return Unavailable("jax is not installed", 'pip install "jax[tpu]" (on a TPU VM), or jax for other platforms')
    platform = options.get("platform", "auto")
    if platform == "cpu":
        cores = len(os.sched_getaffinity(0))
        note = "JAX on the host: for trying out and for tests, --device cpu is faster"
        return Available((Device(name="JAX cpu", detail=f"{cores} usable cores", shared=True),), (note,))
    if platform == "cuda":
        return _probe_cuda()
    return _probe_tpu()


@hookimpl
def zif_environment(options: Mapping[str, str]) -> Mapping[str, str]:
    """JAX initialises what is named here and nothing else; the host platform is there beside a device."""
    platform = options.get("platform", "auto")
    platforms = {"cpu": "cpu", "cuda": "cuda,cpu"}.get(platform, "tpu,cpu")
    return {"JAX_PLATFORMS": platforms, "TF_CPP_MIN_LOG_LEVEL": "2"}


@hookimpl
def zif_create_backend(options: Mapping[str, str], device: Device, group: Group | None) -> Backend:
    """The backend; JAX is imported from here on."""
    from zif_tpu.backend import create

    made: Any = create(options, device, group)  # jax.Array's signatures are wider than those of the contract's Array
    return made


@hookimpl
def zif_ahead_of_time(target: str, ranks: int | None) -> AheadBackend:
    """Compile for a topology such as ``v6e:2x4``, with libtpu and without the hardware."""
    from zif_tpu.aot import create

    made: Any = create(target, ranks)
    return made


def _probe_tpu() -> ProbeResult:
    chips = list(tpu_chips())
    if not chips:
        return Unavailable("there is no TPU on this machine", f"run it on a TPU VM, or {TRY_ON_CPU}")
    if importlib.util.find_spec("libtpu") is None:
        found = f"{len(chips)} TPU chip{'s' if len(chips) > 1 else ''} ({chips[0].name})"
        return Unavailable(f"{found}, but libtpu is not installed", 'pip install "jax[tpu]"')
    devices = (
        Device(name=f"TPU {chip.name}", index=index, memory_bytes=chip.memory_bytes) for index, chip in enumerate(chips)
    )
    return Available(tuple(devices))


def _probe_cuda() -> ProbeResult:
    if not Path("/dev/nvidiactl").exists():
        return Unavailable("tpu.platform=cuda, and there is no NVIDIA GPU on this machine", TRY_ON_CPU)
    if not any(importlib.util.find_spec(name) for name in CUDA_PLUGINS):
        return Unavailable("tpu.platform=cuda, and JAX's CUDA plugin is not installed", 'pip install "jax[cuda13]"')
    gpus = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    devices = tuple(Device(name=f"JAX cuda ({name})", index=index) for index, name in enumerate(gpus))
    return Available(devices) if devices else Unavailable("/dev has no nvidia0", TRY_ON_CPU)


def tpu_chips(root: Path = Path("/sys/bus/pci/devices")) -> Sequence[Chip]:
    """The TPU chips on the PCI bus, as the kernel lists them."""
    found = []
    for vendor in sorted(root.glob("*/vendor")):
        if vendor.read_text().strip() == GOOGLE:
            chip = CHIPS.get((vendor.parent / "device").read_text().strip())
            if chip is not None:
                found.append(chip)
    return found
