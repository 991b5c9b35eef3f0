"""Probes, information, metrics, keys, and what an operator can order."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from server.conftest import CONTEXT, ClientMaker, until
from server.scripted_engine import ScriptedEngine
from server.sse import events
from zif.contract.errors import EngineDead
from zif.frontend import Frontend
from zif.server import ServerOptions
from zif.server.launch import server_options
from zif.settings import Settings
from zif.tokenizer import Tokenizer

PROMPT = {"prompt": [5, 6], "max_tokens": 20}


def metric(text: str, name: str) -> float:
    (line,) = (line for line in text.splitlines() if line.startswith(name + " "))
    return float(line.rpartition(" ")[2])


async def test_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["tiny", "org/tiny"]
    assert listed["data"][0]["max_model_len"] == CONTEXT
    assert (await client.get("/v1/models/org/tiny")).json() == listed["data"][1]
    missing = await client.get("/v1/models/gpt-4")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient, path: str) -> None:
    fields = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "model": "gpt-4"}
    if path == "/tokenize":
        del fields["messages"]
    response = await client.post(path, json=fields)
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")
    assert "served here: tiny, org/tiny" in response.json()["error"]["message"]


async def test_tokenize_and_back(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    text = "hello 🙂<|end|>"
    tokens = (await client.post("/tokenize", json={"prompt": text, "return_token_strs": True})).json()
    assert tokens["tokens"] == tokenizer.encode(text)
    assert (tokens["count"], tokens["max_model_len"]) == (len(tokens["tokens"]), CONTEXT)
    assert tokens["token_strs"][-1] == "<|end|>"
    assert (await client.post("/detokenize", json={"tokens": tokens["tokens"]})).json() == {"prompt": text}
    chat = await client.post("/tokenize", json={"messages": [{"role": "user", "content": "hello"}]})
    assert tokenizer.decode(chat.json()["tokens"]) == "hello"
    for path, body in [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user"}]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "x"}),
        ("/detokenize", {}),
    ]:
        assert (await client.post(path, json=body)).status_code == 400


async def test_information(client: httpx.AsyncClient) -> None:
    info = (await client.get("/server_info")).json()
    assert info["device"] == info["internal_states"][0]["device"] == "scripted"
    assert info == {**(await client.get("/get_server_info")).json(), "open_requests": 0}
    assert (await client.get("/get_model_info")).json()["is_generation"] is True
    assert (await client.get("/openapi.json")).json()["paths"].keys() >= {"/v1/chat/completions", "/generate"}


async def test_metrics_count_what_happened(client: httpx.AsyncClient) -> None:
    await client.post("/v1/completions", json=PROMPT)
    await client.get("/never/heard/of")
    text = (await client.get("/metrics")).text
    assert metric(text, "zif_engine_up") == 1
    assert metric(text, "zif_generation_tokens_total") == 20
    assert metric(text, "zif_kv_pages_free") == 60
    assert metric(text, "zif_time_to_first_token_seconds_count") == 1
    assert metric(text, "zif_inter_token_latency_seconds_count") == 19
    assert metric(text, "zif_request_generation_tokens_sum") == 20
    assert metric(text, 'zif_choices_finished_total{reason="length"}') == 1
    assert metric(text, 'zif_http_responses_total{path="/v1/completions",status="200"}') == 1
    assert metric(text, 'zif_http_responses_total{path="unmatched",status="404"}') == 1
    assert "never" not in text


async def test_health(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}
    assert (await client.get("/health_generate")).status_code == 200
    assert engine.submitted[0].params.max_tokens == 1


async def test_a_dead_engine_is_reported_everywhere(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.die("killed by signal 9")
    for path in ("/health", "/health_generate"):
        response = await client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_dead")
        assert "killed by signal 9" in response.json()["error"]["message"]
    for stream in (False, True):
        response = await client.post("/v1/completions", json={**PROMPT, "stream": stream})
        assert (response.status_code, response.json()["error"]["type"]) == (503, "server_error")
    assert metric((await client.get("/metrics")).text, "zif_engine_up") == 0
    assert (await client.get("/server_info")).json()["failure"] == "killed by signal 9"


async def test_an_engine_that_dies_ends_streams_with_an_error_event(
    client: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.delay = 0.005
    body = {**PROMPT, "max_tokens": 400}
    streamed = asyncio.create_task(client.post("/v1/completions", json={**body, "stream": True}))
    await until(lambda: engine.tokens)
    engine.delay = 60
    whole = asyncio.create_task(client.post("/v1/completions", json=body))
    await until(lambda: len(engine.running) == 2)
    engine.die("killed by signal 9")
    *_, last = events(await streamed)
    assert last["error"]["code"] == "engine_dead"
    assert "killed by signal 9" in last["error"]["message"]
    assert (await whole).status_code == 503


async def test_health_generate_gives_up_on_an_engine_that_is_stuck(
    make_client: ClientMaker, engine: ScriptedEngine
) -> None:
    engine.delay = 60
    response = await make_client(health_generate_timeout=0.02).get("/health_generate")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "timeout")
    await until(lambda: not engine.running)


async def test_flush_cache(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    assert (await client.post("/flush_cache")).json() == {"success": True}
    engine.running["someone"] = asyncio.Event()
    response = await client.post("/flush_cache")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "conflict")


async def test_requests_are_aborted_by_id_or_all(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.delay = 60
    named = {"text": "x", "rid": "mine"}
    for body, order in [({**named}, {"rid": "mine"}), ({**named, "text": ["x", "y"]}, {"abort_all": True})]:
        request = asyncio.create_task(client.post("/generate", json=body))
        await until(lambda: engine.running)
        assert (await client.post("/abort_request", json=order)).json()["aborted"] >= 1
        answer = (await request).json()
        meta = answer["meta_info"] if isinstance(answer, dict) else answer[0]["meta_info"]
        assert meta["finish_reason"] == {"type": "abort"}
    assert (await client.post("/abort_request", json={"rid": "gone"})).json() == {"aborted": 0}
    assert (await client.post("/abort_request", json={})).status_code == 400


async def test_a_key_is_wanted_everywhere_but_for_probes(make_client: ClientMaker) -> None:
    client = make_client(api_keys=("sécret",))
    for path in ("/health", "/metrics"):
        assert (await client.get(path)).status_code == 200
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": b"\xff\xfe"}):
        response = await client.get("/v1/models", headers=headers)  # type: ignore[arg-type]
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert (await client.post("/never", content=b"x")).status_code == 401
    good = {"authorization": "Bearer sécret".encode()}
    assert (await client.get("/v1/models", headers=good)).status_code == 200  # type: ignore[arg-type]


async def test_too_many_requests_are_turned_away(make_client: ClientMaker, engine: ScriptedEngine) -> None:
    client = make_client(max_concurrent_requests=2)
    engine.delay = 0.01
    requests = [asyncio.create_task(client.post("/v1/completions", json=PROMPT)) for _ in range(3)]
    responses = await asyncio.gather(*requests)
    assert sorted(response.status_code for response in responses) == [200, 200, 429]
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["retry-after"] == "1"
    assert (await client.post("/v1/completions", json=PROMPT)).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2}),
        ("/generate", {"text": ["a", "b"], "sampling_params": {"n": 2}}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 4}),
    ],
)
async def test_too_many_choices_are_refused_before_anything_is_tokenized(
    make_client: ClientMaker, frontend: Frontend, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, Any]
) -> None:
    async def encode(*_: object, **__: object) -> list[int]:
        raise AssertionError("tokenized")

    monkeypatch.setattr(frontend, "encode", encode)
    monkeypatch.setattr(frontend, "encode_chat", encode)
    response = await make_client(max_choices=3).post(path, json=fields)
    assert response.status_code == 400
    assert "4 completions in one request (prompts times n); at most 3 are taken" in response.text


def test_settings_of_the_server_reach_it() -> None:
    asked = {
        "host": "::1", "port": 81, "max_concurrent_requests": 5, "max_body_bytes": 7,
        "log_level": "error",
    }  # fmt: skip
    options = server_options(Settings(**asked, api_key="k", drain_timeout=3))
    assert {name: getattr(options, name) for name in asked} == asked
    assert (options.api_keys, options.drain_seconds) == (("k",), 3)
    untouched, defaults = server_options(Settings()), ServerOptions()
    assert {name for name in asked if getattr(untouched, name) != getattr(defaults, name)} == set()


async def test_an_engine_that_is_full_is_a_429_even_for_a_stream(
    client: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.limit = 0
    for stream in (False, True):
        response = await client.post("/v1/completions", json={**PROMPT, "stream": stream})
        assert response.status_code == 429


async def test_a_failed_request_is_a_500_that_says_why(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.fail_requests = "logits are NaN"
    for path, body in (("/v1/completions", PROMPT), ("/generate", {"text": "x"})):
        response = await client.post(path, json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (500, "numerical_fault", "server_error")
        assert "logits are NaN" in error["message"]


async def test_health_generate_looks_at_what_it_is_given(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.fail_requests = "logits are NaN"
    response = await client.get("/health_generate")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "numerical_fault")
    engine.fail_requests, engine.delay = "", 15
    probe = asyncio.create_task(client.get("/health_generate"))
    await until(lambda: engine.running)
    await client.post("/abort_request", json={"abort_all": True})
    assert ((await probe).status_code, (await probe).json()["error"]["code"]) == (503, "no_token")


async def test_a_bug_is_a_500_that_tells_nothing(
    client: httpx.AsyncClient, frontend: Frontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(frontend, "generate", broken)
    response = await client.post("/v1/completions", json=PROMPT)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in response.text


async def test_stats_of_an_engine_that_does_not_answer_are_left_out(
    client: httpx.AsyncClient, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent() -> dict[str, object]:
        raise EngineDead("gone")

    monkeypatch.setattr(engine, "stats", silent)
    assert (await client.get("/server_info")).json()["internal_states"] == [{}]
    assert "zif_kv_pages_free" not in (await client.get("/metrics")).text
