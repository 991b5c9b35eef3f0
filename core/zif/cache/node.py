"""A node of the radix tree, and the heap that finds the least recently used one."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from zif.cache.allocator import IntArray
from zif.cache.watch import Place

_ids = itertools.count()


class Node:
    """A run of tokens, and the pages with their KV.

    ``tokens``   int32 [n * unit], n units, at least one (none at a root).
    ``pages``    a cache group each: int32 [n, pages of a unit]; 0 where a window group has dropped a unit's pages.
    ``start``    position of the first token.
    ``children`` by the bytes of a child's first unit of tokens.
    ``locks``    how many holds run through the node; every ancestor has at least as many.
    ``ends``     how many of those holds end with the node.
    ``held``     a group each: how many of those holds need the node's pages in that group. For a group
                 without a window that is ``locks``.
    ``live``     a group each: how many pages are not 0.
    ``access``   when the node was last used, by the tree's clock.
    ``watches``  by position, behind ``start``: who waits for more of a sequence that is cached up to there.
    ``busy``     the last step that may use the pages though no lock holds them.
    """

    __slots__ = (
        "access",
        "busy",
        "children",
        "ends",
        "held",
        "id",
        "live",
        "locks",
        "pages",
        "parent",
        "queued",
        "start",
        "tokens",
        "watches",
    )

    def __init__(self, parent: Node | None, start: int, tokens: IntArray, pages: list[IntArray]) -> None:
        self.id = next(_ids)
        self.parent = parent
        self.start = start
        self.tokens = tokens
        self.pages = pages
        self.children: dict[bytes, Node] = {}
        self.locks = 0
        self.ends = 0
        self.held = [0] * len(pages)
        self.live = [int(np.count_nonzero(ids)) for ids in pages]
        self.access = 0
        self.busy = -1
        self.queued: set[LruHeap] = set()
        self.watches: dict[int, Place] | None = None

    @classmethod
    def root(cls, no_pages: list[IntArray]) -> Node:
        """A node of no tokens."""
        return cls(None, 0, np.empty(0, dtype=np.int32), no_pages)

    @property
    def end(self) -> int:
        """Position behind the last token."""
        return self.start + len(self.tokens)

    @property
    def units(self) -> int:
        """How many units it has."""
        return len(self.pages[0])

    def edge(self, unit: int) -> bytes:
        """What its parent knows it by."""
        return self.tokens[:unit].tobytes()

    @property
    def attached(self) -> bool:
        """Whether the node is in a tree, and not its root."""
        return self.parent is not None

    def watched(self, position: int) -> Place:
        """Who waits at ``position``, which is in the node, or its end."""
        if self.watches is None:
            self.watches = {}
        return self.watches.setdefault(position, {})

    def path(self) -> Iterator[Node]:
        """The node and its ancestors, upwards, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


class LruHeap:
    """Nodes that ``eligible`` says can be evicted from, least recently used first.

    Lazy: a node is queued at most once, with the access time it had then. What became of it since is looked
    at when it comes up, or when so many have gathered that sweeping out the dead ones pays.
    """

    _SWEEP_FROM = 1024

    def __init__(self, eligible: Callable[[Node], bool]) -> None:
        self._eligible = eligible
        self._heap: list[tuple[int, int, Node]] = []
        self._sweep_at = self._SWEEP_FROM

    def offer(self, node: Node) -> None:
        """Queue ``node`` if it is eligible and not queued already."""
        if self not in node.queued and self._eligible(node):
            node.queued.add(self)
            heapq.heappush(self._heap, (node.access, node.id, node))
            if len(self._heap) > self._sweep_at:
                self._sweep()

    def pop(self) -> Node | None:
        """Take the least recently used eligible node; the caller offers it again if it stays eligible."""
        while self._heap:
            access, _, node = self._heap[0]
            if self._eligible(node) and node.access > access:
                heapq.heapreplace(self._heap, (node.access, node.id, node))
                continue
            heapq.heappop(self._heap)
            node.queued.discard(self)
            if self._eligible(node):
                return node
        return None

    def __contains__(self, node: Node) -> bool:
        return self in node.queued

    def _sweep(self) -> None:
        kept = []
        for entry in self._heap:
            if self._eligible(entry[2]):
                kept.append(entry)
            else:
                entry[2].queued.discard(self)
        heapq.heapify(kept)
        self._heap = kept
        self._sweep_at = max(self._SWEEP_FROM, 2 * len(kept))

    def clear(self) -> None:
        for _, _, node in self._heap:
            node.queued.discard(self)
        self._heap.clear()
