"""The directory in which ranks leave each other the address at which they meet."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PREFIX = "zif-ranks-"


class Store:
    """Such a directory, at ``path``. It goes with this object or this process; after a SIGKILL, with the next store.

    Its owner holds a lock on it, which a process cannot leave behind: what nobody holds has no owner.
    """

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError), _opened(left) as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        self.path, handle = _locked()
        self.remove: weakref.finalize[Any, Any] = weakref.finalize(self, _remove, self.path, handle)
        """Does so once, whoever calls it."""


def _locked() -> tuple[str, int]:
    """A new directory, and the handle that it is locked by; another one if it was taken for left before it was."""
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # where directories cannot be locked, none is removed for want of a lock
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.isdir(path):
            return path, handle
        os.close(handle)


def _remove(path: str, handle: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(handle)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)
