"""The traffic of clients that people really use, as they send it, and read as they read it."""

from __future__ import annotations

import json
from typing import Any

import httpx

from server.scripted_engine import ScriptedEngine
from server.sse import events

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response


async def test_guidellm(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    assert (await client.get("/health")).status_code == 200
    model = (await client.get("/v1/models")).json()["data"][0]["id"]
    stream = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    exactly = {"max_tokens": 8, "max_completion_tokens": 8, "ignore_eos": True, "stop": None}
    for path, prompt in [("/v1/completions", {"prompt": "hello"}), ("/v1/chat/completions", CHAT)]:
        *chunks, done = events(await post(client, path, **{**prompt, "model": model}, **stream, **exactly))
        assert done == "[DONE]"
        assert chunks[-1]["usage"]["completion_tokens"] == 8
        assert all("usage" in chunk for chunk in chunks)
    assert all(request.params.ignore_eos for request in engine.submitted)


async def test_vllm_bench_serve(client: httpx.AsyncClient) -> None:
    body = {
        "model": "tiny",
        "prompt": "hello there",
        "repetition_penalty": 1.0,
        "max_tokens": 8,
        "logprobs": None,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, made = "", None
    for chunk in events(await post(client, "/v1/completions", **body))[:-1]:
        if choices := chunk.get("choices"):
            text += choices[0].get("text") or ""
        elif usage := chunk.get("usage"):
            made = usage.get("completion_tokens")
    assert text.startswith("hello")
    assert made == 8


async def test_sglang_bench_serving(client: httpx.AsyncClient) -> None:
    sampling = {"temperature": 0.0, "max_new_tokens": 8, "ignore_eos": True}
    body = {"text": "hello there", "sampling_params": sampling, "stream": True, "lora_path": None}
    extra = {"return_logprob": False, "logprob_start_len": -1, "image_data": None}
    for chunk in events(await post(client, "/generate", **body, **extra))[:-1]:
        assert chunk["text"]
        assert chunk["meta_info"]["completion_tokens"]
    for endpoint in ("/server_info", "/get_server_info"):
        assert (await client.get(endpoint)).json()["internal_states"][0].get("avg_spec_accept_length") is None
    assert (await client.post("/flush_cache")).status_code == 200
    # Its OpenAI mode indexes choices[0] of every chunk: no usage-only chunk that nobody asked for.
    for chunk in events(await post(client, "/v1/completions", model="tiny", prompt="x", max_tokens=3, stream=True))[
        :-1
    ]:
        assert isinstance(chunk["choices"][0]["text"], str)


async def test_langchain(client: httpx.AsyncClient) -> None:
    body = {**CHAT, "max_completion_tokens": 8, "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto"}
    answer = (await post(client, "/v1/chat/completions", **body, parallel_tool_calls=True, n=1, temperature=0.7)).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"


async def test_litellm(client: httpx.AsyncClient) -> None:
    body = {**CHAT, "max_tokens": 8, "temperature": 0, "user": "me", "extra_headers": {}, "metadata": {"a": "b"}}
    for stream in (False, True):
        assert (await post(client, "/v1/chat/completions", **body, stream=stream)).content


async def test_aiperf(client: httpx.AsyncClient) -> None:
    body = {**CHAT, "max_completion_tokens": 8, "min_tokens": 8, "ignore_eos": True, "stream": True}
    chunks = events(await post(client, "/v1/chat/completions", **body, stream_options={"include_usage": True}))
    assert chunks[-2]["usage"]["completion_tokens"] == 8


async def test_lm_eval(client: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    prompts = [[5, 6, 7, 8], [9, 10, 11]]
    answer = (await post(client, "/v1/completions", prompt=prompts, **body)).json()
    for choice, context in zip(answer["choices"], (2, 1), strict=True):
        scores = choice["logprobs"]["token_logprobs"][context:-1]
        tops = choice["logprobs"]["top_logprobs"][context:-1]
        assert len(scores) == len(prompts[choice["index"]]) - context
        assert sum(scores) == -len(scores)
        assert [max(top.values()) for top in tops]
    until = {"prompt": ["hello"], "max_tokens": 8, "stop": ["\n\n", "Q:"], "temperature": 0, "seed": 1234}
    assert (await post(client, "/v1/completions", model="tiny", **until)).json()["choices"][0]["text"]


async def test_curl_without_a_content_type_is_told_what_to_add(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = await client.post("/v1/chat/completions", content=json.dumps(CHAT), headers=headers)
    assert response.status_code == 415
    assert "send `Content-Type: application/json`" in response.json()["error"]["message"]
