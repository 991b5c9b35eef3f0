"""Tokens that fit a KV cache where window layers hold windows, and where every layer holds every token.

    python benchmarks/cache_room.py [--gib 107 16] [--running 256 64 16] [--kv-cache-dtype bfloat16] [--json]

Gemma-3-4B's shape: 34 layers with 4 key-value heads of 256, of which 5 see everything and 29 see 1,024 tokens. The
arithmetic is the engine's own (zif/engine/memory.py); no device is asked. 107 GiB is about what weights leave of an
H200. Numbers end at what all running requests at full length can use.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from zif.contract.cache import CacheGroup
from zif.contract.formats import reference_formats
from zif.engine.memory import PageBudget, cache_tokens
from zif.engine.plan import EnginePlan
from zif.engine.store import StoredGroup, stored_groups

GROUPS = (
    CacheGroup("full", "paged", 5, 4, 256, 256),
    CacheGroup("window", "window", 29, 4, 256, 256, window=1024),
)
PAGE, CHUNK = 16, 8192


def plan(context: int, running: int, name: str) -> EnginePlan:
    """Settings of an engine that serves ``running`` requests of ``context`` tokens at once."""
    return EnginePlan(
        dtype="bfloat16", kv_cache_dtype=name, page_size=PAGE, context_length=context, max_running_requests=running,
        chunked_prefill_size=CHUNK, mem_fraction_static=0.88, cache_share=1.0, max_total_tokens=None, overlap=True,
    )  # fmt: skip


def measure(gib: float, context: int, running: int, name: str) -> dict[str, Any]:
    """Tokens of the layers that see everything, and of the others, both ways."""
    stored = stored_groups(GROUPS, reference_formats(["bfloat16", "float32"]), name, PAGE, "reference")
    room, budget = PageBudget(plan(context, running, name), stored), gib * 2**30
    counts = room.within(budget)
    alike = int(budget // sum(group.page_bytes for group in stored)) - 1
    before, after = min(alike * PAGE, room.useful * room.unit), cache_tokens(stored, counts)
    taken = sum(count * group.page_bytes for group, count in zip(stored, counts, strict=True))
    return {
        "gib": gib,
        "context": context,
        "running": running,
        "all alike": before,
        "tokens": after,
        "of windows": tokens_of(stored, counts, "window"),
        "gain": round(after / before, 2),
        "GiB alike": round(before / PAGE * sum(group.page_bytes for group in stored) / 2**30, 1),
        "GiB": round(taken / 2**30, 1),
    }


def tokens_of(stored: tuple[StoredGroup, ...], counts: tuple[int, ...], name: str) -> int:
    """Tokens that one group holds."""
    return next(
        (count - 1) * group.page_size for group, count in zip(stored, counts, strict=True) if group.name == name
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, nargs="+", default=[107, 16])
    parser.add_argument("--running", type=int, nargs="+", default=[256, 64, 16])
    parser.add_argument("--kv-cache-dtype", default="bfloat16")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [
        measure(gib, context, running, args.kv_cache_dtype)
        for gib in args.gib
        for context in (131072, 8192)
        for running in args.running
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print("".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>12,}" for value in row.values()))


if __name__ == "__main__":
    main()
