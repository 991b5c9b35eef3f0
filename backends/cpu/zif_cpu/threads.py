"""How many threads a step should use."""

from __future__ import annotations

import os
from pathlib import Path

from zif.contract import InvalidSettings


def thread_count(asked: str = "0") -> int:
    """Threads for ``cpu.threads=asked``; 0: OMP_NUM_THREADS, or the physical cores this process may use.

    Two hardware threads of one core share its multipliers and its path to memory, so they count
    once; so do cores beyond the control group's quota. Raises InvalidSettings for a negative or
    unreadable number.
    """
    try:
        threads = int(asked)
    except ValueError:
        threads = -1
    if threads < 0:
        raise InvalidSettings(f"--device-opt cpu.threads={asked}: give the number of threads, or 0 for one a core")
    if threads:
        return threads
    environment = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if environment.isdigit() and int(environment) > 0:
        return int(environment)
    return usable_cores()


def usable_cores() -> int:
    """Physical cores that affinity and the control group's CPU quota leave to this process, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})
    else:
        cores = os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def _core_of(cpu: int) -> tuple[str, str]:
    """(package, core) of a hardware thread; the thread itself where the system does not tell."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "", str(cpu)


def _quota() -> float | None:
    """CPUs that control group v2 grants a process, or None for no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None
