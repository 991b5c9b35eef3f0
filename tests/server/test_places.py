"""Places for sequences: bounded, and never all of them one client's."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.conftest import ClientMaker, until
from server.scripted_engine import ScriptedEngine
from zif.contract.errors import InvalidRequest, Overloaded
from zif.server.places import Places


@given(st.integers(1, 40), st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 12)), max_size=30))
def test_whoever_comes_finds_a_place_until_all_are_shared_out(limit: int, asked: list[tuple[str, int]]) -> None:
    places, held = Places(limit), dict.fromkeys("abc", 0)
    with ExitStack() as stack:
        for client, count in asked:
            try:
                stack.enter_context(places.taken(client, count))
            except Overloaded:
                continue
            except InvalidRequest:
                assert count > max(limit // 2, 1)
                continue
            held[client] += count
            assert sum(held.values()) <= limit
            assert held[client] <= max(limit // 2, 1)
    if limit > 1:
        with places.taken("a", limit // 2):  # all were given back
            pass


async def test_one_client_cannot_fill_the_queue(make_client: ClientMaker, engine: ScriptedEngine) -> None:
    engine.delay = 60
    client = make_client(api_keys=("one", "two"), max_queued=8)
    many = {"prompt": "x", "n": 4, "max_tokens": 2}

    def ask(key: str, body: dict[str, object]) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(
            client.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})
        )

    first = ask("one", many)
    await until(lambda: len(engine.running) == 4)
    refused = await ask("one", many)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "4 of 8 sequences are running or waiting, 4 of them yours" in refused.json()["error"]["message"]
    second = ask("two", {**many, "n": 2})
    await until(lambda: len(engine.running) == 6)
    too_many = await ask("two", {**many, "n": 5})
    assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "n")
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await until(lambda: not engine.running)
    engine.delay = 0
    assert (await ask("one", many)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/generate", {"text": "x"}),
    ],
)
async def test_prefixes_are_shared_within_a_salt_and_a_key(
    make_client: ClientMaker, engine: ScriptedEngine, path: str, body: dict[str, object]
) -> None:
    async def key(isolation: str, api_key: str, **salt: str) -> tuple[str, ...]:
        client = make_client(api_keys=("one", "two"), cache_isolation=isolation)
        headers = {"authorization": f"Bearer {api_key}"}
        assert (await client.post(path, json={**body, **salt}, headers=headers)).status_code == 200
        return engine.submitted[-1].cache_key

    assert await key("none", "one") == await key("none", "two") == ()
    salted = await key("none", "one", cache_salt="s")
    assert salted == await key("none", "two", cache_salt="s") != await key("none", "one", cache_salt="t") != ()
    apart = [await key("api-key", k, **salt) for k in ("one", "two") for salt in ({}, {"cache_salt": "s"})]
    assert len({(), salted, *apart}) == 6
    for wrong in ("", "x" * 1025, 5):
        assert (await make_client().post(path, json={**body, "cache_salt": wrong})).status_code == 400
