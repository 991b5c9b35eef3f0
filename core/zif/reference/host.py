"""What both references need of the host."""

from __future__ import annotations

from zif.contract.backend import MemoryInfo


def host_memory() -> MemoryInfo:
    """Bytes that this process may have: the machine's, or its control group's if less."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    limit = _read_int("/sys/fs/cgroup/memory.max")
    used = _read_int("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None and limit < total:
        total, free = limit, min(free, max(0, limit - used))
    return MemoryInfo(total, free)


def _read_int(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):  # no control group, or "max"
        return None
