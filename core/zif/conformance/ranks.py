"""Run by :mod:`zif.conformance.communicator`, a fresh interpreter a rank: collectives inside programs, against numpy.

What is staged is the same on all ranks; a rank's own part is that times its number, counted from 1. So the same
program serves ranks that are processes and those of a mesh.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zif.conformance.compare import same_bits
from zif.contract.arrays import ArraySpec
from zif.contract.backend import Backend
from zif.contract.comm import Communicator, Group
from zif.contract.executable import ProgramFacts
from zif.contract.ops.draw import numpy_dtype
from zif.contract.step import StepShape
from zif.plugins import select

SHAPES = ((1, 64), (7, 48), (64, 1024))
RUNS = 4
"""Enough that a backend that captures programs has captured it."""
CLOSING_SECONDS = 5.0
"""How long closing a rank may take."""
MEETING_SECONDS = 60.0
"""How long ranks wait for each other's last steps."""
EXIT_SECONDS = 0.5
"""How long a process takes to end that is about to."""


def main(device: str, options: list[str], rank: int, size: int, store: str) -> None:
    """Print a JSON object: a check, and [what is wrong or null, a digest of the results that ranks have to share]."""
    selection = select(device, options)
    devices = selection.devices_of_ranks(size)
    own = select(f"{selection.plugin.name}:{devices[rank].index}", options)
    backend = own.create_backend(Group(rank, devices, store))
    comm = backend.communicator
    report: dict[str, Any] = {}
    if comm.size != size:
        report["size"] = [f"a group of {size} was asked for, its size is {comm.size}", ""]
    else:
        programs: list[Any] = []
        for dtype in backend.capabilities.dtypes:
            report[f"all_reduce/{dtype}"] = _check(backend, dtype, comm.all_reduce, _summed, programs)
            report[f"all_gather/{dtype}"] = _check(backend, dtype, comm.all_gather, _joined, programs)
        fault = None
        if rank:
            _leave(store, rank)
        else:
            others = range(1, size) if selection.plugin.info.ranks == "processes" else range(0)
            fault = _closed(comm, store, others)
        report["close"] = [fault, ""]
    print()  # a library may have left a line open
    print(json.dumps(report), flush=True)
    os._exit(0)  # as an engine's ranks do, and whatever is left to end by itself


def _leave(store: str, rank: int) -> None:
    """Wait until the first rank needs nothing of this one any more, and say that it ends now."""
    _wait_for(_mark(store, 0))
    _mark(store, rank).touch()


def _closed(comm: Communicator, store: str, others: range) -> str | None:
    """What is wrong with closing the first rank as an engine does: with its programs there, and no other rank."""
    if others:
        _mark(store, 0).touch()
        for other in others:
            _wait_for(_mark(store, other))
        time.sleep(EXIT_SECONDS)
    faults: list[str] = []

    def close() -> None:
        try:
            comm.close()
        except BaseException as error:
            faults.append(f"raises {error!r}, with no other rank there")

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(CLOSING_SECONDS)
    if closing.is_alive():
        faults.append(f"has not come back after {CLOSING_SECONDS:g} s, with no other rank there")
    return faults[0] if faults else None


def _mark(store: str, rank: int) -> Path:
    """What is there once a rank has done all that others need it for."""
    return Path(store) / f"done-{rank}"


def _wait_for(mark: Path) -> None:
    deadline = time.monotonic() + MEETING_SECONDS
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _check(
    backend: Backend,
    dtype: str,
    collective: Callable[[Any], Any],
    expected: Callable[[Any, int], Any],
    programs: list[Any],
) -> list[str | None]:
    """Small whole numbers, whose sums every dtype has, so that results are to be exact.

    What was compiled is added to ``programs``.
    """
    comm, digest, rng = backend.communicator, hashlib.sha256(), np.random.default_rng(0)
    for shape in SHAPES:
        program = _program(backend, comm, collective, dtype, shape)
        programs.append(program)
        for run in range(RUNS):
            host = rng.integers(-8, 9, shape).astype(numpy_dtype(dtype))
            outputs, _ = program.run(program.stage({"x": host}), {})
            got = backend.runtime.fetch(outputs).wait()["y"]
            digest.update(got.tobytes())
            if not same_bits(got, expected(host, comm.size)):
                return [f"{shape}, run {run}: {got.ravel()[:4]}… of {host.ravel()[:4]}… on {comm.size} ranks", ""]
    return [None, digest.hexdigest()]


def _program(backend: Backend, comm: Communicator, collective: Callable[[Any], Any], dtype: str, shape: Any) -> Any:
    def fn(inputs: Any, resident: Any) -> Any:
        return {"y": collective(inputs["x"] * (comm.rank + 1))}, {}

    tokens, columns = shape
    wide = ArraySpec((tokens, columns * comm.size if collective == comm.all_gather else columns), dtype)
    facts = ProgramFacts(step=StepShape(tokens, tokens, 1, tokens, decode=True))
    return backend.executables.compile(
        f"conformance-{collective.__name__}", fn, {"x": ArraySpec(shape, dtype)}, {"y": wide}, {}, (), facts
    )


def _summed(host: Any, size: int) -> Any:
    return (host.astype(np.float64) * sum(range(1, size + 1))).astype(host.dtype)


def _joined(host: Any, size: int) -> Any:
    return np.concatenate([(host.astype(np.float64) * rank).astype(host.dtype) for rank in range(1, size + 1)], -1)
