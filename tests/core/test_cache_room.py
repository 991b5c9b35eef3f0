"""How a memory is divided between cache groups."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from zif.contract.cache import CacheGroup
from zif.contract.formats import PlainFormat
from zif.engine.memory import PageBudget, cache_tokens
from zif.engine.plan import EnginePlan
from zif.engine.store import StoredGroup
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.scheduler import Scheduler

PLAN = EnginePlan(
    dtype="bfloat16", kv_cache_dtype="bfloat16", page_size=16, context_length=8192, max_running_requests=16,
    chunked_prefill_size=512, mem_fraction_static=0.88, cache_share=1.0, max_total_tokens=None, overlap=True,
)  # fmt: skip


def stored(window: int | None, page_size: int = 16, layers: int = 2) -> StoredGroup:
    kind = "paged" if window is None else "window"
    group = CacheGroup(f"{kind} {window} {page_size}", kind, layers, 2, 64, 64, window)
    return StoredGroup(group, PlainFormat("bfloat16"), page_size)


def taken(groups: list[StoredGroup], counts: tuple[int, ...]) -> int:
    return sum(count * group.page_bytes for group, count in zip(groups, counts, strict=True))


def test_window_groups_hold_windows_and_the_others_get_the_rest() -> None:
    groups = [stored(None), stored(256, layers=10)]
    room, budget = PageBudget(PLAN, groups), 4 * taken(groups, (2049, 2049))
    full, window = room.within(budget)
    # 16 requests: a window of 17 pages, as much in a prefix, and two to write to; and two chunks of 32.
    assert window - 1 == 16 * (2 * 17 + 2) + 2 * 32
    assert full - 1 == min((budget - window * groups[1].page_bytes) // groups[0].page_bytes - 1, 16 * 512)
    assert cache_tokens(groups, (full, window)) == (full - 1) * 16


def test_a_sequence_of_full_length_comes_before_windows() -> None:
    groups = [stored(None), stored(256, layers=10)]
    budget = taken(groups, (513, 200))
    assert taken(groups, (400, 400)) > budget, "all alike would hold less than the context"
    full, window = PageBudget(PLAN, groups).within(budget)
    assert ((full - 1) * 16, window) == (8192, 200)


def test_windows_alone_hold_what_there_is() -> None:
    groups = [stored(256)]
    assert PageBudget(PLAN, groups).within(taken(groups, (3000,))) == (3000,)


SIZES = st.sampled_from([(16,), (16, 32), (48, 16), (4,)])


@given(
    st.lists(st.sampled_from([None, None, 24, 256, 5000]), min_size=1, max_size=3),
    SIZES,
    st.integers(8, 20000),
    st.integers(1, 300),
    st.integers(1, 10**9),
)
def test_whatever_is_planned_fits_and_serves(
    windows: list[int | None], sizes: tuple[int, ...], context: int, running: int, budget: int
) -> None:
    groups = [stored(window, sizes[at % len(sizes)], layers=1 + at) for at, window in enumerate(windows)]
    plan = replace(PLAN, context_length=context, max_running_requests=running)
    room = PageBudget(plan, groups)
    if room.nbytes(1) > budget:
        return
    counts = room.within(budget)
    assert taken(groups, counts) <= budget
    config = SchedulerConfig(context_length=context, max_running_requests=min(running, 4), chunked_prefill_size=512)
    scheduler = Scheduler(config, groups, counts)  # raises where a window lacks pages
    assert scheduler.max_length == (min(context, cache_tokens(groups, counts)) if None in windows else context)
    if None in windows:
        alike = budget // sum(group.page_bytes * (room.unit // group.page_size) for group in groups) - 1
        if alike * room.unit >= max((2 * (w or 0) + 6 * room.unit for w in windows), default=0):
            assert cache_tokens(groups, counts) >= min(alike, room.useful) * room.unit
        longest = -(-context // room.unit)
        if room.nbytes(longest, 0) <= budget:
            assert scheduler.max_length == context
