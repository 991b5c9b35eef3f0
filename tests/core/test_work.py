"""What the host does grows no faster than it must: counted in operations, not in time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.operations import count, exponent
from core.simulated_device import Group
from zif.cache.allocator import PageAllocator
from zif.cache.groups import Geometry
from zif.cache.radix import RadixCache
from zif.engine.wire import News
from zif.sampling.params import SamplingParams
from zif.scheduler.batch import Batch
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.request import Request
from zif.scheduler.running import TAIL
from zif.scheduler.scheduler import Scheduler

RUNNING = [64, 256, 1024]
WAITING = [100, 1000, 4000]
ENDLESS = 256


def opened(running: int, policy: str = "lpm") -> Scheduler:
    config = SchedulerConfig(
        context_length=1 << 14,
        max_running_requests=running,
        chunked_prefill_size=1 << 14,
        policy=policy,  # type: ignore[arg-type]
    )
    return Scheduler(config, [Group("full", None, 16)], [running * 40 + 1000])


def add(scheduler: Scheduler, number: int) -> None:
    params = SamplingParams(max_tokens=ENDLESS, ignore_eos=True)
    scheduler.add(Request(str(number), np.arange(8) + 8 * number, params))


def commit(scheduler: Scheduler, batch: Batch) -> News:
    done = scheduler.commit(batch, np.zeros(len(batch.sampling), np.int32))
    return News(done.numbers, done.tokens, done.counts)


def decoding(running: int, policy: str = "lpm") -> tuple[Scheduler, Batch]:
    """A scheduler with so many decodes, and its step in flight."""
    scheduler = opened(running, policy)
    for number in range(running):
        add(scheduler, number)
    batch = scheduler.schedule()
    assert batch is not None
    assert len(batch.requests) == running
    for _ in range(2):
        following = scheduler.schedule()
        assert following is not None
        commit(scheduler, batch)
        batch = following
    return scheduler, batch


def scheduled(scheduler: Scheduler) -> tuple[int, Batch]:
    """Operations of the next step, and that."""
    made: list[Batch | None] = []
    operations = count(lambda: made.append(scheduler.schedule()))
    assert made[0] is not None
    return operations, made[0]


def test_a_decode_step_is_a_few_operations_on_arrays() -> None:
    counts = [a_step(running) for running in RUNNING]
    assert exponent(RUNNING, counts) < 0.05, counts


def a_step(running: int) -> int:
    """Operations of a step of so many decodes, the median; all tails are emptied meanwhile."""
    scheduler, batch = decoding(running)
    steps = []
    for _ in range(TAIL):
        scheduling, following = scheduled(scheduler)
        steps.append(scheduling + count(commit, scheduler, batch))
        batch = following
    return sorted(steps)[len(steps) // 2]


@pytest.mark.parametrize("policy", ["lpm", "fcfs"])
def test_an_admission_does_not_depend_on_who_else_waits(policy: str) -> None:
    counts = [an_admission(waiting, policy) for waiting in WAITING]
    assert exponent(WAITING, counts) < 0.05, counts


def an_admission(waiting: int, policy: str) -> int:
    """Operations of a step that admits four of so many."""
    scheduler, batch = decoding(8, policy)
    for number in range(8, 8 + waiting):
        add(scheduler, number)
    for number in range(4):  # a row is free only once the step in flight is over
        scheduler.abort(str(number))
    commit(scheduler, batch)
    operations, following = scheduled(scheduler)
    assert len(following.new_requests) == 4
    return operations


@pytest.mark.parametrize("place", ["waiting", "running"])
def test_aborts_are_in_proportion_to_their_number(place: str) -> None:
    sizes = WAITING if place == "waiting" else RUNNING
    counts = [aborts(size, place) for size in sizes]
    assert exponent(sizes, counts) < 1.1, counts


def aborts(size: int, place: str) -> int:
    """Operations of the aborts of all of so many requests, and of the step after them."""
    scheduler, batch = decoding(size if place == "running" else 8)
    for number in range(8, 8 + size if place == "waiting" else 8):
        add(scheduler, number)

    def end() -> None:
        for name in scheduler.request_ids():
            scheduler.abort(name)
        commit(scheduler, batch)
        assert scheduler.schedule() is None

    return count(end)


def test_a_prompt_in_chunks_makes_a_short_chain() -> None:
    sizes = [64, 512, 2048]
    counts = [a_chunk(size) for size in sizes]
    assert exponent(sizes, counts) < 0.4, counts


def a_chunk(size: int) -> int:
    """Operations that put the last of so many chunks into the cache."""
    allocator = PageAllocator(size + 1)
    cache = RadixCache(Geometry([Group("full", None, 16)]), [allocator])
    tokens = np.arange(size * 16, dtype=np.int32)
    pages = allocator.alloc(size)
    assert pages is not None
    lock = cache.lock(cache.match(tokens[:0]).node)

    def insert(end: int) -> None:
        nonlocal lock
        before, lock = lock, cache.lock(cache.insert(tokens[: end * 16], [pages[:end, None]], None, -1).node)
        cache.unlock(before, -1)

    for end in range(1, size):
        insert(end)
    cache.check()
    assert len(list(lock.node.path())) <= 2 * math.log2(size)
    return count(insert, size)


def test_news_is_as_large_as_its_tokens() -> None:
    def size(running: int) -> int:
        import pickle

        scheduler, batch = decoding(running)
        scheduler.schedule()
        return len(pickle.dumps(commit(scheduler, batch)))

    assert (size(1024) - size(64)) / (1024 - 64) == pytest.approx(12, abs=0.1)
