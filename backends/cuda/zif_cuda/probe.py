"""Which GPUs can be used here, or why none can: decided from the driver's report and installed files."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path

from zif.contract import Available, Device, ProbeResult, Unavailable
from zif_cuda import nvml

OLDEST_CAPABILITY = (8, 0)
"""Ampere: the oldest with bfloat16 matrix units, which the kernels are made for."""

FLASHINFER = "0.6.14"
"""The version that the backend calls."""
TORCH_INDEX = "https://download.pytorch.org/whl/cu130"
_INSTALL_TORCH = f"pip install torch --index-url {TORCH_INDEX}"


def probe() -> ProbeResult:
    """The driver first, then its GPUs, then the torch that would drive them."""
    try:
        report = nvml.report()
    except nvml.NvmlMissing:
        return Unavailable(
            f"no NVIDIA driver: {nvml.LIBRARY} cannot be loaded",
            "install NVIDIA's driver, or, in a container, start it with the GPUs (docker run --gpus all)",
        )
    except nvml.NvmlError as error:
        return Unavailable(
            f"NVIDIA's driver does not answer: {error}",
            "see what nvidia-smi says; a reboot helps where the driver was upgraded under a running kernel module",
        )
    return judge(report, os.environ, torch_cuda())


def judge(report: nvml.Report, environment: Mapping[str, str], torch: TorchBuild) -> ProbeResult:
    """What ``report`` and an installed torch amount to."""
    if not report.gpus:
        return Unavailable(
            "NVIDIA's driver sees no GPU", "see what nvidia-smi -L lists, and whether a container hides them"
        )
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    try:
        gpus = visible(report.gpus, listed)
    except ValueError as error:
        return Unavailable(str(error), "unset CUDA_VISIBLE_DEVICES, or list GPUs that nvidia-smi -L shows")
    if not gpus:
        return Unavailable(f"CUDA_VISIBLE_DEVICES={listed!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    if isinstance(torch, Unavailable):
        return torch
    if report.cuda[0] < torch[0]:
        return Unavailable(
            f"driver {report.driver} serves CUDA up to {_dotted(report.cuda)}, the installed torch needs "
            f"{_dotted(torch)}",
            "upgrade NVIDIA's driver, or install a torch built for an older CUDA (https://pytorch.org)",
        )
    usable = [(place, gpu) for place, gpu in enumerate(gpus) if gpu.capability >= OLDEST_CAPABILITY]
    old = [gpu for gpu in gpus if gpu.capability < OLDEST_CAPABILITY]
    too_old = ", ".join(f"{gpu.name} ({_dotted(gpu.capability)})" for gpu in old)
    if not usable:
        return Unavailable(
            f"compute capability {_dotted(OLDEST_CAPABILITY)} is needed, and there is {too_old}",
            "use an Ampere GPU or a newer one (A100, RTX 30 and later)",
        )
    notes = [f"left out, older than compute capability {_dotted(OLDEST_CAPABILITY)}: {too_old}"] if old else []
    if importlib.util.find_spec("triton") is None:
        notes.append("triton is not installed: every op runs through torch, slowly; pip install triton")
    elif importlib.util.find_spec("flashinfer") is None:
        notes.append(
            "flashinfer is not installed: Triton's attention serves prefill, slower on Hopper; "
            f"pip install flashinfer-python=={FLASHINFER}"
        )
    return Available(tuple(_device(place, gpu, report) for place, gpu in usable), tuple(notes))


def visible(gpus: tuple[nvml.Gpu, ...], listed: str | None) -> list[nvml.Gpu]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order, which is the order torch counts in.

    As CUDA reads it: numbers or beginnings of UUIDs, up to the first entry that is neither. Raises
    ValueError for one that names no GPU, where CUDA would silently stop.
    """
    if listed is None:
        return list(gpus)
    chosen = []
    for entry in (part.strip() for part in listed.split(",")):
        if entry in ("", "-1", "none", "void", "NoDevFiles"):
            break
        if entry.startswith("MIG-"):
            raise ValueError(f"CUDA_VISIBLE_DEVICES names the MIG instance {entry}, which zif cannot use yet")
        matches = [gpu for gpu in gpus if (entry.isdecimal() and gpu.index == int(entry)) or gpu.uuid.startswith(entry)]
        if len(matches) != 1:
            raise ValueError(
                f"CUDA_VISIBLE_DEVICES names {entry!r}, and {len(gpus)} GPUs are there: 0 to {len(gpus) - 1}"
            )
        chosen += matches
    return chosen


TorchBuild = tuple[int, int] | Unavailable


def torch_cuda() -> TorchBuild:
    """The CUDA (major, minor) that the installed torch was built for, read from its files: torch stays unimported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return Unavailable("torch is not installed", _INSTALL_TORCH)
    return torch_build((Path(spec.origin).parent / "version.py").read_text(encoding="utf-8"))


def torch_build(version_py: str) -> TorchBuild:
    """The CUDA that torch's generated ``version.py`` names."""
    found = {}
    for name in ("__version__", "cuda"):
        match = re.search(rf"^{name}(?:\s*:[^=\n]*)?\s*=\s*(.+)$", version_py, re.MULTILINE)
        found[name] = ast.literal_eval(match[1]) if match else None
    if not found["cuda"]:
        return Unavailable(f"the installed torch {found['__version__']} is built without CUDA", _INSTALL_TORCH)
    major, minor = str(found["cuda"]).split(".")[:2]
    return int(major), int(minor)


def _device(place: int, gpu: nvml.Gpu, report: nvml.Report) -> Device:
    detail = f"compute capability {_dotted(gpu.capability)}, driver {report.driver}, CUDA {_dotted(report.cuda)}"
    return Device(name=gpu.name, index=place, memory_bytes=gpu.memory_bytes, detail=detail)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
