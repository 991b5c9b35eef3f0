"""How the host's work grows: with what runs, with what waits, with what is cached. No device, no model.

    python benchmarks/host_scheduler.py [running] [waiting] [tree] [--sizes 16 256 4096] [--seconds 2] [--json]

Each part takes sizes (``--sizes`` for other ones), spends about ``--seconds`` on each, and ends. Times are medians in
µs, and the 99th percentile where a step is timed. A column's exponent is the slope of its logarithm over the
logarithm of the size: ``fit`` over all sizes, ``end`` between the last two. 1 is in proportion, 0 does not grow.

``running``  a steady decode: schedule, commit, and its news made, pickled and read.
``waiting``  a queue of so many: to join it; a step after one request has ended, which admits another; to abort one of
             it. The same where all share a prefix of 2,048 tokens.
``tree``     a prefix cache of so many tokens, flat (sequences of 1,024 tokens without a common prefix) or chained (one
             prompt in chunks of 32): to insert a sequence or chunk, to find one, to evict a page.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.cache.allocator import PageAllocator
from zif.cache.groups import Geometry
from zif.cache.radix import RadixCache
from zif.engine.wire import News
from zif.sampling.params import SamplingParams
from zif.scheduler.batch import Batch
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.request import Request
from zif.scheduler.scheduler import Scheduler

PAGE = 16
ENDLESS = 1 << 14
"""Tokens that requests ask for where none is to end."""


@dataclass(frozen=True)
class Group:
    name: str
    page_size: int = PAGE
    window: int | None = None


class Times:
    """Seconds by name."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def call(self, name: str, fn: Callable[..., Any], *given: Any) -> Any:
        """Call ``fn`` and note what it took."""
        begin = time.perf_counter()
        result = fn(*given)
        self.of.setdefault(name, []).append(time.perf_counter() - begin)
        return result

    def row(self, tails: Sequence[str] = ()) -> dict[str, float]:
        """Medians in µs, and 99th percentiles of ``tails``."""
        row = {name: statistics.median(values) * 1e6 for name, values in self.of.items()}
        for name in tails:
            values = sorted(self.of[name])
            row[f"{name} p99"] = values[int(len(values) * 0.99)] * 1e6
        return {name: round(value, 2) for name, value in row.items()}


class Loop:
    """A scheduler, its steps committed one behind the launch, with tokens that are made up."""

    def __init__(self, running: int, tokens: int, policy: Any = "lpm") -> None:
        config = SchedulerConfig(context_length=1 << 17, max_running_requests=running, policy=policy)
        self.scheduler = Scheduler(config, [Group("full")], [tokens // PAGE + 2])
        self.rng = np.random.default_rng(0)
        self.in_flight: deque[Batch] = deque()
        self.names = 0

    def add(self, prompt: Any, max_tokens: int = ENDLESS) -> str:
        self.names += 1
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        self.scheduler.add(Request(str(self.names), prompt, params))
        return str(self.names)

    def prompt(self, length: int = 64) -> Any:
        return self.rng.integers(0, 1 << 15, length)

    def step(self, times: Times | None = None) -> None:
        times = times or Times()
        batch = times.call("schedule", self.scheduler.schedule)
        if batch is not None:
            self.in_flight.append(batch)
        if len(self.in_flight) > 1 or batch is None:
            done = self.in_flight.popleft()
            tokens = self.rng.integers(1 << 14, 1 << 15, len(done.sampling)).astype(np.int32)
            self.committed = times.call("commit", self.scheduler.commit, done, tokens)

    def fill(self, count: int) -> None:
        """Run ``count`` requests that do not end."""
        for _ in range(count):
            self.add(self.prompt())
        while self.scheduler.stats()["num_waiting"] or not self.scheduler.only_decodes:
            self.step()
        for _ in range(8):
            self.step()


def running(size: int, seconds: float) -> dict[str, float]:
    loop, times = Loop(size, size * 8192), Times()
    loop.fill(size)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        loop.step(times)
        done = loop.committed
        news = times.call("news made", News, done.numbers, done.tokens, done.counts)
        text = times.call("dumped", pickle.dumps, news)
        read = times.call("loaded", pickle.loads, text)
        times.call("read", list, read.plain())
    return times.row(["schedule", "commit"])


def waiting(size: int, seconds: float, policy: str = "lpm", shared: bool = False) -> dict[str, float]:
    loop, times = Loop(64, 1 << 18, policy), Times()
    prefix = loop.prompt(2048)
    loop.fill(64)
    live = deque(str(name) for name in range(1, 65))
    names = []
    for _ in range(size):
        prompt = np.concatenate([prefix, loop.prompt(16)]) if shared else loop.prompt()
        names.append(times.call("join", loop.add, prompt))
    end = time.perf_counter() + seconds
    queue = deque(names)
    while time.perf_counter() < end and queue:
        loop.scheduler.abort(live.popleft())
        before = loop.scheduler.stats()["num_waiting"]
        loop.step(times)
        if loop.scheduler.stats()["num_waiting"] < before:
            live.append(queue.popleft())
        queue.append(loop.add(np.concatenate([prefix, loop.prompt(16)]) if shared else loop.prompt()))
    row = times.row(["schedule"])
    left = loop.scheduler.request_ids()
    begin = time.perf_counter()
    for name in left:
        loop.scheduler.abort(name)
    loop.step()
    return {**row, "abort": round((time.perf_counter() - begin) / len(left) * 1e6, 2)}


def tree(size: int, seconds: float, chained: bool) -> dict[str, float]:
    allocator, times, rng = PageAllocator(size // PAGE + 4096), Times(), np.random.default_rng(0)
    cache = RadixCache(Geometry([Group("full")]), [allocator])
    kept: list[Any] = []
    one = rng.integers(0, 1 << 30, size).astype(np.int32)
    pages = np.empty((0, 1), np.int32)
    hold = None
    for begin in range(0, size, 32 if chained else 1024):
        tokens = one[: begin + 32] if chained else one[begin : begin + 1024]
        got = allocator.alloc((32 if chained else len(tokens)) // PAGE)
        assert got is not None
        pages = np.concatenate([pages, got[:, None]]) if chained else got[:, None]
        result = times.call("insert", cache.insert, tokens, [pages], None, 0)
        if chained:
            lock = cache.lock(result.node)
            if hold is not None:
                times.call("unlock", cache.unlock, hold, 0)
            hold = lock
        else:
            kept.append(tokens)
    if hold is not None:
        cache.unlock(hold, 0)
        kept.append(one)
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end:
        tokens = kept[int(rng.integers(len(kept)))]
        times.call("match", cache.match, tokens)
    allocator.retire(0)
    end = time.perf_counter() + seconds / 2
    while cache.num_tokens and time.perf_counter() < end:
        times.call("evict", cache.evict, [1])
    return times.row()


PARTS: dict[str, dict[str, tuple[Callable[..., dict[str, float]], tuple[Any, ...], list[int]]]] = {
    "running": {"running": (running, (), [16, 64, 256, 1024, 4096])},
    "waiting": {
        "waiting, longest prefix first": (waiting, (), [1000, 10_000, 100_000]),
        "waiting, first come": (waiting, ("fcfs",), [1000, 10_000, 100_000]),
        "waiting, a common prefix": (waiting, ("lpm", True), [190, 1000, 10_000]),
    },
    "tree": {
        "tree, flat": (tree, (False,), [1 << 10, 1 << 13, 1 << 16, 1 << 20]),
        "tree, chained": (tree, (True,), [1 << 10, 1 << 14, 1 << 17]),
    },
}


def exponents(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Over all sizes, and between the last two."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-3)) for value in values]
    slope = statistics.linear_regression
    return round(slope(x, y).slope, 2), round(slope(x[-2:], y[-2:]).slope, 2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if wrong := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(wrong))}; there are {', '.join(PARTS)}")
    for part in args.parts or PARTS:
        for name, (fn, given, usual) in PARTS[part].items():
            sizes = args.sizes or usual
            rows = [fn(size, args.seconds, *given) for size in sizes]
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            grows = {key: exponents(sizes, values) for key, values in columns.items()} if len(sizes) > 1 else {}
            if args.json:
                print(json.dumps({"case": name, "sizes": sizes, "us": columns, "exponents": grows}), flush=True)
                continue
            print(f"{name + ', µs':32}" + "".join(f"{size:>12,}" for size in sizes) + "   fit   end")
            for key, values in columns.items():
                slopes = "".join(f"{slope:6.2f}" for slope in grows.get(key, ()))
                print(f"  {key:30}" + "".join(f"{value:12.2f}" for value in values) + slopes, flush=True)


if __name__ == "__main__":
    main()
