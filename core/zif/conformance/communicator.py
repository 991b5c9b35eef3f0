"""Collectives of a backend that shares layers among devices, on two ranks, where two devices are there."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from zif.conformance.results import Recorder
from zif.contract.errors import InvalidSettings, NoUsableDevice
from zif.parallel.store import Store
from zif.plugins import Selection

SECTION = "communicator"
SIZE = 2
TIMEOUT = 180


def check_communicator(selection: Selection, recorder: Recorder) -> None:
    """Record the results of the section ``communicator``."""
    try:
        selection.devices_of_ranks(SIZE)
    except (InvalidSettings, NoUsableDevice) as error:
        recorder.add(SECTION, "all", "", "skip", str(error))
        return
    try:
        reports = _ranks(selection)
    except RuntimeError as error:
        recorder.add(SECTION, "all", "", "fail", str(error))
        return
    for name, (_, digest) in reports[0].items():
        subject, _, dtype = name.partition("/")
        faults = [f"rank {rank}: {report[name][0]}" for rank, report in enumerate(reports) if report[name][0]]
        if not faults and any(report[name][1] != digest for report in reports):
            faults = ["ranks have different bits"]
        recorder.add(SECTION, subject, dtype, "fail" if faults else "pass", "; ".join(faults))


def _ranks(selection: Selection) -> list[dict[str, Any]]:
    """What :mod:`zif.conformance.ranks` reports on each rank, or on the mesh of all."""
    name, code = (
        selection.plugin.name,
        (
            "import json, sys; path, arguments = map(json.loads, sys.argv[1:]); sys.path[:] = path; "
            "from zif.conformance.ranks import main; main(*arguments)"
        ),
    )
    options = [f"{name}.{key}={value}" for key, value in selection.options.items()]
    processes = SIZE if selection.plugin.info.ranks == "processes" else 1
    store, started = Store(), []
    try:
        for rank in range(processes):
            arguments = [f"{name}:{selection.device.index}", options, rank, SIZE, store.path if processes > 1 else ""]
            command = [sys.executable, "-c", code, json.dumps(sys.path), json.dumps(arguments)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return [_report(rank, process) for rank, process in enumerate(started)]
    finally:
        for process in started:
            process.kill()
            process.communicate()
        store.remove()


def _report(rank: int, process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"rank {rank} took over {TIMEOUT} s: ranks may wait for each other") from error
    lines = out.strip().splitlines()
    if process.returncode or not lines:
        said = err.strip().splitlines()
        raise RuntimeError(f"rank {rank} ended: {said[-1] if said else 'no output'}")
    report: dict[str, Any] = json.loads(lines[-1])
    return report
