"""What the driver says of its GPUs, through NVML's C library alone: no framework, no CUDA context.

Names and structures are those of ``nvml.h``; only functions that every driver since R450 has are used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
_NAME_BYTES = 96


class NvmlError(Exception):
    """NVML refused; the message is its own."""


class NvmlMissing(NvmlError):
    """The driver's library cannot be loaded: there is no driver here."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``index`` counts in the order of PCI bus ids; ``capability`` is (major, minor)."""

    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """The machine's driver and GPUs. ``cuda`` is the newest CUDA (major, minor) that the driver serves."""

    driver: str
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def report() -> Report:
    """Ask NVML. Raises :class:`NvmlMissing` without a driver, :class:`NvmlError` for what it refuses."""
    with _library() as call:
        version = ctypes.c_int()
        call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(version))
        count = ctypes.c_uint()
        call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return Report(
            driver=_text(call, "nvmlSystemGetDriverVersion"),
            cuda=(version.value // 1000, version.value % 1000 // 10),
            gpus=tuple(_gpu(call, index) for index in range(count.value)),
        )


def _gpu(call: _Call, index: int) -> Gpu:
    handle = ctypes.c_void_p()
    call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), _Memory()
    call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
    call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    return Gpu(
        index=index,
        uuid=_text(call, "nvmlDeviceGetUUID", handle),
        name=_text(call, "nvmlDeviceGetName", handle),
        capability=(major.value, minor.value),
        memory_bytes=memory.total,
    )


def _text(call: _Call, function: str, *arguments: object) -> str:
    buffer = ctypes.create_string_buffer(_NAME_BYTES)
    call(function, *arguments, buffer, ctypes.c_uint(_NAME_BYTES))
    return buffer.value.decode(errors="replace")


class _Call:
    """Calls NVML functions and checks what they return."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.nvmlErrorString.restype = ctypes.c_char_p

    def __call__(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise NvmlError(f"{function}: {self._library.nvmlErrorString(status).decode(errors='replace')}")


@contextmanager
def _library() -> Iterator[_Call]:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NvmlMissing(str(error)) from error
    call = _Call(library)
    call("nvmlInit_v2")
    try:
        yield call
    finally:
        call("nvmlShutdown")
