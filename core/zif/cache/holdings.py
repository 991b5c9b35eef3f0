"""The pages that the nodes of a radix tree have: how many, and which are given up when pages run out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from zif.cache.allocator import IntArray, PageAllocator
from zif.cache.groups import Geometry
from zif.cache.node import LruHeap, Node
from zif.cache.watch import Grown


class Holdings:
    """Counts pages, a cache group each, and evicts them from the nodes used least recently.

    The tree says what becomes of a node: that it has come (:meth:`add`), got pages (:meth:`fill`), is held
    (:meth:`hold`, :meth:`release`), or may have become one to evict from (:meth:`offer`).

    ``version`` changes whenever a match may. ``total`` pages, of which no lock needs ``evictable``.
    """

    def __init__(self, geometry: Geometry, allocators: Sequence[PageAllocator], grown: Grown) -> None:
        """``grown`` is told of watches whose place goes."""
        self._grown = grown
        self.version = 0
        self.num_tokens = 0
        self.total = [0] * geometry.num_groups
        self.evictable = [0] * geometry.num_groups
        self._unit = geometry.unit
        self._per_unit = geometry.per_unit
        self._windows = geometry.all_windows
        self._allocators = list(allocators)
        self._leaves = LruHeap(_is_free_leaf)
        self._droppable = {g: LruHeap(_droppable_in(g)) for g, _ in geometry.windows}

    def add(self, node: Node) -> None:
        """A new node, which nothing holds."""
        self.num_tokens += len(node.tokens)
        for g, live in enumerate(node.live):
            assert self._windows[g] is not None or live == node.pages[g].size, "a page of a full group is missing"
            self.total[g] += live
            self.evictable[g] += live
        self.version += 1
        self.offer(node)

    def fill(self, node: Node, group: int, count: int) -> None:
        """A node has got ``count`` pages of a window group that it lacked."""
        node.live[group] += count
        self.total[group] += count
        if node.held[group] == 0:
            self.evictable[group] += count
        self._droppable[group].offer(node)
        self.version += 1

    def hold(self, node: Node, group: int) -> None:
        """A lock needs the node's pages."""
        if node.held[group] == 0:
            self.evictable[group] -= node.live[group]
        node.held[group] += 1
        assert node.live[group] == node.pages[group].size, "locked a prefix whose window is not all there"

    def release(self, node: Node, group: int) -> None:
        """A lock does not need them any more."""
        assert node.held[group] > 0
        node.held[group] -= 1
        if node.held[group] == 0:
            self.evictable[group] += node.live[group]
            if group in self._droppable:
                self._droppable[group].offer(node)

    def offer(self, node: Node) -> None:
        """A node that is held by a lock less, or has been cut."""
        self._leaves.offer(node)
        for heap in self._droppable.values():
            heap.offer(node)

    def evict(self, needs: Sequence[int]) -> list[int]:
        """See :meth:`zif.cache.prefix.PrefixCache.evict`."""
        freed = [0] * len(self.total)
        for g, need in enumerate(needs):
            if need > freed[g]:
                self._evict_from(g, need, freed)
        return freed

    def _evict_from(self, group: int, need: int, freed: list[int]) -> None:
        heap = self._droppable.get(group, self._leaves)
        in_use: list[Node] = []
        while freed[group] < need:
            node = heap.pop()
            if node is None:
                break
            if node.busy > self._allocators[group].retired:
                in_use.append(node)
                continue
            units = -(-(need - freed[group]) // self._per_unit[group])
            if heap is self._leaves:
                self._trim(node, min(units, node.units), freed)
            else:
                self._drop(node, group, units, freed)
                self._trim_dead_tail(node, freed)
            heap.offer(node)
        for node in in_use:
            heap.offer(node)

    def _drop(self, node: Node, group: int, units: int, freed: list[int]) -> None:
        """Drop a window group's pages of up to ``units`` units, from the front: the end serves longer matches."""
        pages = node.pages[group]
        at = np.flatnonzero(pages[:, 0])[:units]
        self._forget(node, group, pages[at].ravel(), freed)
        pages[at] = 0
        self.version += 1

    def _trim_dead_tail(self, node: Node, freed: list[int]) -> None:
        """Cut off the end of an unlocked leaf where a window group has dropped it: no match can end there."""
        while node.attached and _is_free_leaf(node) and node.busy <= self._allocators[0].retired:
            parent = node.parent
            assert parent is not None
            keep = min(_last_live(node.pages[g]) for g in self._droppable)
            if keep == node.units:
                break
            self._trim(node, node.units - keep, freed)
            node = parent if keep == 0 else node

    def _trim(self, node: Node, units: int, freed: list[int]) -> None:
        """Cut the last ``units`` units off an unlocked leaf, in every group; the leaf goes if none is left."""
        assert _is_free_leaf(node)
        keep = node.units - units
        for g, pages in enumerate(node.pages):
            tail = pages[keep:]
            self._forget(node, g, tail[tail != 0], freed)
        self.num_tokens -= units * self._unit
        self.version += 1
        end = node.start + keep * self._unit
        for position in [p for p in node.watches or () if p > end]:
            assert node.watches is not None
            self._grown.add_all(node.watches.pop(position))
        if keep:
            node.tokens = node.tokens[: keep * self._unit]
            node.pages = [pages[:keep] for pages in node.pages]
            return
        parent = node.parent
        assert parent is not None
        del parent.children[node.edge(self._unit)]
        node.parent = None
        self._leaves.offer(parent)

    def _forget(self, node: Node, group: int, pages: IntArray, freed: list[int]) -> None:
        count = len(pages)
        assert node.held[group] == 0
        self._allocators[group].free(pages.copy(), after_step=node.busy)
        freed[group] += count
        node.live[group] -= count
        self.total[group] -= count
        self.evictable[group] -= count

    def flush(self, nodes: Iterable[Node]) -> None:
        """Free all pages of ``nodes``, which are all that there are, and part them from their tree."""
        assert self.total == self.evictable, "flushed while a prefix is locked"
        for node in nodes:
            for allocator, pages in zip(self._allocators, node.pages, strict=True):
                allocator.free(pages[pages != 0], after_step=node.busy)
            node.parent = None
        for heap in (self._leaves, *self._droppable.values()):
            heap.clear()
        self.total = [0] * len(self.total)
        self.evictable = [0] * len(self.total)
        self.num_tokens = 0
        self.version += 1

    def check(self, nodes: Iterable[Node]) -> None:
        """Assert what holds of ``nodes``, which are all that there are."""
        groups = range(len(self.total))
        evictable, tokens = [0 for _ in groups], 0
        seen: list[list[IntArray]] = [[] for _ in groups]
        for node in nodes:
            tokens += len(node.tokens)
            for g in groups:
                pages = node.pages[g]
                live = pages[pages != 0]
                assert node.live[g] == len(live)
                assert ((pages != 0).all(axis=1) | (pages == 0).all(axis=1)).all(), "a unit is there in part"
                assert 0 <= node.held[g] <= node.locks
                if self._windows[g] is None:
                    assert node.held[g] == node.locks
                    assert len(live) == pages.size
                elif node.held[g] == 0 and len(live):
                    assert node in self._droppable[g], "a droppable node is out of reach of eviction"
                if node.held[g]:
                    assert len(live) == pages.size, "a held page was dropped"
                else:
                    evictable[g] += len(live)
                assert self._allocators[g].in_use(live)
                seen[g].append(live)
            assert not _is_free_leaf(node) or node in self._leaves, "a leaf is out of reach of eviction"
        joined = [np.concatenate(pages) if pages else np.empty(0, dtype=np.int32) for pages in seen]
        for ids in joined:
            assert len(np.unique(ids)) == len(ids), "two nodes own one page"
        total = [len(ids) for ids in joined]
        assert (total, evictable, tokens) == (self.total, self.evictable, self.num_tokens)


def _is_free_leaf(node: Node) -> bool:
    return not node.children and node.locks == 0 and node.attached


def _droppable_in(group: int) -> Callable[[Node], bool]:
    def droppable(node: Node) -> bool:
        return node.held[group] == 0 and node.live[group] > 0 and node.attached

    return droppable


def _last_live(pages: IntArray) -> int:
    """One more than the index of the last unit that is there; 0 if none is."""
    at = np.flatnonzero(pages[:, 0])
    return int(at[-1]) + 1 if len(at) else 0
