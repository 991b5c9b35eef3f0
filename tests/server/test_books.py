"""What clients are told that they used, what metrics say and what /server_info says are the same numbers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from server.conftest import ClientMaker, until
from server.scripted_engine import ScriptedEngine
from server.sse import events
from zif.contract.errors import Overloaded
from zif.frontend import Frontend
from zif.messages import EngineRequest
from zif.sampling.params import SamplingParams
from zif.tokenizer import Tokenizer

NAMES = ("prompt_tokens", "cached_tokens", "generation_tokens")


async def books(client: httpx.AsyncClient) -> dict[str, int]:
    """Return what /metrics and /server_info agree upon."""
    info = (await client.get("/server_info")).json()
    lines = (await client.get("/metrics")).text.splitlines()
    metrics = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}
    for name in NAMES:
        metric = name.replace("cached", "cached_prompt")
        assert metrics[f"zif_{metric}_total"] == info[f"{name}_total"]
        assert info["internal_states"][0].get(f"{name}_total", info[f"{name}_total"]) == info[f"{name}_total"]
    for reason, count in info["choices_finished"].items():
        assert metrics[f'zif_choices_finished_total{{reason="{reason}"}}'] == count
    return {name: info[f"{name}_total"] for name in NAMES}


def used(usage: dict[str, Any]) -> Counter[str]:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Counter(dict(zip(NAMES, (usage["prompt_tokens"], cached, usage["completion_tokens"]), strict=True)))


async def test_all_that_clients_count_is_in_the_books(
    client: httpx.AsyncClient, engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    engine.script = lambda request: tokenizer.encode("one two three four")
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"prompt": "hello there", "n": 4}),
        ("/v1/completions", {"prompt": ["hello", "there you are"], "n": 2, "max_tokens": 2}),
        ("/v1/completions", {"prompt": [5, 6, 7], "stop": " t"}),
        ("/v1/completions", {"prompt": "hello", "max_tokens": 0, "echo": True, "logprobs": 0}),
        ("/v1/chat/completions", {**chat, "n": 3, "stop": "thr"}),
    ]
    told: Counter[str] = Counter()
    for url, body in bodies:
        told += used((await client.post(url, json=body)).json()["usage"])
        *_, last, _ = events(
            await client.post(url, json={**body, "stream": True, "stream_options": {"include_usage": True}})
        )
        told += used(last["usage"])
    assert await books(client) == told
    assert (await client.get("/health_generate")).status_code == 200
    assert await books(client) == told, "a probe is nobody's usage"


@pytest.mark.parametrize("n", [1, 4])
async def test_what_siblings_find_of_each_other_was_not_cached_before(frontend: Frontend, n: int) -> None:
    """Each choice after the first finds the whole prompt in the cache, because the first has just put it there."""

    class Caching(ScriptedEngine):
        async def submit(self, request: EngineRequest) -> Any:
            number = len(self.submitted)
            async for output in super().submit(request):
                output.cached_tokens = 8 if number else 2
                yield output

    frontend.engine = Caching()
    completion = await frontend.complete(list(range(5, 15)), SamplingParams(n=n, max_tokens=3))
    assert completion.cached_tokens == 2
    assert frontend.books.totals()["cached_tokens_total"] == 2
    assert frontend.books.totals()["prompt_tokens_total"] == 10


async def test_every_choice_ends_once(frontend: Frontend, make_client: ClientMaker) -> None:
    engine = ScriptedEngine(delay=0.001)
    frontend.engine = engine
    client = make_client()

    left = frontend.generate([[5], [6, 7]], SamplingParams(n=2))
    read = [await anext(left) for _ in range(6)]
    await left.aclose()
    aborted = frontend.generate([[5]], SamplingParams(n=2), request_id="mine")
    await anext(aborted)
    await frontend.abort("mine")
    rest = [delta async for delta in aborted]
    cancelled = asyncio.create_task(frontend.complete([5], SamplingParams()))
    await until(lambda: frontend.books.totals()["prompt_tokens_total"] == 5)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    engine.limit = 0
    with pytest.raises(Overloaded):
        await frontend.complete([5], SamplingParams(n=3))
    engine.limit = None
    await frontend.complete([5], SamplingParams(max_tokens=2))
    info = (await client.get("/server_info")).json()
    assert info["choices_finished"] == {"abort": 4 + 2 + 1, "error": 3, "length": 1}
    told = await books(client)
    assert told["generation_tokens"] >= sum(len(delta.token_ids) for delta in (*read, *rest)) + 2
    assert told["prompt_tokens"] == 3 + 1 + 1 + 1
    engine.die("gone")
    assert await books(client) == told, "the books outlive the engine"
