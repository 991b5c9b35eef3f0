"""Rows of the request table, pages and prefix cache: what a request holds of each.

Of a request's pages, those of the first ``owned[row]`` units (:mod:`zif.cache.groups`) belong
to the prefix cache and are held by the request's lock; the rest belong to the request. In a window group, pages of
units before ``dead[g, row]`` are out of sight of every later query: the request has let go of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zif.cache.allocator import IntArray, PageAllocator
from zif.cache.groups import Geometry, HostGroup, first_live, least_pages
from zif.cache.node import Node
from zif.cache.prefix import Lock, Match, NoPrefixCache, PrefixCache
from zif.cache.radix import RadixCache
from zif.contract.errors import InvalidSettings
from zif.scheduler.request import Request

IndexArray = npt.NDArray[np.intp]

PageChanges = tuple[IntArray, IntArray, IntArray]
"""Rows [m], indices [m] and page ids [G, m] of page table entries that change.

Indices count pages of :attr:`Memory.page_size` tokens: a group whose pages have ``factors[g]`` times as many has the
entry at ``index // factors[g]``, and may have it several times, with the same id.
"""


FIRST_LENGTH = 4096
"""Tokens of a sequence that the page tables have room for from the start; they grow with the longest one."""


class Memory:
    """The host's view of the request table and the KV cache.

    ``kv``      [N] positions computed by the steps launched so far, a row each; all drafts in flight counted.
    ``drafts``  [N] drafts in flight: so many of the positions may turn out not to be there.
    ``undrawn`` [N] its last token waits for a mask: it takes part in no step until that is drawn.
    ``final``   [N] the same when the request ends by count.
    ``last``    [N] the last step that the row was part of.
    ``pages``   the page tables, a group each: [N, at least the pages of the longest sequence that there was].
    """

    def __init__(
        self,
        groups: Sequence[HostGroup],
        num_pages: Sequence[int],
        max_requests: int,
        context_length: int,
        *,
        radix: bool = True,
    ) -> None:
        self.groups = list(groups)
        self.geometry = Geometry(groups)
        self.page_size = self.geometry.base
        """Tokens of the smallest pages."""
        self.unit = self.geometry.unit
        self.allocators = [PageAllocator(n) for n in num_pages]
        self.row_allocator = PageAllocator(max_requests + 1)
        self.windows = self.geometry.windows
        self.max_length = min([context_length, *self._longest()])
        """Tokens that one sequence can have: the model's context, or what the cache can hold."""
        self._check_windows()
        self.cache: PrefixCache = RadixCache(self.geometry, self.allocators) if radix else NoPrefixCache(self.geometry)
        rows = max_requests + 1
        self.kv = np.zeros(rows, dtype=np.int32)
        self.drafts = np.zeros(rows, dtype=np.int32)
        self.undrawn = np.zeros(rows, dtype=np.bool_)
        self.final = np.zeros(rows, dtype=np.int32)
        self.last = np.full(rows, -1, dtype=np.int64)
        self.owned = np.zeros(rows, dtype=np.int32)
        self.dead = np.zeros((len(self.groups), rows), dtype=np.int32)
        first = min(self.max_length, FIRST_LENGTH)
        self.pages = [np.zeros((rows, -(-first // size)), dtype=np.int32) for size in self.geometry.sizes]
        self._nothing = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty((len(self.groups), 0), np.int32))
        self._locks: dict[int, Lock] = {}
        self._replaced: dict[int, IntArray] = {}

    def _longest(self) -> list[int]:
        groups = zip(self.allocators, self.groups, strict=True)
        return [allocator.capacity * group.page_size for allocator, group in groups if group.window is None]

    def _check_windows(self) -> None:
        for g, window in self.windows:
            group, capacity = self.groups[g], self.allocators[g].capacity
            least = least_pages(group, self.unit, self.max_length)
            if capacity < least:
                raise InvalidSettings(
                    f"cache group {group.name!r} has {capacity} pages of {group.page_size} tokens, but a window of "
                    f"{window} tokens needs at least {least}: give the cache more memory"
                )

    # -- pages ---------------------------------------------------------------------------------------------

    def reserve(self, counts: Sequence[int]) -> bool:
        """Make so many pages of each group free, out of the prefix cache if need be; False if that fails."""
        needs = [count - a.num_free for count, a in zip(counts, self.allocators, strict=True)]
        if max(needs) <= 0:
            return True
        self.cache.evict([max(0, need) for need in needs])
        return all(a.num_free >= count for count, a in zip(counts, self.allocators, strict=True))

    def reserve_decodes(self, starts: IntArray, fresh: IndexArray, ahead: int) -> bool:
        """:meth:`reserve` for one more position at each of ``starts``, of which those at ``fresh`` begin a page, and
        for ``ahead`` more tokens as far as that takes no more than an eighth of a group."""
        if not (len(fresh) or ahead):
            return True
        sizes = zip(self.geometry.sizes, self.geometry.factors, strict=True)
        begun = [len(fresh) if f == 1 else int(np.count_nonzero(starts[fresh] % size == 0)) for size, f in sizes]
        return self._reserve(begun, ahead)

    def _reserve(self, counts: Sequence[int], ahead: int) -> bool:
        spare = [
            min(-(-ahead // size), a.capacity // 8)
            for size, a in zip(self.geometry.sizes, self.allocators, strict=True)
        ]
        return self.reserve([count + more for count, more in zip(counts, spare, strict=True)])

    def available(self) -> IntArray:
        """Pages that are free or could be evicted, int32 [G]."""
        return np.array([a.num_free + e for a, e in zip(self.allocators, self.cache.evictable, strict=True)])

    def begun(self, length: int, count: int) -> list[int]:
        """Pages of each group that ``count`` tokens behind position ``length`` begin."""
        return [-(-(length + count) // size) + -length // size for size in self.geometry.sizes]

    def _take(self, group: int, count: int) -> IntArray:
        """``count`` free pages of a group, which must have been reserved."""
        taken = self.allocators[group].alloc(count)
        assert taken is not None, f"{count} pages were not reserved"
        return taken

    # -- a request's life ----------------------------------------------------------------------------------

    def admit(self, request: Request, match: Match, lock: Lock) -> PageChanges:
        """Give ``request`` a row that begins with the matched prefix, on which ``lock`` is a hold."""
        row_ids = self.row_allocator.alloc(1)
        assert row_ids is not None, "no row is free"
        row = request.row = int(row_ids[0])
        self._locks[row] = lock
        self.kv[row] = match.length
        self.final[row] = request.final_length
        self.owned[row] = match.length // self.unit
        self.dead[:, row] = 0
        for g, window in self.windows:
            self.dead[g, row] = first_live(match.length, window, self.unit)
        self._reach(match.length)
        for table, ids, dead in zip(self.pages, match.pages, self.dead[:, row], strict=True):
            table[row, : ids.size] = ids.ravel()
            table[row, : dead * ids.shape[1]] = 0
        return self._entries(row, np.arange(match.length // self.page_size, dtype=np.int32))

    def _reach(self, length: int) -> None:
        """Make the page tables wide enough for sequences of ``length`` tokens: twice as wide, each time."""
        for g, size in enumerate(self.geometry.sizes):
            table, needed = self.pages[g], -(-length // size)
            rows, width = table.shape
            if needed > width:
                self.pages[g] = np.zeros((rows, max(needed, 2 * width)), dtype=np.int32)
                self.pages[g][:, :width] = table

    def _entries(self, rows: IntArray | int, indices: IntArray) -> PageChanges:
        """The page table entries of ``rows`` at ``indices``, as they are now."""
        ids = [table[rows, indices // factor] for table, factor in zip(self.pages, self.geometry.factors, strict=True)]
        at = np.full(len(indices), rows, dtype=np.int32) if isinstance(rows, int) else rows
        return at, indices, np.stack(ids)

    def fit(self, length: int, count: int) -> int:
        """How many of the ``count`` tokens behind position ``length`` there are pages for now."""
        if self.reserve(self.begun(length, count)):
            return count
        rooms = [
            (-(-length // size) + a.num_free) * size
            for size, a in zip(self.geometry.sizes, self.allocators, strict=True)
        ]
        return min(count, min(rooms) - length)

    def extend(self, row: int, count: int) -> PageChanges:
        """Pages for the next ``count`` positions of ``row``, which ``fit`` has found room for; counts them in."""
        kv = int(self.kv[row])
        self._reach(kv + count)
        for g, (size, new) in enumerate(zip(self.geometry.sizes, self.begun(kv, count), strict=True)):
            have = -(-kv // size)
            self.pages[g][row, have : have + new] = self._take(g, new)
        self.kv[row] = kv + count
        first, last = -(-kv // self.page_size), -(-(kv + count) // self.page_size)
        return self._entries(row, np.arange(first, last, dtype=np.int32))

    def extend_decodes(self, rows: IntArray, starts: IntArray, fresh: IndexArray) -> PageChanges:
        """One more position for each of ``rows``; those at ``fresh`` (indices into ``rows``) begin a page."""
        self.kv[rows] = starts + 1
        if not len(fresh):
            return self._nothing
        at, begins = rows[fresh], starts[fresh]
        self._reach(int(begins.max()) + 1)
        ids = np.empty((len(self.pages), len(fresh)), dtype=np.int32)
        for g, (table, size, factor) in enumerate(
            zip(self.pages, self.geometry.sizes, self.geometry.factors, strict=True)
        ):
            if factor == 1:
                ids[g] = table[at, begins // size] = self._take(g, len(fresh))
            else:
                new = begins % size == 0
                table[at[new], begins[new] // size] = self._take(g, int(np.count_nonzero(new)))
                ids[g] = table[at, begins // size]
        return at, begins // self.page_size, ids

    def reserve_runs(self, starts: IntArray, counts: IntArray, ahead: int) -> bool:
        """:meth:`reserve_decodes` for ``counts`` more positions from each of ``starts`` on."""
        return self._reserve([len(_begun(starts, counts, size)[0]) for size in self.geometry.sizes], ahead)

    def extend_runs(self, rows: IntArray, starts: IntArray, counts: IntArray) -> PageChanges:
        """``counts`` more positions for each of ``rows``, of which all but one each are drafts; reserved for."""
        self.kv[rows] = starts + counts
        self.drafts[rows] += counts - 1
        self._reach(int((starts + counts).max()))
        for g, (table, size) in enumerate(zip(self.pages, self.geometry.sizes, strict=True)):
            which, indices = _begun(starts, counts, size)
            table[rows[which], indices] = self._take(g, len(which))
        which, indices = _begun(starts, counts, self.page_size)
        return self._entries(rows[which], indices)

    def settle(self, rows: IntArray, drafts: IntArray, rejected: IntArray) -> None:
        """Of the ``drafts`` of a step that has completed ``rejected`` of each of ``rows`` were wrong: free their pages.

        Steps in flight were launched for as many positions more; they do not reach the pages behind the new end.
        """
        self.drafts[rows] -= drafts
        self.kv[rows] -= rejected
        ends, steps = self.kv[rows], self.last[rows]
        for table, size, allocator in zip(self.pages, self.geometry.sizes, self.allocators, strict=True):
            which, indices = _begun(ends, rejected, size)
            pages, last = table[rows[which], indices], steps[which]
            for step in np.unique(last).tolist():
                allocator.free(pages[last == step], step)

    def share(self, request: Request, step: int) -> None:
        """Give the prefix cache what ``request`` has computed of its ``tokens``, ``step`` (just made) included.

        Where the cache has a page already, the request goes on with that one.
        """
        row = request.row
        count, owned = int(self.kv[row]) // self.unit, int(self.owned[row])
        if count <= owned:
            return
        result = self.cache.insert(
            request.tokens[: count * self.unit], self._visible(row, count), request.extra_key, step
        )
        count = len(result.pages[0])
        if count == 0:
            return
        for g, theirs in enumerate(result.pages):
            theirs[: self.dead[g, row]] = 0
            self._replace(g, row, owned * theirs.shape[1], theirs[owned:].ravel())
        self._free(result.duplicates, step)
        lock = self.cache.lock(result.node)
        self.cache.unlock(self._locks[row], step)
        self._locks[row] = lock
        self.owned[row] = count
        for g, _ in self.windows:
            self.dead[g, row] = max(self.dead[g, row], lock.tops[g] // self.unit)

    def _replace(self, group: int, row: int, begin: int, ids: IntArray) -> None:
        """Go on with the pages ``ids`` of a group from its index ``begin`` on; remembers where they are others."""
        table = self.pages[group][row, begin : begin + len(ids)]
        changed = np.flatnonzero(table != ids)
        if len(changed):
            table[:] = ids
            indices = (changed + begin).astype(np.int32) * np.int32(self.geometry.factors[group])
            earlier = self._replaced.get(row)
            self._replaced[row] = indices if earlier is None else np.union1d(earlier, indices)

    def replaced(self) -> list[PageChanges]:
        """Page table entries that ``share`` has changed since the last call."""
        changes = [self._entries(row, indices) for row, indices in self._replaced.items()]
        self._replaced.clear()
        return changes

    def drop_windows(self, rows: IntArray, step: int) -> None:
        """Free window pages that no later query reads; steps before ``step`` may still read them."""
        for g, window in self.windows:
            # As if the next query were at its unit's begin: a later match may end there, and needs its window.
            unit_start = (self.kv[rows] - self.drafts[rows]) // self.unit * self.unit
            passed = np.maximum(unit_start - (window - 1), 0) // self.unit
            dead = self.dead[g, rows]
            late = np.flatnonzero(passed > dead)
            if not len(late):
                continue
            behind, first, last = rows[late], dead[late], passed[late]
            self.dead[g, behind] = last
            owned = self.owned[behind]
            for i in np.flatnonzero((first < owned) & (last >= owned)).tolist():
                lock = self._locks[int(behind[i])]
                self.cache.advance(lock, g, int(owned[i]) * self.unit, step - 1)
            table, count = self.pages[g], self.geometry.per_unit[g]
            simple = (first >= owned) & (last - first == 1)
            one, at = behind[simple][:, None], first[simple][:, None] * count + np.arange(count)
            self.allocators[g].free(table[one, at].ravel(), step - 1)
            table[one, at] = 0
            for i in np.flatnonzero(~simple & (last > owned)).tolist():
                begin = max(int(first[i]), int(owned[i]))
                span = table[behind[i], begin * count : last[i] * count]
                self.allocators[g].free(span.copy(), step - 1)
                span[:] = 0

    def release(self, request: Request, *, keep: bool = True) -> None:
        """Take back row and pages of ``request``, usable once the last step that it is part of has retired.

        With ``keep`` what has been computed of its known tokens stays in the prefix cache.
        """
        row = request.row
        kv, owned, last = int(self.kv[row]), int(self.owned[row]), int(self.last[row])
        count = min(kv, request.num_tokens) // self.unit if keep else 0
        if count > owned:
            known = request.known_tokens()[: count * self.unit]
            result = self.cache.insert(known, self._visible(row, count), request.extra_key, last)
            owned = len(result.pages[0])
            self._free(result.duplicates, last)
        for g, dead in enumerate(self.dead[:, row].tolist()):
            begin, end = max(dead, owned) * self.geometry.per_unit[g], -(-kv // self.geometry.sizes[g])
            self.allocators[g].free(self.pages[g][row, begin:end].copy(), last)
        self.cache.unlock(self._locks.pop(row), last)
        self.row_allocator.free(np.array([row], dtype=np.int32), last)
        self._replaced.pop(row, None)
        self.kv[row] = self.owned[row] = self.drafts[row] = 0
        self.undrawn[row] = False
        self.last[row] = -1
        request.row = 0

    def shared_prefix(self, request: Request) -> tuple[Node, int]:
        """The node up to which a running request's pages are in the prefix cache, and how many tokens that is."""
        return self._locks[request.row].node, int(self.owned[request.row]) * self.unit

    def retire(self, step: int) -> None:
        """Step ``step`` has completed: what waited for it is free."""
        self.row_allocator.retire(step)
        for allocator in self.allocators:
            allocator.retire(step)

    def _visible(self, row: int, units: int) -> list[IntArray]:
        """The pages of a row's first ``units`` units, as the prefix cache takes them."""
        visible = []
        for table, count, dead in zip(self.pages, self.geometry.per_unit, self.dead[:, row], strict=True):
            pages = table[row, : units * count].reshape(units, count).copy()
            pages[:dead] = 0
            visible.append(pages)
        return visible

    def _free(self, pages: Sequence[IntArray], step: int) -> None:
        for allocator, ids in zip(self.allocators, pages, strict=True):
            allocator.free(ids, step)


def _begun(starts: IntArray, counts: IntArray, size: int) -> tuple[IndexArray, IntArray]:
    """Pages that ``counts`` positions from ``starts`` on begin: (which of ``starts``, index of the page), [m] each."""
    have = -(-starts // size)
    more = -(-(starts + counts) // size) - have
    which = np.repeat(np.arange(len(starts)), more)
    within = np.arange(len(which)) - np.repeat(np.cumsum(more) - more, more)
    return which, (have[which] + within).astype(np.int32)
