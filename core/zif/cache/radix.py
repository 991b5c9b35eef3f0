"""The radix prefix cache (Zheng et al. 2024, SGLang), a page id per cache group in every node.

A tree over token ids at page granularity. Groups without a window keep every page of a node. A window
group keeps what it can: pages that no lock needs are dropped one by one ("tombstones", page id 0), and a
prefix matches only where the pages that its next query sees are all there. So a model that mixes both
kinds shares one tree, and memory runs out in each group by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np

from zif.cache.allocator import IntArray, PageAllocator
from zif.cache.groups import HostGroup, first_live_page
from zif.cache.node import LruHeap, Node
from zif.cache.prefix import InsertResult, Lock, Match


class RadixCache:
    """See :class:`zif.cache.prefix.PrefixCache` for the meaning of each method."""

    def __init__(self, groups: Sequence[HostGroup], allocators: Sequence[PageAllocator], page_size: int) -> None:
        assert len(groups) == len(allocators) > 0
        assert page_size >= 1
        self.page_size = page_size
        self.version = 0
        self._allocators = list(allocators)
        self._windows = [group.window for group in groups]
        self._window_groups = [(g, group.window) for g, group in enumerate(groups) if group.window is not None]
        self._num_groups = len(groups)
        self._roots: dict[Hashable, Node] = {}
        self._clock = 0
        self._total = [0] * self._num_groups
        self._evictable = [0] * self._num_groups
        self._num_tokens = 0
        self._leaves = LruHeap(_is_free_leaf)
        self._droppable = {g: LruHeap(_droppable_in(g)) for g, _ in self._window_groups}

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    @property
    def total(self) -> Sequence[int]:
        return self._total

    @property
    def evictable(self) -> Sequence[int]:
        return self._evictable

    @property
    def protected(self) -> Sequence[int]:
        """Pages that a lock holds, a group each."""
        return [total - evictable for total, evictable in zip(self._total, self._evictable, strict=True)]

    # -- finding -------------------------------------------------------------------------------------------

    def match_length(self, tokens: IntArray, extra_key: Hashable = None) -> int:
        path, length = self._walk(tokens, extra_key)
        return self._valid_pages(path, length) * self.page_size

    def match(self, tokens: IntArray, extra_key: Hashable = None) -> Match:
        path, length = self._walk(tokens, extra_key)
        length = self._valid_pages(path, length) * self.page_size
        while path and path[-1].start >= length:
            path.pop()
        if not path:
            return Match(self._root(extra_key), 0, np.empty((self._num_groups, 0), dtype=np.int32))
        if path[-1].end > length:
            path[-1] = self._split(path[-1], length)
        self._touch(path)
        return Match(path[-1], length, np.concatenate([node.pages for node in path], axis=1))

    # -- holding -------------------------------------------------------------------------------------------

    def lock(self, node: Node) -> Lock:
        tops = [0] * self._num_groups
        for g, window in self._window_groups:
            tops[g] = first_live_page(node.end, window, self.page_size) * self.page_size
            self._split_path(node, tops[g])
        for held in node.path():
            held.locks += 1
            for g in range(self._num_groups):
                if held.start >= tops[g]:
                    if held.held[g] == 0:
                        self._evictable[g] -= held.live[g]
                    held.held[g] += 1
                    assert held.live[g] == held.pages.shape[1], "locked a prefix whose window is not all there"
        return Lock(node, tops)

    def unlock(self, lock: Lock, after_step: int) -> None:
        for node in lock.node.path():
            assert node.locks > 0, "unlocked a node that is not locked"
            node.locks -= 1
            node.busy = max(node.busy, after_step)
            for g, top in enumerate(lock.tops):
                if node.start >= top:
                    self._release(node, g)
            self._leaves.offer(node)

    def advance(self, lock: Lock, group: int, position: int, after_step: int) -> None:
        assert self._windows[group] is not None
        top = lock.tops[group]
        for node in lock.node.path():
            if node.start < top:
                break
            if node.end <= position:
                lock.tops[group] = max(lock.tops[group], node.end)
                node.busy = max(node.busy, after_step)
                self._release(node, group)

    # -- growing -------------------------------------------------------------------------------------------

    def insert(self, tokens: IntArray, pages: IntArray, extra_key: Hashable, after_step: int) -> InsertResult:
        assert pages.shape == (self._num_groups, len(tokens) // self.page_size)
        assert len(tokens) % self.page_size == 0
        path, present = self._walk(tokens, extra_key)
        if path and path[-1].end > present:
            path[-1] = self._split(path[-1], present)
        result = pages.copy()
        duplicates: list[list[IntArray]] = [[] for _ in range(self._num_groups)]
        for node in path:
            span = slice(node.start // self.page_size, node.end // self.page_size)
            if not np.array_equal(node.pages, result[:, span]):
                self._merge(node, result[:, span], duplicates)
        node = path[-1] if path else self._root(extra_key)
        if present < len(tokens):
            node = self._append(node, present, tokens[present:].copy(), pages[:, present // self.page_size :].copy())
            path.append(node)
            self._leaves.offer(node)
        for used in path:
            used.busy = max(used.busy, after_step)
        self._touch(path)
        joined = [np.concatenate(d) if d else np.empty(0, dtype=np.int32) for d in duplicates]
        return InsertResult(node, present, result, joined)

    def _append(self, parent: Node, start: int, tokens: IntArray, pages: IntArray) -> Node:
        node = Node(parent, start, tokens, pages)
        parent.children[self._edge(tokens)] = node
        self._num_tokens += len(tokens)
        for g in range(self._num_groups):
            assert self._windows[g] is not None or node.live[g] == pages.shape[1], "a page of a full group is missing"
            self._total[g] += node.live[g]
            self._evictable[g] += node.live[g]
        self.version += 1
        for heap in self._droppable.values():
            heap.offer(node)
        return node

    def _merge(self, node: Node, given: IntArray, duplicates: list[list[IntArray]]) -> None:
        """Take from ``given`` what ``node`` lacks, and write into it what ``node`` has instead."""
        for g in range(self._num_groups):
            ours, theirs = node.pages[g], given[g]
            lacking = (ours == 0) & (theirs != 0)
            if lacking.any():
                ours[lacking] = theirs[lacking]
                count = int(np.count_nonzero(lacking))
                node.live[g] += count
                self._total[g] += count
                if node.held[g] == 0:
                    self._evictable[g] += count
                self._droppable[g].offer(node)
                self.version += 1
            double = (theirs != 0) & (theirs != ours)
            if double.any():
                duplicates[g].append(theirs[double])
            theirs[:] = ours

    # -- shrinking -----------------------------------------------------------------------------------------

    def evict(self, needs: Sequence[int]) -> list[int]:
        freed = [0] * self._num_groups
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
            if heap is self._leaves:
                self._trim(node, min(need - freed[group], node.pages.shape[1]), freed)
            else:
                self._drop(node, group, need - freed[group], freed)
                self._trim_dead_tail(node, freed)
            heap.offer(node)
        for node in in_use:
            heap.offer(node)

    def _drop(self, node: Node, group: int, count: int, freed: list[int]) -> None:
        """Drop up to ``count`` pages of a window group, from the front: the end serves longer matches."""
        row = node.pages[group]
        at = np.flatnonzero(row)[:count]
        self._forget(node, group, row[at], freed)
        row[at] = 0
        self.version += 1

    def _trim_dead_tail(self, node: Node, freed: list[int]) -> None:
        """Cut off the end of an unlocked leaf where a window group has dropped it: no match can end there."""
        while node.attached and _is_free_leaf(node) and node.busy <= self._allocators[0].retired:
            parent = node.parent
            assert parent is not None
            keep = min(_last_live(node.pages[g]) for g, _ in self._window_groups)
            if keep == node.pages.shape[1]:
                break
            self._trim(node, node.pages.shape[1] - keep, freed)
            node = parent if keep == 0 else node

    def _trim(self, node: Node, count: int, freed: list[int]) -> None:
        """Cut the last ``count`` pages off an unlocked leaf, in every group; the leaf goes if none is left."""
        assert _is_free_leaf(node)
        keep = node.pages.shape[1] - count
        for g in range(self._num_groups):
            tail = node.pages[g, keep:]
            self._forget(node, g, tail[tail != 0], freed)
        self._num_tokens -= count * self.page_size
        self.version += 1
        if keep:
            node.tokens = node.tokens[: keep * self.page_size]
            node.pages = node.pages[:, :keep]
            return
        parent = node.parent
        assert parent is not None
        del parent.children[self._edge(node.tokens)]
        node.parent = None
        self._leaves.offer(parent)

    def _forget(self, node: Node, group: int, pages: IntArray, freed: list[int]) -> None:
        count = len(pages)
        assert node.held[group] == 0
        self._allocators[group].free(pages.copy(), after_step=node.busy)
        freed[group] += count
        node.live[group] -= count
        self._total[group] -= count
        self._evictable[group] -= count

    def flush(self) -> None:
        assert sum(self.protected) == 0, "flushed while a prefix is locked"
        for node in list(self._nodes()):
            for g in range(self._num_groups):
                self._allocators[g].free(node.pages[g][node.pages[g] != 0], after_step=node.busy)
            node.parent = None
        self._roots.clear()
        self._leaves.clear()
        for heap in self._droppable.values():
            heap.clear()
        self._total = [0] * self._num_groups
        self._evictable = [0] * self._num_groups
        self._num_tokens = 0
        self.version += 1

    # -- the tree ------------------------------------------------------------------------------------------

    def _root(self, extra_key: Hashable) -> Node:
        root = self._roots.get(extra_key)
        if root is None:
            root = self._roots[extra_key] = Node.root(self._num_groups)
        return root

    def _edge(self, tokens: IntArray) -> bytes:
        return tokens[: self.page_size].tobytes()

    def _walk(self, tokens: IntArray, extra_key: Hashable) -> tuple[list[Node], int]:
        """Nodes that spell a prefix of ``tokens`` (the last one perhaps only in part), and its length."""
        path: list[Node] = []
        node = self._roots.get(extra_key)
        position, end, page_size = 0, len(tokens) // self.page_size * self.page_size, self.page_size
        while node is not None and position < end:
            node = node.children.get(tokens[position : position + page_size].tobytes())
            if node is None:
                break
            path.append(node)
            common = _common_prefix(node.tokens, tokens[position:end]) // page_size * page_size
            position += common
            if common < len(node.tokens):
                break
        return path, position

    def _valid_pages(self, path: list[Node], length: int) -> int:
        """The most pages, of ``length`` tokens along ``path``, after which every window is all there."""
        most = length // self.page_size
        if not self._window_groups or most == 0:
            return most
        ends = np.arange(most + 1, dtype=np.int64)
        valid = np.ones(most + 1, dtype=np.bool_)
        for g, window in self._window_groups:
            row = np.concatenate([node.pages[g] for node in path])[:most]
            # behind[m]: pages up to and with the last dropped one before page m; all must be out of sight.
            behind = np.zeros(most + 1, dtype=np.int64)
            np.maximum.accumulate(np.where(row == 0, ends[1:], 0), out=behind[1:])
            valid &= behind <= np.maximum(ends * self.page_size - window + 1, 0) // self.page_size
        return int(np.flatnonzero(valid)[-1])

    def _touch(self, path: list[Node]) -> None:
        self._clock += 1
        for node in path:
            node.access = self._clock

    def _split(self, node: Node, position: int) -> Node:
        """Cut ``node`` in two at ``position``; returns the upper part. ``node`` stays the lower: holds end there."""
        count = position - node.start
        at = count // self.page_size
        assert 0 < count < len(node.tokens)
        assert count % self.page_size == 0
        parent = node.parent
        assert parent is not None
        upper = Node(parent, node.start, node.tokens[:count], node.pages[:, :at])
        parent.children[self._edge(upper.tokens)] = upper
        node.parent, node.start = upper, position
        node.tokens, node.pages = node.tokens[count:], node.pages[:, at:]
        upper.children[self._edge(node.tokens)] = node
        node.live = [whole - part for whole, part in zip(node.live, upper.live, strict=True)]
        upper.locks, upper.held = node.locks, list(node.held)
        upper.access, upper.busy = node.access, node.busy
        for heap in self._droppable.values():
            heap.offer(upper)
        return upper

    def _split_path(self, node: Node, position: int) -> None:
        """See to it that a node between ``node`` and its root begins at ``position``."""
        for part in node.path():
            if part.start <= position:
                if part.start < position < part.end:
                    self._split(part, position)
                return

    def _release(self, node: Node, group: int) -> None:
        assert node.held[group] > 0
        node.held[group] -= 1
        if node.held[group] == 0:
            self._evictable[group] += node.live[group]
            if group in self._droppable:
                self._droppable[group].offer(node)

    def _nodes(self) -> Iterator[Node]:
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            yield node

    def check(self) -> None:
        total, evictable, tokens = [0] * self._num_groups, [0] * self._num_groups, 0
        seen: list[list[IntArray]] = [[] for _ in range(self._num_groups)]
        for node in self._nodes():
            parent = node.parent
            assert parent is not None
            assert parent.children[self._edge(node.tokens)] is node
            assert node.start == parent.end
            assert len(node.tokens) == node.pages.shape[1] * self.page_size > 0
            assert node.locks >= sum(child.locks for child in node.children.values())
            tokens += len(node.tokens)
            for g in range(self._num_groups):
                live = node.pages[g][node.pages[g] != 0]
                assert node.live[g] == len(live)
                assert 0 <= node.held[g] <= node.locks
                if self._windows[g] is None:
                    assert node.held[g] == node.locks
                    assert len(live) == node.pages.shape[1]
                elif node.held[g] == 0 and len(live):
                    assert node in self._droppable[g], "a droppable node is out of reach of eviction"
                if node.held[g]:
                    assert len(live) == node.pages.shape[1], "a held page was dropped"
                else:
                    evictable[g] += len(live)
                total[g] += len(live)
                assert self._allocators[g].in_use(live)
                seen[g].append(live)
            assert not _is_free_leaf(node) or node in self._leaves, "a leaf is out of reach of eviction"
        for pages in seen:
            joined = np.concatenate(pages) if pages else np.empty(0, dtype=np.int32)
            assert len(np.unique(joined)) == len(joined), "two nodes own one page"
        assert (total, evictable, tokens) == (self._total, self._evictable, self._num_tokens)


def _is_free_leaf(node: Node) -> bool:
    return not node.children and node.locks == 0 and node.attached


def _droppable_in(group: int) -> Callable[[Node], bool]:
    def droppable(node: Node) -> bool:
        return node.held[group] == 0 and node.live[group] > 0 and node.attached

    return droppable


def _last_live(row: IntArray) -> int:
    """One more than the index of the last page that is there; 0 if none is."""
    at = np.flatnonzero(row)
    return int(at[-1]) + 1 if len(at) else 0


def _common_prefix(a: IntArray, b: IntArray) -> int:
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    first = int(differ.argmax())
    return first if differ[first] else n
