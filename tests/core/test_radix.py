"""The radix prefix cache: what it finds, what it holds, what it gives up, and for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.simulated_device import Group
from zif.cache.allocator import IntArray, PageAllocator
from zif.cache.groups import Geometry
from zif.cache.prefix import InsertResult, Lock, NoPrefixCache
from zif.cache.radix import RadixCache


def ints(values: Sequence[int]) -> IntArray:
    return np.array(values, dtype=np.int32)


class Cache:
    """A radix cache with its allocators; every page is dead the moment its step is over."""

    def __init__(
        self,
        page_size: int | Sequence[int] = 1,
        windows: Sequence[int | None] = (None,),
        num_pages: int = 100,
    ) -> None:
        sizes = [page_size] * len(windows) if isinstance(page_size, int) else page_size
        self.geometry = Geometry([Group("", w, size) for w, size in zip(windows, sizes, strict=True)])
        self.unit = self.geometry.unit
        self.windows = list(windows)
        self.allocators = [PageAllocator(num_pages) for _ in windows]
        self.tree = RadixCache(self.geometry, self.allocators)

    def pages(self, units: int) -> list[IntArray]:
        """Fresh pages for so many units."""
        taken = []
        for allocator, count in zip(self.allocators, self.geometry.per_unit, strict=True):
            ids = allocator.alloc(units * count)
            assert ids is not None
            taken.append(ids.reshape(units, count))
        return taken

    def insert(self, tokens: Sequence[int], key: str | None = None, after_step: int = -1) -> InsertResult:
        """Insert with pages of its own, and free the duplicates as a scheduler has to."""
        result = self.tree.insert(ints(tokens), self.pages(len(tokens) // self.unit), key, after_step)
        for allocator, duplicates in zip(self.allocators, result.duplicates, strict=True):
            allocator.free(duplicates, -1)
        self.tree.check()
        return result

    def length(self, tokens: Sequence[int], key: str | None = None) -> int:
        length = self.tree.match(ints(tokens), key).length
        assert self.tree.match_length(ints(tokens), key) == length
        self.tree.check()
        return length


def test_the_longest_prefix_is_found() -> None:
    cache = Cache()
    first = cache.insert([1, 2, 3, 4])
    cache.insert([1, 2, 5])
    assert cache.length([1, 2, 3, 9]) == 3
    assert cache.length([1, 2, 5, 6]) == 3
    assert cache.length([2]) == 0
    match = cache.tree.match(ints([1, 2, 3, 9]))
    assert match.pages[0].tolist() == first.pages[0][:3].tolist()
    assert match.node.end == 3


def test_keys_that_are_never_used_again_leave_nothing() -> None:
    cache = Cache(num_pages=4000)
    for number in range(5000):
        cache.tree.match(ints([1, 2]), f"salt {number}")
        if number % 100 == 0:
            cache.tree.insert(ints([1, 2, 3]), cache.pages(3), f"salt {number}", -1)
    assert len(cache.tree._roots) < 1200
    for number in range(0, 5000, 100):
        assert cache.length([1, 2, 3], f"salt {number}") == 3
        assert cache.length([1, 2, 3], f"salt {number + 1}") == 0


def test_only_whole_pages_match() -> None:
    cache = Cache(page_size=4)
    cache.insert(range(8))
    assert cache.length([0, 1, 2, 3, 4, 5, 6, 9]) == 4
    assert cache.length([0, 1, 2]) == 0
    assert cache.length(range(20)) == 8


def test_inserting_again_returns_the_pages_that_are_there() -> None:
    cache = Cache(page_size=2)
    first = cache.insert([1, 2, 3, 4])
    pages = cache.pages(3)
    again = cache.tree.insert(ints([1, 2, 3, 4, 5, 6]), pages, None, -1)
    assert again.present == 4
    assert again.pages[0].tolist() == [*first.pages[0].tolist(), pages[0][2].tolist()]
    assert again.duplicates[0].tolist() == pages[0][:2, 0].tolist()


def test_keys_do_not_share() -> None:
    cache = Cache()
    cache.insert([1, 2, 3], key="adapter")
    assert cache.length([1, 2, 3]) == 0
    assert cache.length([1, 2, 3], key="adapter") == 3


def test_least_recently_used_goes_first_and_no_more_than_needed() -> None:
    cache = Cache()
    cache.insert([1, 1, 1, 1])
    cache.insert([2, 2, 2, 2])
    cache.length([1, 1, 1, 1])
    assert cache.tree.evict([1]) == [1]
    assert (cache.length([1, 1, 1, 1]), cache.length([2, 2, 2, 2])) == (4, 3)
    assert cache.tree.evict([5]) == [5]
    assert cache.length([1] * 4) + cache.length([2] * 4) == 2


def test_what_is_locked_stays() -> None:
    cache = Cache()
    kept = cache.insert([1, 2, 3])
    cache.insert([1, 2, 4, 5])
    lock = cache.tree.lock(kept.node)
    assert list(cache.tree.evictable) == [2]
    assert cache.tree.protected == [3]
    assert cache.tree.evict([100]) == [2]
    assert cache.length([1, 2, 3]) == 3
    cache.tree.unlock(lock, -1)
    assert cache.tree.evict([100]) == [3]
    assert cache.allocators[0].num_used == 0


def test_a_hold_survives_the_split_of_its_node() -> None:
    cache = Cache()
    lock = cache.tree.lock(cache.insert([1, 2, 3, 4]).node)
    cache.insert([1, 2, 9])
    assert cache.tree.evict([100]) == [1]
    cache.tree.unlock(lock, -1)
    assert cache.tree.evict([100]) == [4]


def test_pages_of_a_step_in_flight_are_not_evicted() -> None:
    cache = Cache()
    cache.insert([1, 2, 3], after_step=5)
    assert cache.tree.evict([3]) == [0]
    cache.allocators[0].retire(5)
    assert cache.tree.evict([3]) == [3]


def test_flush_frees_everything_but_never_what_is_locked() -> None:
    cache = Cache(windows=(None, 4))
    lock = cache.tree.lock(cache.insert(range(9)).node)
    with pytest.raises(AssertionError, match="locked"):
        cache.tree.flush()
    cache.tree.unlock(lock, -1)
    cache.tree.flush()
    assert [a.num_used for a in cache.allocators] == [0, 0]
    assert cache.tree.num_tokens == 0
    assert cache.length(range(9)) == 0


def test_a_window_group_holds_and_matches_no_more_than_its_window() -> None:
    cache = Cache(windows=(None, 4))
    lock = cache.tree.lock(cache.insert(range(10)).node)
    # The query at position 10 sees keys 7, 8, 9 and itself.
    assert cache.tree.protected == [10, 3]
    assert cache.tree.evict([0, 100]) == [0, 7]
    assert cache.length(range(10)) == 10
    assert cache.length(range(9)) == 0, "positions 6, 7 and 8 are needed, and 6 is gone"
    pages = cache.tree.match(ints(range(10))).pages
    assert (pages[0] > 0).all()
    assert pages[1][:, 0].astype(bool).tolist() == [False] * 7 + [True] * 3
    cache.tree.unlock(lock, -1)


def test_dropped_window_pages_come_back_with_the_next_insertion() -> None:
    cache = Cache(windows=(None, 4))
    lock = cache.tree.lock(cache.insert(range(10)).node)
    cache.tree.evict([0, 100])
    assert cache.length(range(9)) == 0
    cache.insert(range(8))
    assert (cache.length(range(8)), cache.length(range(9))) == (8, 9)
    cache.tree.unlock(lock, -1)


def test_a_window_that_has_moved_on_lets_go() -> None:
    cache = Cache(windows=(None, 4))
    lock = cache.tree.lock(cache.insert(range(10)).node)
    cache.tree.advance(lock, 1, 10, after_step=2)
    assert cache.tree.protected == [10, 0]
    assert cache.tree.evict([0, 3]) == [0, 3], "those before the window are no one's since long"
    assert cache.tree.evict([0, 7]) == [0, 4], "those within may still be read by step 2"
    for allocator in cache.allocators:
        allocator.retire(2)
    assert cache.tree.evict([0, 7]) == [0, 3]
    cache.tree.unlock(lock, 2)


def test_no_cache_has_nothing() -> None:
    cache = NoPrefixCache(Geometry([Group("", None, 2), Group("", None, 1)]))
    tokens, pages = ints([1, 2]), [ints([[1]]), ints([[1, 2]])]
    assert [ids.shape for ids in cache.insert(tokens, pages, None, 0).pages] == [(0, 1), (0, 2)]
    match = cache.match(tokens)
    assert (match.length, [ids.shape for ids in match.pages]) == (0, [(0, 1), (0, 2)])
    cache.unlock(cache.lock(match.node), 0)
    assert cache.evict([3, 3]) == [0, 0]


@dataclass
class Held:
    tokens: tuple[int, ...]
    key: str | None
    lock: Lock
    pages: list[IntArray]


class AgainstDictionary(RuleBasedStateMachine):
    """The tree against a dictionary from every prefix to its pages."""

    sequences = st.lists(st.integers(0, 1), max_size=14)
    keys = st.sampled_from([None, "a"])

    @initialize(
        sizes=st.sampled_from([(1,), (2,), (3,), (2, 1), (1, 3), (2, 3)]),
        windows=st.sampled_from([(None,), (None, None), (None, 2), (None, 5), (3,), (None, 4, 7)]),
    )
    def start(self, sizes: tuple[int, ...], windows: tuple[int | None, ...]) -> None:
        self.cache = Cache([sizes[g % len(sizes)] for g in range(len(windows))], windows, num_pages=8000)
        self.entries: dict[tuple[str | None, tuple[int, ...]], list[list[int]]] = {}
        self.held: list[Held] = []

    def prefixes(self, tokens: Sequence[int]) -> list[tuple[int, ...]]:
        size = self.cache.unit
        return [tuple(tokens[:end]) for end in range(size, len(tokens) + 1, size)]

    def expected(self, tokens: Sequence[int], key: str | None) -> list[list[list[int]]]:
        """Pages of the longest match: of each unit, in each group."""
        found: list[list[list[int]]] = []
        for prefix in self.prefixes(tokens):
            if (key, prefix) not in self.entries:
                break
            found.append(self.entries[key, prefix])
        for count in range(len(found), -1, -1):
            firsts = [self.first_live(count, window) for window in self.cache.windows]
            if all(all(found[i][g]) for g, first in enumerate(firsts) for i in range(first, count)):
                return found[:count]
        return []

    def first_live(self, units: int, window: int | None) -> int:
        """The first unit that the query behind ``units`` sees."""
        unit = self.cache.unit
        return 0 if window is None else max(0, units * unit - window + 1) // unit

    @rule(tokens=sequences, key=keys, dropped=st.integers(0, 5))
    def insert(self, tokens: list[int], key: str | None, dropped: int) -> None:
        prefixes = self.prefixes(tokens)
        pages = self.cache.pages(len(prefixes))
        for g, window in enumerate(self.cache.windows):
            if window is not None:
                gone = pages[g][:dropped].ravel().copy()
                self.cache.allocators[g].free(gone, -1)
                pages[g][:dropped] = 0
        size = self.cache.unit
        result = self.cache.tree.insert(ints(tokens[: len(prefixes) * size]), pages, key, -1)
        for allocator, duplicates in zip(self.cache.allocators, result.duplicates, strict=True):
            allocator.free(duplicates, -1)
        for i, prefix in enumerate(prefixes):
            nothing = [[0] * count for count in self.cache.geometry.per_unit]
            entry = self.entries.setdefault((key, prefix), nothing)
            for g, ids in enumerate(pages):
                entry[g] = entry[g] if any(entry[g]) else ids[i].tolist()
            assert [ids[i].tolist() for ids in result.pages] == entry

    @rule(tokens=sequences, key=keys, hold=st.booleans())
    def match(self, tokens: list[int], key: str | None, hold: bool) -> None:
        found = self.expected(tokens, key)
        length = self.cache.tree.match_length(ints(tokens), key)
        match = self.cache.tree.match(ints(tokens), key)
        assert match.length == length == len(found) * self.cache.unit
        assert [[ids[i].tolist() for ids in match.pages] for i in range(len(found))] == found
        if hold:
            pages = [ids.copy() for ids in match.pages]
            for ids, window in zip(pages, self.cache.windows, strict=True):
                ids[: self.first_live(len(found), window)] = 0
            self.held.append(Held(tuple(tokens[:length]), key, self.cache.tree.lock(match.node), pages))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def unlock(self, data: st.DataObject) -> None:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.cache.tree.unlock(held.lock, -1)

    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        windows, allocators = self.cache.windows, self.cache.allocators
        needs = [data.draw(st.integers(0, 12)) for _ in windows]
        could = list(self.cache.tree.evictable)
        before = [a.num_used for a in allocators]
        freed = self.cache.tree.evict(needs)
        assert freed == [was - a.num_used for was, a in zip(before, allocators, strict=True)]
        assert all(f >= min(n, c) for f, n, c in zip(freed, needs, could, strict=True))
        for (key, prefix), entry in list(self.entries.items()):
            for g, pages in enumerate(entry):
                if any(pages) and not allocators[g].in_use(ints(pages)):
                    entry[g] = [0] * len(pages)
            full = [pages for pages, window in zip(entry, windows, strict=True) if window is None]
            if not any(map(any, full or entry)):
                assert not any(map(any, full))
                if full:
                    del self.entries[key, prefix]

    @invariant()
    def holds_and_books_are_right(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.tree.check()
        for g, allocator in enumerate(self.cache.allocators):
            assert allocator.num_used == self.cache.tree.total[g]
            for held in self.held:
                pages = held.pages[g][held.pages[g] != 0]
                assert allocator.in_use(pages)
        for held in self.held:
            for i, prefix in enumerate(self.prefixes(held.tokens)):
                entry = self.entries[held.key, prefix]
                for g, ids in enumerate(held.pages):
                    assert ids[i].tolist() in ([0] * ids.shape[1], entry[g])

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        for held in self.held:
            self.cache.tree.unlock(held.lock, -1)
        self.cache.tree.flush()
        assert all(a.num_used == 0 for a in self.cache.allocators)


TestAgainstDictionary = AgainstDictionary.TestCase
