from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import pytest

from server.conftest import ClientMaker
from server.scripted_engine import ScriptedEngine
from server.sse import events
from zif.frontend import Frontend
from zif.tokenizer import Tokenizer

URL = "/generate"


async def test_one_prompt(client: httpx.AsyncClient, engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two")
    for prompt in ({"text": "one two"}, {"input_ids": ids}):
        fields = {**prompt, "sampling_params": {"temperature": 0.0, "max_new_tokens": len(ids), "ignore_eos": True}}
        answer = (await client.post(URL, json=fields)).json()
        assert (answer["text"], answer["output_ids"]) == ("one two", ids)
        meta = answer["meta_info"]
        assert meta["finish_reason"] == {"type": "length", "length": len(ids)}
        assert (meta["prompt_tokens"], meta["completion_tokens"]) == (len(ids), len(ids))
        assert meta["cached_tokens"] == len(ids) // 2
    params = engine.submitted[0].params
    assert (params.temperature, params.ignore_eos) == (0.0, True)


async def test_defaults_are_sglang_s(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    await client.post(URL, json={"text": "one"})
    assert engine.submitted[0].params.max_tokens == 128


async def test_a_batch_has_a_list_of_answers_and_parameters(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    sampling = [{"max_new_tokens": 1, "n": 2}, {"max_new_tokens": 2}]
    answers = (await client.post(URL, json={"text": ["one", "two"], "sampling_params": sampling})).json()
    assert [answer["meta_info"]["completion_tokens"] for answer in answers] == [1, 1, 2]
    assert len({answer["meta_info"]["id"] for answer in answers}) == 3
    answers = (await client.post(URL, json={"input_ids": [[5]], "sampling_params": {"max_new_tokens": 1}})).json()
    assert len(answers) == 1


async def test_streams_carry_the_text_so_far(client: httpx.AsyncClient) -> None:
    fields = {"text": "naïve 🙂", "stream": True, "sampling_params": {"max_new_tokens": 30}}
    *chunks, done = events(await client.post(URL, json=fields))
    assert done == "[DONE]"
    texts = [chunk["text"] for chunk in chunks]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert [chunk["meta_info"]["completion_tokens"] for chunk in chunks] == list(range(1, 31))
    assert [chunk["meta_info"]["finish_reason"] for chunk in chunks[:-1]] == [None] * 29
    assert chunks[-1]["meta_info"]["finish_reason"]["type"] == "length"
    assert "index" not in chunks[0]
    chunks = events(await client.post(URL, json={**fields, "text": ["one", "two"]}))[:-1]
    assert {chunk["index"] for chunk in chunks} == {0, 1}


async def test_log_probabilities(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two three")
    fields = {
        "input_ids": ids,
        "sampling_params": {"max_new_tokens": 2},
        "return_logprob": True,
        "logprob_start_len": 1,
        "top_logprobs_num": 1,
        "return_text_in_logprobs": True,
    }
    meta = (await client.post(URL, json=fields)).json()["meta_info"]
    assert meta["output_token_logprobs"] == [[-1.0, i, tokenizer.token_text(i)] for i in ids[:2]]
    assert meta["input_token_logprobs"] == [[-1.0, i, tokenizer.token_text(i)] for i in ids[1:]]
    assert [top[0][0] for top in meta["output_top_logprobs"]] == [-0.5, -0.5]
    assert len(meta["input_top_logprobs"]) == len(ids) - 1
    streamed = events(await client.post(URL, json={**fields, "stream": True}))[-2]["meta_info"]
    for name in ("output_token_logprobs", "input_token_logprobs"):
        assert streamed[name] == meta[name]


async def test_scoring_only(client: httpx.AsyncClient) -> None:
    fields = {"input_ids": [5, 6], "return_logprob": True, "logprob_start_len": 0}
    answer = (await client.post(URL, json={**fields, "sampling_params": {"max_new_tokens": 0}})).json()
    assert answer["meta_info"]["input_token_logprobs"] == [[None, 5, None], [-1.0, 6, None]]
    assert answer["output_ids"] == []


async def test_stops_are_named(client: httpx.AsyncClient, engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    engine.script = lambda request: tokenizer.encode("one two<|end|>")
    answer = (await client.post(URL, json={"text": "x"})).json()
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": 0}
    answer = (await client.post(URL, json={"text": "x", "sampling_params": {"stop": " t"}})).json()
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": " t"}
    assert answer["text"] == "one"
    sampling = {"stop": " t", "no_stop_trim": True}
    assert (await client.post(URL, json={"text": "x", "sampling_params": sampling})).json()["text"] == "one t"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give either text or input_ids"),
        ({"text": "x", "input_ids": [1]}, "give either text or input_ids"),
        ({"text": 5}, "text: must be a string or a list of strings"),
        ({"text": []}, "must not be empty"),
        ({"input_ids": []}, "must not be empty"),
        ({"text": ["x", "y"], "sampling_params": [{}]}, "2 prompts, but 1 sampling_params"),
        (
            {"text": "x", "sampling_params": {"temperature": "hot"}},
            "sampling_params: temperature must be a number",
        ),
        ({"text": "x", "sampling_params": {"json_schema": "{}"}}, "json_schema: constrained output is not supported"),
        ({"text": "x", "sampling_params": "hot"}, "sampling_params: must be an object"),
        ({"text": "x", "sampling_params": [5]}, "sampling_params"),
        ({"text": "x", "sampling_params": {"max_new_tokens": -5}}, "sampling_params: max_new_tokens must be in"),
        ({"text": "x", "sampling_params": {"max_tokens": 5}}, "max_tokens is no sampling parameter of /generate"),
        ({"text": "x", "image_data": "y"}, "text or token ids"),
    ],
)
async def test_what_is_wrong_is_explained(client: httpx.AsyncClient, fields: dict[str, Any], words: str) -> None:
    response = await client.post(URL, json=fields)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize("fields", [{}, {"return_logprob": True, "top_logprobs_num": 3, "logprob_start_len": 0}])
async def test_a_stream_grows_with_its_tokens_not_with_their_square(
    client: httpx.AsyncClient, frontend: Frontend, fields: dict[str, object]
) -> None:
    frontend.model = replace(frontend.model, context_length=10_000)
    asked = {"input_ids": [5, 6, 7], **fields}
    sampling = {"max_new_tokens": 2500, "ignore_eos": True}
    response = await client.post(URL, json={**asked, "stream": True, "sampling_params": sampling})
    whole = (await client.post(URL, json={**asked, "sampling_params": sampling})).json()
    *_, last, _ = (part.removeprefix("data: ") for part in response.text.split("\n\n") if part)
    size, streamed = len(last), json.loads(last)
    for answer in (streamed, whole):
        del answer["meta_info"]["e2e_latency"], answer["meta_info"]["id"]
    assert streamed == whole
    assert len(response.content) < 8192 * 2500 + 3 * size  # 320 MB with scores, were each event the whole


async def test_up_to_a_thousand_tokens_each_has_its_event(client: httpx.AsyncClient, frontend: Frontend) -> None:
    frontend.model = replace(frontend.model, context_length=10_000)
    sampling = {"max_new_tokens": 1000, "ignore_eos": True}
    chunks = events(await client.post(URL, json={"input_ids": [5], "stream": True, "sampling_params": sampling}))
    assert len(chunks) == 1001


async def test_streams_can_carry_what_is_new_alone(make_client: ClientMaker) -> None:
    fields = {
        "text": "naïve 🙂",
        "sampling_params": {"max_new_tokens": 30},
        "return_logprob": True,
        "top_logprobs_num": 1,
        "logprob_start_len": 0,
    }
    client = make_client(incremental_streaming_output=True)
    whole = (await client.post(URL, json=fields)).json()
    *chunks, done = events(await client.post(URL, json={**fields, "stream": True}))
    assert done == "[DONE]"
    assert len(chunks) == 30
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    assert [i for chunk in chunks for i in chunk["output_ids"]] == whole["output_ids"]
    for name in ("output_token_logprobs", "output_top_logprobs"):
        assert [t for chunk in chunks for t in chunk["meta_info"][name]] == whole["meta_info"][name]
    assert chunks[0]["meta_info"]["input_token_logprobs"] == whole["meta_info"]["input_token_logprobs"]
    assert "input_token_logprobs" not in chunks[1]["meta_info"]
    assert [chunk["meta_info"]["completion_tokens"] for chunk in chunks] == list(range(1, 31))
