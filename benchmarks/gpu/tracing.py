"""Where the time of a decode step goes on the device, and how long the device waits between two steps."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch

from gpu.measuring import open_engine
from gpu.workloads import HIGHEST_ID, say
from zif.engine.engine import Engine
from zif.messages import EngineRequest
from zif.sampling.params import SamplingParams

STEPS = 40
PROMPT = 512
COPIES = ("Memcpy HtoD", "Memcpy DtoH", "BitwiseOr")


class Event(NamedTuple):
    """Something that the device did, from ``start`` to ``end`` in microseconds."""

    start: float
    end: float
    name: str


class Gap(NamedTuple):
    """Between two steps, in microseconds.

    ``kernels``: from the end of the last kernel of one to the start of the first kernel of the next.
    ``idle``: the part of it in which the device did nothing at all, not even copy.
    """

    kernels: float
    idle: float


def trace(shape: str, requests: str) -> None:
    """40 decode steps of N requests behind prompts of 512, profiled: kernels by time, gaps within and between steps

    ``advance``: by how much a kernel ends later than all before it. Kernels overlap, so that their own times sum to
    more than the step; these sum to it.
    """
    count = int(requests)
    engine = open_engine(shape)
    _fill(engine, count)
    launch = []
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(STEPS):
        engine.step()
        launch.append(engine.stats()["last_launch_ms"])
    torch.cuda.synchronize()
    per_step = (time.perf_counter() - begin) / STEPS
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(STEPS):
            engine.step()
        torch.cuda.synchronize()
    events = sorted(
        Event(e.time_range.start, e.time_range.end, e.name) for e in profile.events() if e.device_type.name == "CUDA"
    )
    busy, gaps = _busy(events)
    span = events[-1].end - events[0].start
    gaps.sort(reverse=True)
    say("trace", shape=shape, requests=count, ms_per_step=per_step * 1e3, launch_ms=statistics.median(launch),
        traced_ms_per_step=span / STEPS / 1e3, busy_ms_per_step=busy / STEPS / 1e3,
        gaps_us_per_step=(span - busy) / STEPS, largest_gaps_us=[round(gap, 1) for gap in gaps[:40:4]],
        events_per_step=len(events) / STEPS)  # fmt: skip
    between = step_gaps(events)
    if between:
        kernels, idle = sorted(gap.kernels for gap in between), sorted(gap.idle for gap in between)
        say("step gaps", shape=shape, requests=count, found=len(between), asked=STEPS - 1,
            median_us=statistics.median(kernels), p90_us=kernels[len(kernels) * 9 // 10], most_us=kernels[-1],
            idle_median_us=statistics.median(idle), idle_p90_us=idle[len(idle) * 9 // 10])  # fmt: skip
    else:
        names = sorted({event.name for event in events if event.name.startswith("Mem")})
        say("step gaps", shape=shape, requests=count, found=0, copies=names)
    _say_kernels(shape, count, events)


def _say_kernels(shape: str, requests: int, events: Sequence[Event]) -> None:
    """Print the kernels that take a step furthest."""
    spent: dict[str, float] = defaultdict(float)
    advance: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    latest = events[0].start
    for event in events:
        name = event.name[:70]
        calls[name] += 1
        spent[name] += event.end - event.start
        advance[name] += max(event.end - latest, 0.0)
        latest = max(latest, event.end)
    for name, total in sorted(advance.items(), key=lambda item: -item[1])[:16]:
        say("kernel", shape=shape, requests=requests, name=name, advance_us_per_step=total / STEPS,
            us_per_step=spent[name] / STEPS, calls_per_step=calls[name] / STEPS)  # fmt: skip


def step_gaps(events: Sequence[Event]) -> list[Gap]:
    """The gaps between consecutive steps on one stream.

    They are where its tokens are copied to the host, or the next one's inputs from there: nothing else is copied
    between host and device. An engine copies, or a kernel that does nothing else.
    """
    gaps = []
    last, copies = None, []
    for event in sorted(events):
        if _copies(event):
            copies.append(event)
        elif not event.name.startswith("Mem"):
            if last is not None and copies:
                copied, _ = _busy([Event(max(e.start, last), min(e.end, event.start), e.name) for e in copies])
                gaps.append(Gap(max(event.start - last, 0.0), max(event.start - last - copied, 0.0)))
            last = event.end if last is None else max(last, event.end)
            copies = []
    return gaps


def _copies(event: Event) -> bool:
    return any(name in event.name for name in COPIES)


def _busy(events: Sequence[Event]) -> tuple[float, list[float]]:
    """(microseconds in which any of the sorted ``events`` was on, the gaps in which none was)."""
    busy, gaps, last = 0.0, [], None
    for event in events:
        if last is not None and event.start > last:
            gaps.append(event.start - last)
        if last is None or event.end > last:
            busy += event.end - (event.start if last is None else max(event.start, last))
            last = event.end
    return busy, gaps


def _fill(engine: Engine, requests: int) -> None:
    """Requests that decode, all of them, for longer than a trace takes."""
    rng = random.Random(0)
    for number in range(requests):
        params = SamplingParams(temperature=0.6, max_tokens=400, ignore_eos=True)
        prompt = [rng.randint(0, HIGHEST_ID) for _ in range(PROMPT)]
        assert engine.add(EngineRequest(f"trace-{number}", prompt, params, ())) is None
    for _ in range(80):
        engine.step()
