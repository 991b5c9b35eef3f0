"""The waiting queue keeps the order that sorting it anew for each step would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.simulated_device import Group
from zif.cache.allocator import PageAllocator
from zif.cache.groups import Geometry
from zif.cache.radix import RadixCache
from zif.sampling.params import SamplingParams
from zif.scheduler.request import Request
from zif.scheduler.waiting import MOST_MATCHED, Waiting

UNIT = 2
OVERTAKEN = 4
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "insert"]), st.lists(st.integers(1, 2), min_size=1, max_size=12)),
        st.tuples(st.sampled_from(["remove", "admit", "evict"]), st.integers(0, 5)),
    ),
    max_size=60,
)


def opened() -> tuple[RadixCache, PageAllocator, Waiting]:
    allocator = PageAllocator(4000)
    cache = RadixCache(Geometry([Group("full", None, UNIT)]), [allocator])
    return cache, allocator, Waiting("lpm", cache, max_overtaken=OVERTAKEN)


def request(number: int, tokens: list[int]) -> Request:
    made = Request(str(number), tokens, SamplingParams(max_tokens=1))
    made.order = number
    return made


def counted(monkeypatch: pytest.MonkeyPatch, cache: RadixCache) -> list[Any]:
    """A list that gets an entry whenever a sequence is matched with the cache."""
    walked: list[Any] = []
    walk = cache._walk

    def counting(tokens: Any, key: Any) -> Any:
        walked.append(tokens)
        return walk(tokens, key)

    monkeypatch.setattr(cache, "_walk", counting)
    return walked


def insert(cache: RadixCache, allocator: PageAllocator, tokens: list[int]) -> None:
    count = len(tokens) // UNIT
    pages = allocator.alloc(count)
    assert pages is not None
    result = cache.insert(np.array(tokens[: count * UNIT], np.int32), [pages[:, None]], None, -1)
    allocator.free(result.duplicates[0], -1)


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_the_order_is_that_of_sorting(events: list[tuple[str, list[int] | int]]) -> None:
    cache, allocator, queue = opened()
    live: dict[int, tuple[Request, int]] = {}  # with its turn
    admitted = 0

    def key(entry: tuple[Request, int]) -> tuple[bool, int, int]:
        aged = admitted - entry[1] >= OVERTAKEN
        return not aged, 0 if aged else -cache.match_length(entry[0].matchable()), entry[0].order

    for number, (event, value) in enumerate(events):
        if isinstance(value, list) and event == "add":
            live[number] = request(number, value), admitted + len(queue)
            queue.add(live[number][0])
        elif isinstance(value, list):
            insert(cache, allocator, value)
        elif event == "evict":
            cache.evict([value])
        elif live:
            name = sorted(live)[value % len(live)] if event == "remove" else min(live, key=lambda n: key(live[n]))
            queue.remove(live.pop(name)[0])
            if event == "admit":
                queue.admitted()
                admitted += 1
        candidates = queue.candidates()
        assert [r.order for r in candidates] == [entry[0].order for entry in sorted(live.values(), key=key)]
        candidates.close()
        cache.check()
        assert len(queue) == len(live)


def test_a_step_matches_few_however_many_a_new_prefix_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, allocator, queue = opened()
    for number in range(1000):
        queue.add(request(number, [1] * 64))
    walked = counted(monkeypatch, cache)
    insert(cache, allocator, [1] * 32)
    walked.clear()
    candidates = queue.candidates()
    first = next(candidates)
    candidates.close()
    assert first.order == 0
    assert len(walked) <= 2 * MOST_MATCHED


def test_what_does_not_concern_a_request_costs_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, allocator, queue = opened()
    for number in range(1000):
        queue.add(request(number, [1, 2, 3, number]))
    walked = counted(monkeypatch, cache)
    for number in range(20):
        insert(cache, allocator, [5, number])
    walked.clear()
    candidates = queue.candidates()
    next(candidates)
    candidates.close()
    assert not walked
