from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from server.scripted_engine import ScriptedEngine
from server.sse import events
from zif.tokenizer import Tokenizer

URL = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def engine(tokenizer: Tokenizer) -> ScriptedEngine:
    return ScriptedEngine(lambda request: tokenizer.encode("naïve 🙂 café<|end|>"))


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HELLO, **fields}


async def test_an_answer(client: httpx.AsyncClient, engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    response = await client.post(URL, json=body(temperature=0.5, seed=7))
    answer = response.json()
    assert response.status_code == 200
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")
    assert answer["system_fingerprint"].startswith("zif-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "naïve 🙂 café", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    asked = engine.submitted[0]
    assert tokenizer.decode(asked.prompt_ids, skip_special_tokens=False) == "<|user|>hello<|end|><|assistant|>"
    assert (asked.params.temperature, asked.params.seed, asked.params.top_p) == (0.5, 7, 0.9)
    made = len(tokenizer.encode("naïve 🙂 café<|end|>"))
    prompt = len(asked.prompt_ids)
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": prompt // 2},
    }


async def test_a_stream(client: httpx.AsyncClient) -> None:
    first, *middle, last, done = events(await client.post(URL, json=body(stream=True)))
    assert done == "[DONE]"
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    texts = [chunk["choices"][0]["delta"]["content"] for chunk in middle]
    assert all(texts), "no chunk without news"
    assert "".join(texts) + last["choices"][0]["delta"].get("content", "") == "naïve 🙂 café"
    assert [chunk["choices"][0]["finish_reason"] for chunk in (first, *middle)] == [None] * (1 + len(middle))
    assert last["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in chunk for chunk in (first, *middle, last))
    assert len({chunk["id"] for chunk in (first, *middle, last)}) == 1


async def test_usage_of_a_stream(client: httpx.AsyncClient) -> None:
    options = {"include_usage": True}
    *chunks, last, _ = events(await client.post(URL, json=body(stream=True, stream_options=options)))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0
    assert not any("usage" in chunk for chunk in chunks)

    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events(await client.post(URL, json=body(stream=True, stream_options=options)))[:-1]
    made = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert made == sorted(made)
    assert chunks[-1]["usage"] == last["usage"]

    chunks = events(await client.post(URL, json=body(stream=True, stream_options={"continuous_usage_stats": True})))
    assert not any("usage" in chunk for chunk in chunks[:-1])


async def test_logprobs(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    fields = body(logprobs=True, top_logprobs=3)
    whole = (await client.post(URL, json=fields)).json()["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in whole).decode() == "naïve 🙂 café<|end|>"
    assert all(entry["logprob"] == -1.0 for entry in whole)
    assert [other["logprob"] for other in whole[0]["top_logprobs"]] == [-0.5, -1.0, -9999.0]
    assert any(entry["token"].startswith("bytes:\\x") for entry in whole), "half a character"
    chunks = events(await client.post(URL, json={**fields, "stream": True}))[1:-1]
    streamed = [entry for chunk in chunks for entry in chunk["choices"][0]["logprobs"]["content"]]
    assert streamed == whole
    alone = (await client.post(URL, json=body(logprobs=True))).json()["choices"][0]["logprobs"]["content"]
    assert alone[0]["top_logprobs"] == []


async def test_several_choices(client: httpx.AsyncClient) -> None:
    answer = (await client.post(URL, json=body(n=3))).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    chunks = events(await client.post(URL, json=body(n=3, stream=True)))[:-1]
    texts = dict.fromkeys(range(3), "")
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content", "")
    assert set(texts.values()) == {"naïve 🙂 café"}
    assert sum("role" in chunk["choices"][0]["delta"] for chunk in chunks) == 3


async def test_a_stop_string_is_named(client: httpx.AsyncClient) -> None:
    choice = (await client.post(URL, json=body(stop=["caf"]))).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == (
        "naïve 🙂 ",
        "stop",
        "caf",
    )
    chunks = events(await client.post(URL, json=body(stop="caf", stream=True)))
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == "naïve 🙂 "


async def test_max_completion_tokens_goes_before_max_tokens(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    choice = (await client.post(URL, json=body(max_completion_tokens=2, max_tokens=9))).json()["choices"][0]
    assert engine.submitted[0].params.max_tokens == 2
    assert choice["finish_reason"] == "length"


async def test_tools_are_refused_unless_ruled_out(
    client: httpx.AsyncClient, engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    for choice in (None, "auto"):
        response = await client.post(URL, json=body(tools=tools, tool_choice=choice))
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
        assert (await client.post(URL, json=body(tools=[], tool_choice=choice))).status_code == 200
    assert (await client.post(URL, json=body(tools=tools, tool_choice="none"))).status_code == 200
    assert "weather" not in tokenizer.decode(engine.submitted[-1].prompt_ids)


async def test_the_template_s_own_parameters_are_the_request_s_fields(client: httpx.AsyncClient) -> None:
    for name in ("messages", "tools", "add_generation_prompt"):
        response = await client.post(URL, json=body(chat_template_kwargs={name: []}))
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "chat_template_kwargs"
        assert f"{name} is a parameter of the request" in response.json()["error"]["message"]
    assert (await client.post(URL, json=body(documents=[{"text": "x"}]))).status_code == 200


async def test_null_and_unknown_parameters_are_nothing(client: httpx.AsyncClient) -> None:
    nothing = dict.fromkeys(("stop", "n", "temperature", "logprobs", "seed", "tools", "stream", "logit_bias", "user"))
    fields = body(**nothing, frobnicate=[1], service_tier="auto", response_format={"type": "text"})
    assert (await client.post(URL, json=fields)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": None}, "messages", "list"),
        ({"messages": []}, "messages", "must not be empty"),
        ({"messages": "hello"}, "messages", "list"),
        ({"messages": [{"content": "x"}]}, "messages", "messages[0] needs a role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages", "messages[0] has content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages", "unknown role wizard"),
        ({"temperature": "hot"}, "temperature", "temperature must be a number, not 'hot'"),
        ({"temperature": -1}, "temperature", "temperature must be in"),
        ({"n": 0}, "n", "n must be in"),
        ({"n": True}, "n", "n must be a whole number, not True"),
        ({"top_p": 0}, "top_p", "top_p must be in"),
        ({"max_tokens": 1.5}, "max_tokens", "max_tokens must be a whole number, not 1.5"),
        ({"max_completion_tokens": -1}, "max_tokens", "max_tokens must be in"),
        ({"stop": 5}, "stop", "stop must be a string or a list of strings"),
        ({"stop": [""]}, "stop", "non-empty"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is not a token id"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "out of range"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "[0, 20]"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format", "only text is supported yet"),
        ({"tool_choice": "required"}, "tool_choice", "cannot be enforced yet"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "cannot be enforced yet"),
        ({"guided_json": {}, "guided_regex": "x"}, "guided_regex", "not supported yet"),
        ({"functions": [{"name": "f"}]}, "functions", "superseded by tools"),
        ({"chat_template": "{{ x }}"}, "chat_template", "server alone"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
    ],
)
async def test_what_is_wrong_is_explained(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, words: str
) -> None:
    response = await client.post(URL, json=body(**fields))
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("fields", "in_thread"),
    [
        ({"messages": [{"role": "user", "content": "hello"}] * 3}, False),
        ({"messages": [{"role": "user", "content": "hello"}] * 40}, True),
        ({"messages": [{"role": "user", "content": "hello " * 1000}]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}, True),
        ({"messages": [{"role": "user", "content": "hello"}], "tools": [{"type": "function"}]}, True),
        ({"messages": [{"role": "user", "content": "hello"}], "chat_template_kwargs": {"a": "b"}}, True),
    ],
)
async def test_what_takes_long_to_render_is_rendered_in_a_thread(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], in_thread: bool
) -> None:
    threads: list[threading.Thread] = []
    monkeypatch.setattr(Tokenizer, "render", lambda *_, **__: threads.append(threading.current_thread()) or "x")
    assert (await client.post("/tokenize", json=fields)).status_code == 200
    assert [thread is not threading.main_thread() for thread in threads] == [in_thread]
