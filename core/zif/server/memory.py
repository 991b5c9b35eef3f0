"""Memory that large requests have taken goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

LARGE = 2**18
"""Bytes of a body from which on it counts as large: what is made of one is many times that."""
DELAY_SECONDS = 2.0
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h


def limit_heaps() -> None:
    """Have glibc give back large pieces at once, and share two heaps among all threads: what is freed is used again.

    By itself it makes a heap for each thread, and keeps the larger pieces the more of them were freed.
    """
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_ARENA_MAX, 2)


class Trimmer:
    """Has freed memory given back some time after a large request.

    glibc keeps what programs free, and more of it the larger the pieces were: after a storm of large bodies a server
    would hold several times what it needs. Where the C library has no ``malloc_trim``, nothing is done.
    """

    def __init__(self) -> None:
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._timer: asyncio.TimerHandle | None = None

    def note(self, size: int) -> None:
        """A request of ``size`` bytes has been dealt with."""
        if size >= LARGE and self._timer is None and self._trim is not None:
            self._timer = asyncio.get_running_loop().call_later(DELAY_SECONDS, self._begin, self._trim)

    def _begin(self, trim: Callable[[int], int]) -> None:
        self._timer = None
        asyncio.get_running_loop().run_in_executor(None, trim, 0)  # Python's lock is let go of meanwhile
