"""What running programs may hold: a donated tree once, and no more after many runs than after a few."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zif.conformance.results import Recorder, Skip
from zif.contract.arrays import ArraySpec
from zif.contract.backend import Backend
from zif.contract.binding import bind
from zif.contract.executable import Executable
from zif.contract.kernels import KernelSet

WARM = 40
"""Runs until a process has what it keeps."""
RUNS = 160
LEAK = 64 << 20
"""Bytes after :data:`RUNS` runs that are no noise: less than half a megabyte a run is not seen."""
ROWS, COLUMNS = 64, 256


def check_holding(backend: Backend, providers: Sequence[KernelSet], recorder: Recorder) -> None:
    """Record results of the section ``executables``."""
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("a donated resident is not copied", lambda: _in_place(backend, providers)),
        ("updates are what was donated", lambda: _updates(backend, providers)),
        ("runs leave nothing behind", lambda: _leaves(backend, providers)),
    ]
    for name, test in checks:
        recorder.check("executables", name, "", test, blame=lambda: "executables")


def _program(backend: Backend, providers: Sequence[KernelSet]) -> tuple[Executable, dict[str, Any]]:
    """(a program that writes a row of a donated tree and reads another tree, both trees)."""
    ops = bind([], providers).ops

    def fn(inputs: Any, resident: Any) -> Any:
        rows = inputs["x"] + resident["w"]["w"]
        kept = ops.put(resident["kv"]["kv"], (inputs["at"],), rows)
        return {"y": rows * 1.0}, {"kv": {"kv": kept}}

    zeros = backend.runtime.zeros
    resident = {
        "kv": {"kv": zeros(ArraySpec((ROWS, COLUMNS), "float32"))},
        "w": {"w": zeros(ArraySpec((1, COLUMNS), "float32"))},
    }
    inputs = {"x": ArraySpec((1, COLUMNS), "float32"), "at": ArraySpec((1,), "int32")}
    program = backend.executables.compile(
        "conformance-holding", fn, inputs, {"y": inputs["x"]}, resident, ("kv",)
    )  # fmt: skip
    return program, resident


def _run(program: Executable, resident: dict[str, Any], value: int) -> tuple[Any, dict[str, Any]]:
    staged = {"x": np.full((1, COLUMNS), value, np.float32), "at": np.array([value % ROWS], np.int32)}
    outputs, updates = program.run(program.stage(staged), resident)
    return outputs, updates


def _in_place(backend: Backend, providers: Sequence[KernelSet]) -> str | None:
    program, resident = _program(backend, providers)
    for value in range(3):
        old = resident["kv"]["kv"]
        before = _address(old)
        _, updates = _run(program, resident, value)
        new = updates["kv"]["kv"]
        if before is None:
            raise Skip("the framework does not tell where an array is")
        if _address(new) != before and not _given_up(old):
            return "what was donated is still there beside its update: memory holds it twice"
        resident = {**resident, **updates}
    return None


def _updates(backend: Backend, providers: Sequence[KernelSet]) -> str | None:
    program, resident = _program(backend, providers)
    _, updates = _run(program, resident, 1)
    return None if updates.keys() == {"kv"} else f"['kv'] was donated, and {sorted(updates)} came back"


def _leaves(backend: Backend, providers: Sequence[KernelSet]) -> str | None:
    program, resident = _program(backend, providers)
    marks = []
    for count in (WARM, RUNS):
        for value in range(count):
            outputs, updates = _run(program, resident, value)
            backend.runtime.fetch(outputs).wait()
            resident = {**resident, **updates}
        backend.runtime.synchronize()
        gc.collect()
        marks.append((_process_bytes(), backend.runtime.memory()))
    (host, device), (host_after, device_after) = marks
    if host_after - host > LEAK:
        return f"{RUNS} runs left {(host_after - host) >> 20} MiB in the process"
    shared = device.total >= _machine_bytes()  # others take from it too
    if not shared and device.free - device_after.free > LEAK:
        return f"{RUNS} runs left {(device.free - device_after.free) >> 20} MiB on the device"
    return None


def _address(array: Any) -> int | None:
    """Where an Array is, of the ways in which frameworks tell."""
    for name in ("data_ptr", "unsafe_buffer_pointer"):
        if hasattr(array, name):
            return int(getattr(array, name)())
    return None


def _given_up(array: Any) -> bool:
    """Whether a framework says that an Array is no more."""
    return bool(getattr(array, "is_deleted", lambda: False)())


def _process_bytes() -> int:
    """Resident bytes of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


def _machine_bytes() -> int:
    try:
        return int(Path("/proc/meminfo").read_text().split()[1]) * 1024 // 4
    except (OSError, ValueError, IndexError):
        return 0
