"""What the scheduler asks of a prefix cache, and the one that caches nothing."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zif.cache.allocator import IntArray
from zif.cache.groups import Geometry
from zif.cache.node import Node
from zif.cache.watch import Watch


@dataclass(slots=True)
class Match:
    """The longest cached prefix of a sequence.

    ``length`` tokens, a multiple of the unit, are in the cache; ``pages``, a group each int32 [units, pages of a unit],
    are where. In a window group the pages that no query from ``length`` on can see may be 0.
    ``node`` ends exactly at ``length``. The pages stay valid only while ``node`` is locked.
    """

    node: Node
    length: int
    pages: list[IntArray]


@dataclass(slots=True)
class Lock:
    """A hold on the pages up to the end of ``node``: they are not evicted until ``unlock``.

    ``tops[g]`` is the first position held in group ``g``: 0, or for a window group what a query right
    behind ``node`` can see.
    """

    node: Node
    tops: list[int]


@dataclass(slots=True)
class InsertResult:
    """What became of pages given to ``insert``.

    The cache now owns all of ``pages`` (a group each, int32 [units, pages of a unit]); ``node`` ends behind them,
    unlocked. The first ``present`` tokens were there before; for those ``pages`` may differ from what was given, and
    ``duplicates[g]`` are the given pages of group ``g`` that the caller must free.
    """

    node: Node
    present: int
    pages: list[IntArray]
    duplicates: list[IntArray]


class PrefixCache(Protocol):
    """KV of finished and running sequences, found again by token ids.

    Tokens are int32 [n]. ``extra_key`` separates sequences whose KV differs though their tokens do not
    (cache salts). Page ids are kept a group each. The pages of what is inserted belong to the cache.
    """

    @property
    def version(self) -> int:
        """Changes whenever the answer of ``match`` may change."""

    @property
    def num_tokens(self) -> int:
        """Tokens of every cached sequence, shared prefixes counted once."""

    @property
    def total(self) -> Sequence[int]:
        """Pages the cache owns, a group each."""

    @property
    def evictable(self) -> Sequence[int]:
        """Those of ``total`` that no lock holds."""

    def match_length(self, tokens: IntArray, extra_key: Hashable = None) -> int:
        """``match(...).length`` without touching the cache or the order of eviction."""

    def match(self, tokens: IntArray, extra_key: Hashable = None) -> Match:
        """The longest cached prefix; counts as a use of it."""

    def watch(self, watch: Watch) -> int:
        """:meth:`match_length` of a sequence, which is among those that ``grown`` gives once it may be more."""

    def grown(self, most: int) -> Iterator[Watch]:
        """Up to ``most`` watches of which more may be cached; they are watched no more."""

    def lock(self, node: Node) -> Lock:
        """Hold what a sequence that continues behind ``node`` needs."""

    def unlock(self, lock: Lock, after_step: int) -> None:
        """End a hold. The pages may be read until step ``after_step`` has retired, and are not evicted before."""

    def advance(self, lock: Lock, group: int, position: int, after_step: int) -> None:
        """Stop holding pages of window group ``group`` that lie wholly before ``position``."""

    def insert(self, tokens: IntArray, pages: Sequence[IntArray], extra_key: Hashable, after_step: int) -> InsertResult:
        """Give the cache ``pages`` with the KV of ``tokens`` [n * unit]: a group each, int32 [n, pages of a unit].

        Zeros in a window group say that the pages of a unit are no longer there: all of them or none. Steps up to
        ``after_step`` may still write or read the pages.
        """

    def evict(self, needs: Sequence[int]) -> list[int]:
        """Free up to ``needs[g]`` pages of each group, least recently used first; returns how many it freed.

        More may be freed in groups that need none. Only pages that no running step uses are freed: they
        are usable at once.
        """

    def flush(self) -> None:
        """Forget everything. Nothing may be locked."""

    def check(self) -> None:
        """Assert every invariant. For tests: linear in the size of the cache."""


class NoPrefixCache:
    """A :class:`PrefixCache` that never has anything (``--disable-radix-cache``).

    It owns no page, so that the scheduler frees all of a sequence's pages when the sequence ends.
    """

    version = 0
    num_tokens = 0

    def __init__(self, geometry: Geometry) -> None:
        self._no_pages = geometry.no_pages()
        self._root = Node.root(self._no_pages)
        self._zeros = [0] * geometry.num_groups

    @property
    def total(self) -> Sequence[int]:
        return self._zeros

    @property
    def evictable(self) -> Sequence[int]:
        return self._zeros

    def match_length(self, tokens: IntArray, extra_key: Hashable = None) -> int:
        return 0

    def match(self, tokens: IntArray, extra_key: Hashable = None) -> Match:
        return Match(self._root, 0, self._no_pages)

    def watch(self, watch: Watch) -> int:
        return 0

    def grown(self, most: int) -> Iterator[Watch]:
        return iter(())

    def lock(self, node: Node) -> Lock:
        return Lock(node, list(self._zeros))

    def unlock(self, lock: Lock, after_step: int) -> None: ...

    def advance(self, lock: Lock, group: int, position: int, after_step: int) -> None: ...

    def insert(self, tokens: IntArray, pages: Sequence[IntArray], extra_key: Hashable, after_step: int) -> InsertResult:
        return InsertResult(self._root, 0, self._no_pages, [np.empty(0, dtype=np.int32) for _ in self._zeros])

    def evict(self, needs: Sequence[int]) -> list[int]:
        return list(self._zeros)

    def flush(self) -> None: ...

    def check(self) -> None: ...
