"""Numbered slots (pages of a cache group, rows of the request table) with deferred reuse."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]

_FREE, _USED, _PENDING = 0, 1, 2


class PageAllocator:
    """Hands out page ids in ``[1, num_pages)``; page 0 is the sink that padding writes to.

    A page given back with ``free(pages, after_step)`` can be handed out again only once
    ``retire(after_step)`` was called: with overlapped scheduling a sequence's end is found while the
    next step, which may still write its pages, is on its way. Steps retire in order.
    """

    def __init__(self, num_pages: int) -> None:
        assert num_pages >= 2, f"{num_pages} pages: page 0 is reserved, so at least 2 are needed"
        self.num_pages = num_pages
        self.retired = -1
        """Number of the last step that has completed; -1 before any has."""
        # A stack whose top is its end: the lowest ids come out first, the last freed ones come out again soonest.
        self._stack = np.arange(num_pages - 1, 0, -1, dtype=np.int32)
        self._top = num_pages - 1
        self._state = np.zeros(num_pages, dtype=np.uint8)
        self._state[0] = _USED
        self._pending: deque[tuple[int, IntArray]] = deque()
        self._num_pending = 0

    @property
    def capacity(self) -> int:
        """Pages that can be in use at once: all but the sink."""
        return self.num_pages - 1

    @property
    def num_free(self) -> int:
        """Pages that ``alloc`` can hand out now."""
        return self._top

    @property
    def num_pending(self) -> int:
        """Pages given back that wait for a step to complete."""
        return self._num_pending

    @property
    def num_used(self) -> int:
        """Pages that somebody holds."""
        return self.capacity - self._top - self._num_pending

    def alloc(self, n: int) -> IntArray | None:
        """Take ``n`` pages: int32 ``(n,)``, or None (and nothing taken) if fewer are free."""
        if n > self._top:
            return None
        top = self._top - n
        pages = self._stack[top : self._top][::-1].copy()
        self._top = top
        self._state[pages] = _USED
        return pages

    def free(self, pages: IntArray, after_step: int) -> None:
        """Give ``pages`` back, usable once step ``after_step`` has retired (at once if it has already)."""
        n = len(pages)
        if n == 0:
            return
        state = self._state[pages]
        assert (state == _USED).all(), f"freed pages that are not in use: {pages[state != _USED].tolist()}"
        assert pages.min() > 0, "the sink page was freed"
        assert n == 1 or len(set(pages.tolist())) == n, f"a page was freed twice in one call: {pages.tolist()}"
        if after_step <= self.retired:
            self._push(pages)
            return
        self._state[pages] = _PENDING
        self._pending.append((after_step, pages))
        self._num_pending += n

    def retire(self, step: int) -> None:
        """Say that ``step``, and every one before it, has completed on the device."""
        assert step >= self.retired, f"step {step} retired after step {self.retired}"
        self.retired = step
        for _ in range(len(self._pending)):
            after_step, pages = self._pending.popleft()
            if after_step > step:
                self._pending.append((after_step, pages))
                continue
            self._num_pending -= len(pages)
            self._push(pages)

    def in_use(self, pages: IntArray) -> bool:
        """Whether every one of ``pages`` is held by somebody."""
        return bool((self._state[pages] == _USED).all())

    def check(self) -> None:
        """Assert that every page is in exactly one place. For tests: linear in the number of pages."""
        free = self._stack[: self._top]
        pending = [page for _, pages in self._pending for page in pages.tolist()]
        assert len(set(free.tolist())) == self._top
        assert (self._state[free] == _FREE).all()
        assert len(set(pending)) == len(pending) == self._num_pending
        assert (self._state[pending] == _PENDING).all()
        assert int((self._state == _FREE).sum()) == self._top
        assert int((self._state == _PENDING).sum()) == self._num_pending

    def _push(self, pages: IntArray) -> None:
        n = len(pages)
        self._state[pages] = _FREE
        self._stack[self._top : self._top + n] = pages
        self._top += n
