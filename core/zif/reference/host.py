"""What both references, and the backends on them, need of the host."""

from __future__ import annotations

import errno
import gc
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zif.contract.backend import MemoryInfo

CONTROL_GROUP = Path("/sys/fs/cgroup")


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave garbage alone meanwhile: a collection would walk much for nothing, or free what must not be freed now."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def host_memory() -> MemoryInfo:
    """Bytes that this process may have: the machine's, or its control group's if less.

    A group's ``memory.current`` counts the pages of files that it has read. Those not in use
    (``inactive_file``) go as soon as memory is wanted, so they are free here, as the machine's are.
    """
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    limit = _read_int("memory.max")
    used = _read_int("memory.current")
    if limit is not None and used is not None and limit < total:
        used = max(0, used - _inactive_file())
        total, free = limit, min(free, max(0, limit - used))
    return MemoryInfo(total, free)


def user_cache() -> Path:
    """The directory of this user's caches: ``$XDG_CACHE_HOME``, or else ``~/.cache``.

    Where there is no home (a container's user without a passwd entry), one of the user's own under
    the system's directory for temporary files, made if need be. Raises OSError if that cannot be
    made, or is not this user's alone: what is kept in a cache is run.
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        directory = Path(tempfile.gettempdir()) / f"zif-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()  # of a link that somebody laid there, not of where it leads
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "it is not a directory of this user's alone", str(directory))
    return directory


def _inactive_file() -> int:
    try:
        lines = (CONTROL_GROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _read_int(name: str) -> int | None:
    try:
        return int((CONTROL_GROUP / name).read_text())
    except (OSError, ValueError):  # no control group, or "max"
        return None
