"""Storms of hostile requests: nobody else notices, and nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from system.conftest import Served, serve
from system.hostile import MAKERS, garbage, hostile
from system.storm import exchange, resident, watched
from zif.server.memory import DELAY_SECONDS

HEALTH_MS = 250
ROOM = ("--device-opt", "null.memory_mb=8192", "--max-total-tokens", "65536")
"""For the buffers of every shape of step that a storm brings about."""


async def storm(url: str, count: int, seed: int, *, at_once: int = 8) -> Counter[tuple[str, int]]:
    """Send ``count`` requests; how often each kind was answered with each status."""
    dice, seen = random.Random(seed), Counter[tuple[str, int]]()
    names = list(MAKERS)
    plan = [hostile(name) for name in names[:count]]
    plan += [garbage(dice) if dice.random() < 0.7 else hostile(dice.choice(names)) for _ in range(count - len(plan))]
    dice.shuffle(plan)
    todo = iter(plan)

    async def send() -> None:
        for what in todo:
            seen[what.name, await exchange(url, what)] += 1

    await asyncio.gather(*(send() for _ in range(at_once)))
    return seen


def settled(served: Served) -> dict[str, int]:
    """Wait until nothing runs, and empty the cache; the engine's stats."""
    time.sleep(2 * DELAY_SECONDS)
    deadline = time.monotonic() + 60
    while httpx.post(f"{served.url}/flush_cache", timeout=30).status_code != 200:
        assert time.monotonic() < deadline, served.stats()
        time.sleep(0.1)
    return served.stats()


def weather(served: Served, count: int, warming: int) -> None:
    """Let a storm pass over a server that has seen ``warming`` requests, and look at what is left.

    After 2,000 requests or so the heap has its size; what is measured before says little.
    """
    slowness = max(1.0, os.getloadavg()[0] / 2)  # of two cores that others use as well
    asyncio.run(storm(served.url, warming, seed=1))
    settled(served)
    before = resident(served.process.pid)
    with watched(served.url) as watch:
        seen = asyncio.run(storm(served.url, count, seed=2))
    assert not {(name, status): n for (name, status), n in seen.items() if status >= 500}
    assert len({name for name, _ in seen}) == len(MAKERS) + 1
    assert sum(n for (_, status), n in seen.items() if status == 200) > count // 100
    assert max(watch.health) < HEALTH_MS * slowness, sorted(watch.health)[-10:]
    stats = settled(served)
    assert stats["pages_free"] == stats["pages_total"]
    assert served.stats()["open_requests"] == 0
    after = resident(served.process.pid)
    assert after < (1.1 if warming >= 2000 else 1.5) * before, (before, after)
    assert "Traceback" not in served.log.read_text()


def test_a_short_storm(tmp_path: Path) -> None:
    with serve(tmp_path / "log", "--device", "null", *ROOM) as served:
        weather(served, 120, warming=80)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("device", ["null", "cpu"])
def test_ten_thousand_hostile_requests(tmp_path: Path, device: str) -> None:
    with serve(tmp_path / "log", "--device", device, *(ROOM if device == "null" else ())) as served:
        weather(served, 10_000, warming=2000)


def test_a_salted_request_finds_nothing_of_others(tmp_path: Path) -> None:
    with serve(tmp_path / "log", "--device", "null") as served:

        def cached(**fields: str) -> int:
            body = {"prompt": [7] * 400, "max_tokens": 1, **fields}
            usage = httpx.post(f"{served.url}/v1/completions", json=body, timeout=30).json()["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert cached() == 0
        assert cached() > 300
        assert cached(cache_salt="mine") == 0
        assert cached(cache_salt="mine") > 300
        assert cached(cache_salt="yours") == 0
