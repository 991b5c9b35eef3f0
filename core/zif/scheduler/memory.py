"""Rows of the request table, pages and prefix cache behind one door.

Here is who owns a page. Of a request's pages, the first ``owned[row]`` belong to the prefix cache and are
held by the request's lock; the rest belong to the request. In a window group, pages before ``dead[g, row]``
are out of sight of every later query: the request has let go of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zif.cache.allocator import IntArray, PageAllocator
from zif.cache.groups import HostGroup, first_live_page, window_pages
from zif.cache.node import Node
from zif.cache.prefix import Lock, Match, NoPrefixCache, PrefixCache
from zif.cache.radix import RadixCache
from zif.contract.errors import InvalidSettings
from zif.scheduler.request import Request

IndexArray = npt.NDArray[np.intp]

PageChanges = tuple[IntArray, IntArray, IntArray]
"""Rows [m], indices [m] and page ids [G, m] of page table entries that change."""


class Memory:
    """The host's view of the request table and the KV cache.

    ``kv``      [R+1] positions computed by the steps launched so far, a row each; all drafts in flight counted.
    ``drafts``  [R+1] drafts in flight: so many of the positions may turn out not to be there.
    ``final``   [R+1] the same when the request ends by count.
    ``last``    [R+1] the last step that the row was part of.
    ``pages``   [G, R+1, P] the page tables.
    """

    def __init__(
        self,
        groups: Sequence[HostGroup],
        num_pages: Sequence[int],
        page_size: int,
        max_requests: int,
        context_length: int,
        *,
        radix: bool = True,
    ) -> None:
        self.page_size = page_size
        self.groups = list(groups)
        self.allocators = [PageAllocator(n) for n in num_pages]
        self.row_allocator = PageAllocator(max_requests + 1)
        self.windows = [(g, group.window) for g, group in enumerate(groups) if group.window is not None]
        self.max_length = min([context_length, *self._longest()])
        """Tokens that one sequence can have: the model's context, or what the cache can hold."""
        self._check_windows()
        self.cache: PrefixCache = (
            RadixCache(groups, self.allocators, page_size) if radix else NoPrefixCache(len(self.groups))
        )
        rows = max_requests + 1
        self.kv = np.zeros(rows, dtype=np.int32)
        self.drafts = np.zeros(rows, dtype=np.int32)
        self.final = np.zeros(rows, dtype=np.int32)
        self.last = np.full(rows, -1, dtype=np.int64)
        self.owned = np.zeros(rows, dtype=np.int32)
        self.dead = np.zeros((len(self.groups), rows), dtype=np.int32)
        self.pages = np.zeros((len(self.groups), rows, -(-self.max_length // page_size)), dtype=np.int32)
        self._nothing = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty((len(self.groups), 0), np.int32))
        self._locks: dict[int, Lock] = {}
        self._replaced: dict[int, IntArray] = {}

    def _longest(self) -> list[int]:
        full = [a.capacity for a, group in zip(self.allocators, self.groups, strict=True) if group.window is None]
        return [capacity * self.page_size for capacity in full]

    def _check_windows(self) -> None:
        for g, window in self.windows:
            # A sequence holds what it sees itself, and perhaps as much again in a prefix that it shares.
            least = 2 * window_pages(min(window, self.max_length), self.page_size) + 2
            if self.allocators[g].capacity < least:
                raise InvalidSettings(
                    f"cache group {self.groups[g].name!r} has {self.allocators[g].capacity} pages of {self.page_size} "
                    f"tokens, but a window of {window} tokens needs at least {least}: give the cache more memory"
                )

    # -- pages ---------------------------------------------------------------------------------------------

    def reserve(self, count: int) -> bool:
        """Make ``count`` pages free in every group, out of the prefix cache if need be; False if that fails."""
        needs = [count - a.num_free for a in self.allocators]
        if max(needs) <= 0:
            return True
        self.cache.evict([max(0, need) for need in needs])
        return all(a.num_free >= count for a in self.allocators)

    def available(self) -> IntArray:
        """Pages that are free or could be evicted, int32 [G]."""
        return np.array([a.num_free + e for a, e in zip(self.allocators, self.cache.evictable, strict=True)])

    def take(self, count: int) -> IntArray:
        """``count`` free pages of every group: [G, count]. They must have been reserved."""
        taken = [a.alloc(count) for a in self.allocators]
        assert all(pages is not None for pages in taken), f"{count} pages were not reserved"
        return np.stack([pages for pages in taken if pages is not None])

    def num_pages(self, length: npt.ArrayLike) -> IntArray:
        """Pages that ``length`` tokens take."""
        return -(-np.asarray(length) // self.page_size)

    # -- a request's life ----------------------------------------------------------------------------------

    def admit(self, request: Request, match: Match, lock: Lock) -> PageChanges:
        """Give ``request`` a row that begins with the matched prefix, on which ``lock`` is a hold."""
        row_ids = self.row_allocator.alloc(1)
        assert row_ids is not None, "no row is free"
        row = request.row = int(row_ids[0])
        self._locks[row] = lock
        count = match.length // self.page_size
        self.kv[row] = match.length
        self.final[row] = request.final_length
        self.owned[row] = count
        self.pages[:, row, :count] = match.pages
        self.dead[:, row] = 0
        for g, window in self.windows:
            self.dead[g, row] = first_live_page(match.length, window, self.page_size)
            self.pages[g, row, : self.dead[g, row]] = 0
        return np.full(count, row, dtype=np.int32), np.arange(count, dtype=np.int32), self.pages[:, row, :count].copy()

    def fit(self, length: int, count: int) -> int:
        """How many of the ``count`` tokens behind position ``length`` there are pages for now."""
        have = -(-length // self.page_size)
        need = -(-(length + count) // self.page_size) - have
        if not self.reserve(need):
            need = min(a.num_free for a in self.allocators)
        return min(count, (have + need) * self.page_size - length)

    def extend(self, row: int, count: int) -> PageChanges:
        """Pages for the next ``count`` positions of ``row``, which ``fit`` has found room for; counts them in."""
        kv = int(self.kv[row])
        have, need = -(-kv // self.page_size), -(-(kv + count) // self.page_size)
        indices = np.arange(have, need, dtype=np.int32)
        ids = self.take(need - have)
        self.pages[:, row, have:need] = ids
        self.kv[row] = kv + count
        return np.full(need - have, row, dtype=np.int32), indices, ids

    def extend_decodes(self, rows: IntArray, starts: IntArray, fresh: IndexArray) -> PageChanges:
        """One more position for each of ``rows``; those at ``fresh`` (indices into ``rows``) begin a page."""
        self.kv[rows] = starts + 1
        if not len(fresh):
            return self._nothing
        at, indices = rows[fresh], starts[fresh] // self.page_size
        ids = self.take(len(fresh))
        for g in range(len(self.groups)):
            self.pages[g, at, indices] = ids[g]
        return at, indices, ids

    def pages_for_runs(self, starts: IntArray, counts: IntArray) -> int:
        """Pages that ``counts`` more positions take from ``starts`` on, all together."""
        return int((self.num_pages(starts + counts) - self.num_pages(starts)).sum())

    def extend_runs(self, rows: IntArray, starts: IntArray, counts: IntArray) -> PageChanges:
        """``counts`` more positions for each of ``rows``, of which all but one each are drafts; reserved for."""
        self.kv[rows] = starts + counts
        self.drafts[rows] += counts - 1
        have = self.num_pages(starts)
        more = self.num_pages(starts + counts) - have
        at, total = np.repeat(rows, more), int(more.sum())
        within = np.arange(total, dtype=np.int32) - np.repeat(np.cumsum(more) - more, more)
        indices = (np.repeat(have, more) + within).astype(np.int32)
        ids = self.take(total)
        for g in range(len(self.groups)):
            self.pages[g, at, indices] = ids[g]
        return at, indices, ids

    def settle(self, row: int, drafts: int, rejected: int) -> None:
        """Of the ``drafts`` of a step that has completed ``rejected`` were wrong: give their pages back.

        Steps in flight were launched for as many positions more; they do not reach the pages behind the new end.
        """
        self.drafts[row] -= drafts
        if not rejected:
            return
        used = -(-int(self.kv[row]) // self.page_size)
        self.kv[row] -= rejected
        keep = -(-int(self.kv[row]) // self.page_size)
        self._free([self.pages[g, row, keep:used].copy() for g in range(len(self.groups))], int(self.last[row]))

    def share(self, request: Request, step: int) -> None:
        """Give the prefix cache what ``request`` has computed of its ``tokens``, ``step`` (just made) included.

        Where the cache has a page already, the request goes on with that one.
        """
        row = request.row
        count, owned = int(self.kv[row]) // self.page_size, int(self.owned[row])
        if count <= owned:
            return
        result = self.cache.insert(
            request.tokens[: count * self.page_size], self._visible(row, count), request.extra_key, step
        )
        count = result.pages.shape[1]
        if count == 0:
            return
        table = self.pages[:, row, owned:count]
        theirs = result.pages[:, owned:]
        for g, _ in self.windows:
            theirs[g, : max(0, int(self.dead[g, row]) - owned)] = 0
        changed = np.flatnonzero((table != theirs).any(axis=0))
        if len(changed):
            table[:] = theirs
            earlier = self._replaced.get(row, np.empty(0, dtype=np.int32))
            self._replaced[row] = np.concatenate([earlier, (changed + owned).astype(np.int32)])
        self._free(result.duplicates, step)
        lock = self.cache.lock(result.node)
        self.cache.unlock(self._locks[row], step)
        self._locks[row] = lock
        self.owned[row] = count
        for g, _ in self.windows:
            self.dead[g, row] = max(self.dead[g, row], lock.tops[g] // self.page_size)

    def replaced(self) -> list[PageChanges]:
        """Page table entries that ``share`` has changed since the last call."""
        changes = []
        for row, indices in self._replaced.items():
            changes.append((np.full(len(indices), row, dtype=np.int32), indices, self.pages[:, row, indices]))
        self._replaced.clear()
        return changes

    def forget_unseen(self, rows: IntArray, step: int) -> None:
        """Let go of window pages that no query from here on sees; steps before ``step`` may still read them."""
        for g, window in self.windows:
            # As if the next query were at its page's begin: a later match may end there, and needs its window.
            page_start = (self.kv[rows] - self.drafts[rows]) // self.page_size * self.page_size
            unseen = np.maximum(page_start - (window - 1), 0) // self.page_size
            dead = self.dead[g, rows]
            late = np.flatnonzero(unseen > dead)
            if not len(late):
                continue
            behind, first, last = rows[late], dead[late], unseen[late]
            self.dead[g, behind] = last
            owned = self.owned[behind]
            for i in np.flatnonzero((first < owned) & (last >= owned)).tolist():
                lock = self._locks[int(behind[i])]
                self.cache.advance(lock, g, int(owned[i]) * self.page_size, step - 1)
            simple = (first >= owned) & (last - first == 1)
            one, at = behind[simple], first[simple]
            self.allocators[g].free(self.pages[g, one, at], step - 1)
            self.pages[g, one, at] = 0
            for i in np.flatnonzero(~simple & (last > owned)).tolist():
                begin = max(int(first[i]), int(owned[i]))
                span = self.pages[g, behind[i], begin : last[i]]
                self.allocators[g].free(span.copy(), step - 1)
                span[:] = 0

    def release(self, request: Request, *, keep: bool = True) -> None:
        """Take back row and pages of ``request``, usable once the last step that it is part of has retired.

        With ``keep`` what has been computed of its known tokens stays in the prefix cache.
        """
        row = request.row
        kv, owned, last = int(self.kv[row]), int(self.owned[row]), int(self.last[row])
        count = min(kv, request.num_tokens) // self.page_size if keep else 0
        if count > owned:
            known = request.known_tokens()[: count * self.page_size]
            result = self.cache.insert(known, self._visible(row, count), request.extra_key, last)
            owned = result.pages.shape[1]
            self._free(result.duplicates, last)
        used = -(-kv // self.page_size)
        begins = np.maximum(self.dead[:, row], owned).tolist()
        self._free([self.pages[g, row, begin:used].copy() for g, begin in enumerate(begins)], last)
        self.cache.unlock(self._locks.pop(row), last)
        self.row_allocator.free(np.array([row], dtype=np.int32), last)
        self._replaced.pop(row, None)
        self.kv[row] = self.owned[row] = self.drafts[row] = 0
        self.last[row] = -1
        request.row = 0

    def shared_prefix(self, request: Request) -> tuple[Node, int]:
        """The node up to which a running request's pages are in the prefix cache, and how many tokens that is."""
        return self._locks[request.row].node, int(self.owned[request.row]) * self.page_size

    def retire(self, step: int) -> None:
        """Step ``step`` has completed: what waited for it is free."""
        self.row_allocator.retire(step)
        for allocator in self.allocators:
            allocator.retire(step)

    def _visible(self, row: int, count: int) -> IntArray:
        pages = self.pages[:, row, :count].copy()
        for g, _ in self.windows:
            pages[g, : self.dead[g, row]] = 0
        return pages

    def _free(self, pages: Sequence[IntArray], step: int) -> None:
        for allocator, ids in zip(self.allocators, pages, strict=True):
            allocator.free(ids, step)
