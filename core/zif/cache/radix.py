"""The radix prefix cache (Zheng et al. 2024, SGLang), a page id per cache group in every node.

A tree over token ids, by units: the least number of tokens that is whole pages in every group. Groups without a
window keep every page of a node. A window group keeps what it can: pages that no lock needs are dropped, a unit's
together ("tombstones", page id 0), and a prefix matches only where the units that its next query sees are all there. So
a model that mixes both kinds, and page sizes, shares one tree, and memory runs out in each group by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from zif.cache.allocator import IntArray, PageAllocator
from zif.cache.groups import Geometry, first_live
from zif.cache.holdings import Holdings
from zif.cache.node import Node
from zif.cache.prefix import InsertResult, Lock, Match
from zif.cache.watch import Grown, Watch

_PRUNE_FROM = 1024
"""Roots from which on those without children are dropped: clients choose the keys, and may never use one twice."""


class RadixCache:
    """See :class:`zif.cache.prefix.PrefixCache` for the meaning of each method."""

    def __init__(self, geometry: Geometry, allocators: Sequence[PageAllocator]) -> None:
        assert geometry.num_groups == len(allocators)
        self.unit = geometry.unit
        self._geometry = geometry
        self._roots: dict[Hashable, Node] = {}
        self._prune_at = _PRUNE_FROM
        self._clock = 0
        self._grown = Grown()
        self._holdings = Holdings(geometry, allocators, self._grown)

    @property
    def version(self) -> int:
        return self._holdings.version

    @property
    def num_tokens(self) -> int:
        return self._holdings.num_tokens

    @property
    def total(self) -> Sequence[int]:
        return self._holdings.total

    @property
    def evictable(self) -> Sequence[int]:
        return self._holdings.evictable

    @property
    def protected(self) -> Sequence[int]:
        """Pages that a lock holds, a group each."""
        return [total - evictable for total, evictable in zip(self.total, self.evictable, strict=True)]

    # -- finding -------------------------------------------------------------------------------------------

    def match_length(self, tokens: IntArray, extra_key: Hashable = None) -> int:
        path, length = self._walk(tokens, extra_key)
        return self._valid_units(path, length) * self.unit

    def match(self, tokens: IntArray, extra_key: Hashable = None) -> Match:
        path, length = self._walk(tokens, extra_key)
        length = self._valid_units(path, length) * self.unit
        while path and path[-1].start >= length:
            path.pop()
        if not path:
            return Match(self._root(extra_key), 0, self._geometry.no_pages())
        if path[-1].end > length:
            path[-1] = self._split(path[-1], length)
        self._touch(path)
        pages = [np.concatenate([node.pages[g] for node in path]) for g in range(self._geometry.num_groups)]
        return Match(path[-1], length, pages)

    def watch(self, watch: Watch) -> int:
        path, length = self._walk(watch.tokens, watch.extra_key)
        following = watch.tokens[length : length + self.unit]
        if len(following) == self.unit:
            node = path[-1] if path else self._root(watch.extra_key)
            watch.stay(node.watched(length), following.tobytes())
        return self._valid_units(path, length) * self.unit

    def grown(self, most: int) -> Iterator[Watch]:
        return self._grown.take(most)

    # -- holding -------------------------------------------------------------------------------------------

    def lock(self, node: Node) -> Lock:
        tops = [0] * self._geometry.num_groups
        for g, window in self._geometry.windows:
            tops[g] = first_live(node.end, window, self.unit) * self.unit
            self._split_path(node, tops[g])
        for held in node.path():
            held.locks += 1
            for g, top in enumerate(tops):
                if held.start >= top:
                    self._holdings.hold(held, g)
        node.ends += 1
        return Lock(node, tops)

    def unlock(self, lock: Lock, after_step: int) -> None:
        lock.node.ends -= 1
        for node in lock.node.path():
            assert node.locks > 0, "unlocked a node that is not locked"
            node.locks -= 1
            node.busy = max(node.busy, after_step)
            for g, top in enumerate(lock.tops):
                if node.start >= top:
                    self._holdings.release(node, g)
            self._holdings.offer(node)
        self._join_path(lock.node)

    def advance(self, lock: Lock, group: int, position: int, after_step: int) -> None:
        assert self._geometry.all_windows[group] is not None
        top = lock.tops[group]
        for node in lock.node.path():
            if node.start < top:
                break
            if node.end <= position:
                lock.tops[group] = max(lock.tops[group], node.end)
                node.busy = max(node.busy, after_step)
                self._holdings.release(node, group)

    # -- growing -------------------------------------------------------------------------------------------

    def insert(self, tokens: IntArray, pages: Sequence[IntArray], extra_key: Hashable, after_step: int) -> InsertResult:
        count = len(tokens) // self.unit
        assert [ids.shape for ids in pages] == [(count, several) for several in self._geometry.per_unit]
        assert len(tokens) % self.unit == 0
        path, present = self._walk(tokens, extra_key)
        if path and path[-1].end > present:
            path[-1] = self._split(path[-1], present)
        result = [ids.copy() for ids in pages]
        duplicates: list[list[IntArray]] = [[] for _ in pages]
        for node in path:
            span = slice(node.start // self.unit, node.end // self.unit)
            for g, ids in enumerate(result):
                if not np.array_equal(node.pages[g], ids[span]):
                    self._merge(node, g, ids[span], duplicates[g])
        node = path[-1] if path else self._root(extra_key)
        if present < len(tokens):
            new = [ids[present // self.unit :].copy() for ids in pages]
            node = self._append(node, present, tokens[present:].copy(), new)
            path.append(node)
        for used in path:
            used.busy = max(used.busy, after_step)
        self._touch(path)
        joined = [np.concatenate(d) if d else np.empty(0, dtype=np.int32) for d in duplicates]
        return InsertResult(node, present, result, joined)

    def _append(self, parent: Node, start: int, tokens: IntArray, pages: list[IntArray]) -> Node:
        node = Node(parent, start, tokens, pages)
        edge = node.edge(self.unit)
        parent.children[edge] = node
        self._holdings.add(node)
        if parent.watches is not None and start in parent.watches:
            self._grown.add(parent.watches[start], edge)
        return node

    def _merge(self, node: Node, group: int, given: IntArray, duplicates: list[IntArray]) -> None:
        """Take from ``given`` what ``node`` lacks in a group, and write into it what ``node`` has instead."""
        ours = node.pages[group]
        lacking = (ours == 0) & (given != 0)
        if lacking.any():
            ours[lacking] = given[lacking]
            self._holdings.fill(node, group, int(np.count_nonzero(lacking)))
        double = (given != 0) & (given != ours)
        if double.any():
            duplicates.append(given[double])
        given[:] = ours

    # -- shrinking -----------------------------------------------------------------------------------------

    def evict(self, needs: Sequence[int]) -> list[int]:
        return self._holdings.evict(needs)

    def flush(self) -> None:
        self._holdings.flush(list(self._nodes()))
        self._roots.clear()

    # -- the tree ------------------------------------------------------------------------------------------

    def _root(self, extra_key: Hashable) -> Node:
        root = self._roots.get(extra_key)
        if root is None:
            if len(self._roots) >= self._prune_at:
                self._roots = {key: root for key, root in self._roots.items() if root.children or root.watched(0)}
                self._prune_at = max(_PRUNE_FROM, 2 * len(self._roots))
            root = self._roots[extra_key] = Node.root(self._geometry.no_pages())
        return root

    def _walk(self, tokens: IntArray, extra_key: Hashable) -> tuple[list[Node], int]:
        """Nodes that spell a prefix of ``tokens`` (the last one perhaps only in part), and its length."""
        path: list[Node] = []
        node = self._roots.get(extra_key)
        position, end, unit = 0, len(tokens) // self.unit * self.unit, self.unit
        while node is not None and position < end:
            node = node.children.get(tokens[position : position + unit].tobytes())
            if node is None:
                break
            path.append(node)
            common = _common_prefix(node.tokens, tokens[position:end]) // unit * unit
            position += common
            if common < len(node.tokens):
                break
        return path, position

    def _valid_units(self, path: list[Node], length: int) -> int:
        """The most units, of ``length`` tokens along ``path``, after which every window is all there."""
        most = length // self.unit
        if not self._geometry.windows or most == 0:
            return most
        ends = np.arange(most + 1, dtype=np.int64)
        valid = np.ones(most + 1, dtype=np.bool_)
        for g, window in self._geometry.windows:
            first = np.concatenate([node.pages[g][:, 0] for node in path])[:most]
            # behind[m]: units up to and with the last dropped one before unit m; all must be out of sight.
            behind = np.zeros(most + 1, dtype=np.int64)
            np.maximum.accumulate(np.where(first == 0, ends[1:], 0), out=behind[1:])
            valid &= behind <= np.maximum(ends * self.unit - window + 1, 0) // self.unit
        return int(np.flatnonzero(valid)[-1])

    def _touch(self, path: list[Node]) -> None:
        self._clock += 1
        for node in path:
            node.access = self._clock

    def _split(self, node: Node, position: int) -> Node:
        """Cut ``node`` in two at ``position``; returns the upper part. ``node`` stays the lower: holds end there."""
        count = position - node.start
        at = count // self.unit
        assert 0 < count < len(node.tokens)
        assert count % self.unit == 0
        parent = node.parent
        assert parent is not None
        upper = Node(parent, node.start, node.tokens[:count], [pages[:at] for pages in node.pages])
        parent.children[upper.edge(self.unit)] = upper
        node.parent, node.start = upper, position
        node.tokens, node.pages = node.tokens[count:], [pages[at:] for pages in node.pages]
        upper.children[node.edge(self.unit)] = node
        node.live = [whole - part for whole, part in zip(node.live, upper.live, strict=True)]
        upper.locks, upper.held = node.locks, list(node.held)
        upper.access, upper.busy = node.access, node.busy
        if node.watches is not None:
            upper.watches = {p: node.watches.pop(p) for p in list(node.watches) if p <= position}
        self._holdings.offer(upper)
        return upper

    def _split_path(self, node: Node, position: int) -> None:
        """See to it that a node between ``node`` and its root begins at ``position``."""
        for part in node.path():
            if part.start <= position:
                if part.start < position < part.end:
                    self._split(part, position)
                return

    def _join_path(self, node: Node) -> None:
        """Make one node of those above ``node``, and its child, that belong together.

        A prompt computed in chunks comes as a chain of nodes. Those no longer than twice the one behind them are joined
        to it, so that n chunks make a chain of about log n nodes, and each token is copied as often.
        """
        if len(node.children) == 1:
            (node,) = node.children.values()
        while node.parent is not None:
            if self._belongs_to_parent(node):
                self._join_parent(node)
            else:
                node = node.parent

    def _belongs_to_parent(self, node: Node) -> bool:
        """Whether ``node`` and its parent are found, held and evicted together."""
        parent = node.parent
        assert parent is not None
        return (
            len(parent.children) == 1
            and parent.attached
            and parent.ends == 0
            and parent.locks == node.locks
            and parent.held == node.held
            and parent.access == node.access
            and len(parent.tokens) <= 2 * len(node.tokens)
        )

    def _join_parent(self, node: Node) -> None:
        """The opposite of ``_split``: ``node`` becomes both."""
        upper = node.parent
        assert upper is not None
        assert upper.parent is not None
        node.parent, node.start = upper.parent, upper.start
        upper.parent.children[upper.edge(self.unit)] = node
        node.tokens = np.concatenate([upper.tokens, node.tokens])
        node.pages = [np.concatenate(pages) for pages in zip(upper.pages, node.pages, strict=True)]
        node.live = [a + b for a, b in zip(upper.live, node.live, strict=True)]
        node.busy = max(upper.busy, node.busy)
        if upper.watches:
            node.watches = upper.watches | (node.watches or {})
        upper.parent = None
        self._holdings.offer(node)

    def _nodes(self) -> Iterator[Node]:
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            yield node

    def check(self) -> None:
        for node in self._nodes():
            parent = node.parent
            assert parent is not None
            assert parent.children[node.edge(self.unit)] is node
            assert node.start == parent.end
            assert len(node.tokens) == node.units * self.unit > 0
            assert node.locks == node.ends + sum(child.locks for child in node.children.values())
        self._holdings.check(self._nodes())


def _common_prefix(a: IntArray, b: IntArray) -> int:
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    first = int(differ.argmax())
    return first if differ[first] else n
