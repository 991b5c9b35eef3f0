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
from system.storm import Watch, exchange, resident, watched
from zif.server.memory import DELAY_SECONDS

HEALTH_MS = 250


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
    time.sleep(DELAY_SECONDS + 1)
    deadline = time.monotonic() + 60
    while httpx.post(f"{served.url}/flush_cache", timeout=30).status_code != 200:
        assert time.monotonic() < deadline, served.stats()
        time.sleep(0.1)
    return served.stats()


def weather(served: Served, count: int, warming: int, *, growth: float) -> Watch:
    """Let a storm pass over a server that has seen ``warming`` requests; return what was noticed meanwhile.

    No answer is a 5xx, all pages are free afterwards, and resident memory is at most ``growth`` times what it was.
    """
    asyncio.run(storm(served.url, warming, seed=1))
    settled(served)
    before = resident(served.process.pid)
    with watched(served.url) as watch:
        seen = asyncio.run(storm(served.url, count, seed=2))
    assert not {(name, status): n for (name, status), n in seen.items() if status >= 500}
    assert len({name for name, _ in seen}) == len(MAKERS) + 1
    assert sum(n for (_, status), n in seen.items() if status == 200) > count // 100
    stats = settled(served)
    assert stats["pages_free"] == stats["pages_total"]
    assert served.stats()["open_requests"] == 0
    after = resident(served.process.pid)
    assert after < growth * before, (before, after)
    assert "Traceback" not in served.log.read_text()
    return watch


def test_a_short_storm(tmp_path: Path) -> None:
    with serve(tmp_path / "log", "--device", "null") as served:
        weather(served, 60, warming=45, growth=2.0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("device", ["null", "cpu"])
def test_ten_thousand_hostile_requests(tmp_path: Path, device: str) -> None:
    slowness = max(1.0, os.getloadavg()[0] / 2)  # of two cores that others use as well
    with serve(tmp_path / "log", "--device", device) as served:
        watch = weather(served, 10_000, warming=2000, growth=1.1)  # by then the heap has its size
    assert max(watch.health) < HEALTH_MS * slowness, sorted(watch.health)[-10:]


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
