"""Host time of the scheduler alone: schedule() and commit() of a steady decode, and of a prefill step.

    python benchmarks/host_scheduler.py [--batch 256] [--steps 2000] [--json]

There is no device: sampled tokens are made up. The budget from schedule to launch is 200 µs at batch 256.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.sampling.params import SamplingParams
from zif.scheduler.batch import Batch
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.request import Request
from zif.scheduler.scheduler import Scheduler


@dataclass(frozen=True)
class Group:
    name: str
    page_size: int
    window: int | None = None


def measure(batch_size: int, steps: int, groups: list[Group], waiting: int, memory: float = 1.0) -> dict[str, float]:
    """Median and 99th percentile, in µs, over the steps that are decodes alone; and of the prefill steps."""
    context = steps + 256
    pages = [int(-(-context // group.page_size) * (batch_size + 2) * memory) for group in groups]
    config = SchedulerConfig(context_length=context, max_running_requests=batch_size, chunked_prefill_size=8192)
    scheduler = Scheduler(config, groups, pages)
    rng = np.random.default_rng(0)
    params = SamplingParams(max_tokens=steps, ignore_eos=True)
    for i in range(batch_size + waiting):
        scheduler.add(Request(str(i), rng.integers(0, 1000, 128), params))
    in_flight: deque[Batch] = deque()
    times: dict[str, list[float]] = {"decode_schedule": [], "decode_commit": [], "prefill_schedule": []}
    for _ in range(steps):
        begin = time.perf_counter()
        batch = scheduler.schedule()
        took = time.perf_counter() - begin
        if batch is not None:
            in_flight.append(batch)
            kind = "decode_schedule" if batch.decode_only else "prefill_schedule"
            times[kind].append(took)
        if len(in_flight) > 1 or batch is None:
            done = in_flight.popleft()
            tokens = rng.integers(0, 1000, len(done.sampling))
            begin = time.perf_counter()
            scheduler.commit(done, tokens)
            if done.decode_only:
                times["decode_commit"].append(time.perf_counter() - begin)
    out: dict[str, float] = {}
    for name, values in times.items():
        out[f"{name}_median_us"] = round(statistics.median(values) * 1e6, 1)
        out[f"{name}_p99_us"] = round(sorted(values)[int(len(values) * 0.99)] * 1e6, 1)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    full, single = [Group("full", 16)], [Group("full", 1)]
    cases: dict[str, tuple[Any, ...]] = {
        "page 16": (full, 0),
        "page 1": (single, 0),
        "page 16, 64 waiting": (full, 64),
        "memory full, 256 waiting": (full, 256, 0.7),
        "page 16, window group": ([*full, Group("window", 16, 512)], 0),
        "page 1, window group": ([*single, Group("window", 1, 512)], 0),
        "pages 64 and, window, 16": ([Group("full", 64), Group("window", 16, 512)], 0),
    }
    results = {name: measure(args.batch, args.steps, *case) for name, case in cases.items()}
    if args.json:
        print(json.dumps(results, indent=2))
        return
    columns = list(next(iter(results.values())))
    print(f"batch {args.batch}, {args.steps} steps, µs")
    print(" " * 26 + "".join(f"{c.removesuffix('_us'):>25}" for c in columns))
    for name, row in results.items():
        print(f"{name:26}" + "".join(f"{row[c]:25.1f}" for c in columns))


if __name__ == "__main__":
    main()
