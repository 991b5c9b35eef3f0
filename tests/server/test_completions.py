from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from server.conftest import CONTEXT, ClientMaker
from server.scripted_engine import ScriptedEngine
from server.sse import events
from zif.frontend import Frontend, ScoredToken, TokenScore
from zif.server.routes.shapes import CompletionLogprobs
from zif.tokenizer import Tokenizer

URL = "/v1/completions"


async def test_text_comes_back_as_text(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = (await client.post(URL, json={"model": "tiny", "prompt": "one two three"})).json()
    assert (answer["object"], answer["id"][:5]) == ("text_completion", "cmpl-")
    assert answer["choices"][0]["text"].startswith("one two")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 16, "OpenAI's default"
    assert engine.submitted[0].params.logprobs is None


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("ids", [False, True])
async def test_prompts_are_text_or_ids_one_or_many(
    client: httpx.AsyncClient, tokenizer: Tokenizer, many: bool, ids: bool
) -> None:
    texts = ["hello there", "one two"][: 1 + many]
    prompts = [tokenizer.encode(text) if ids else text for text in texts]
    fields = {"prompt": prompts if many else prompts[0], "max_tokens": 4, "n": 2, "echo": True}
    answer = (await client.post(URL, json=fields)).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(texts)))
    for choice in answer["choices"]:
        assert choice["text"].startswith(texts[choice["index"] // 2])
    assert answer["usage"]["prompt_tokens"] == sum(len(tokenizer.encode(text)) for text in texts)
    assert answer["usage"]["completion_tokens"] == 4 * 2 * len(texts)


async def test_a_stream_says_what_the_whole_says(client: httpx.AsyncClient) -> None:
    fields = {"prompt": ["naïve 🙂", "hello"], "max_tokens": 9, "echo": True, "logprobs": 1}
    whole = (await client.post(URL, json=fields)).json()
    chunks = events(await client.post(URL, json={**fields, "stream": True}))
    assert chunks.pop() == "[DONE]"
    for choice in whole["choices"]:
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == "length"
        for name, values in choice["logprobs"].items():
            assert [value for part in parts for value in part["logprobs"][name]] == values


async def test_log_probabilities_of_the_prompt_as_lm_eval_reads_them(
    client: httpx.AsyncClient, engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    prompts = [tokenizer.encode("one two three"), tokenizer.encode("hello")]
    fields = {"prompt": prompts, "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234, "temperature": 0}
    answer = (await client.post(URL, json={"model": "tiny", **fields})).json()
    for choice, prompt in zip(answer["choices"], prompts, strict=True):
        logprobs = choice["logprobs"]
        assert {len(values) for values in logprobs.values()} == {len(prompt) + 1}
        assert logprobs["token_logprobs"] == [None] + [-1.0] * len(prompt)
        assert logprobs["top_logprobs"][0] is None
        # lm-eval: greedy is where the token's log-probability is the highest of the alternatives
        assert [max(top.values()) for top in logprobs["top_logprobs"][1:]] == [-0.5] * len(prompt)
        assert logprobs["tokens"][0] == tokenizer.token_text(prompt[0])
        for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
            assert choice["text"][offset:].startswith(token)
        assert logprobs["text_offset"][-1] == len(tokenizer.decode(prompt))
    assert all(request.params.prompt_logprobs == 1 for request in engine.submitted)


async def test_a_prompt_can_be_scored_without_making_a_token(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    fields = {"prompt": "hello there", "max_tokens": 0, "logprobs": 0, "echo": True}
    answer = (await client.post(URL, json=fields)).json()
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("hello there", "length")
    assert len(choice["logprobs"]["tokens"]) == len(tokenizer.encode("hello there"))
    assert answer["usage"]["completion_tokens"] == 0


async def test_logprobs_without_echo(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    fields = {"prompt": "🙂", "max_tokens": len(tokenizer.encode("🙂")), "logprobs": 3}
    answer = (await client.post(URL, json=fields)).json()
    logprobs = answer["choices"][0]["logprobs"]
    assert answer["choices"][0]["text"] == "🙂"
    assert logprobs["tokens"][0].startswith("bytes:\\xf0")
    assert logprobs["text_offset"] == [0] * len(logprobs["tokens"])
    assert -9999.0 in logprobs["top_logprobs"][0].values()


async def test_absurd_max_tokens_are_cut_to_the_context(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = (await client.post(URL, json={"prompt": [5, 6], "max_tokens": 10**15})).json()
    assert answer["usage"]["total_tokens"] == CONTEXT


def test_of_two_alternatives_with_one_spelling_the_likelier_is_kept() -> None:
    alternatives = (TokenScore(1, b"x", -0.5), TokenScore(2, b"x", -3.0))
    logprobs = CompletionLogprobs()
    logprobs.add([ScoredToken(TokenScore(3, b"y", -9.0), rank=7, text_offset=2, top=alternatives)], 10)
    assert logprobs.report() == {
        "tokens": ["y"],
        "token_logprobs": [-9.0],
        "top_logprobs": [{"x": -0.5, "y": -9.0}],
        "text_offset": [12],
    }


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "prompt", "prompt: field required"),
        ({"prompt": None}, "prompt", "prompt: must be a string, a list of strings, a list of token ids"),
        ({"prompt": [1, "two"]}, "prompt", "prompt: must be a string, a list of strings, a list of token ids"),
        ({"prompt": [True]}, "prompt", "prompt: must be"),
        ({"prompt": []}, "prompt", "must not be empty"),
        ({"prompt": ""}, "prompt", "must not be empty"),
        ({"prompt": [[]]}, "prompt", "must not be empty"),
        ({"prompt": [[1], []]}, "prompt", "must not be empty"),
        ({"prompt": [99999]}, "prompt", "token id 99999 at position 0"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "not supported"),
        ({"prompt": "x", "best_of": 4}, "best_of", "not supported"),
        ({"prompt": "x", "logprobs": 21}, "logprobs", "[0, 20]"),
        ({"prompt": "x", "logprobs": True}, "logprobs", "integer"),
        ({"prompt": "x", "min_tokens": 5, "max_tokens": 4}, "min_tokens", "over max_tokens"),
        ({"prompt": ["x"] * 100, "n": 100}, "n", "10000 completions in one request"),
        ({"prompt": "x", "seed": 2**70}, "seed", "seed must be"),
        ({"prompt": "x", "max_tokens": 10**30}, "max_tokens", "max_tokens must be"),
    ],
)
async def test_what_is_wrong_is_explained(
    client: httpx.AsyncClient, engine: ScriptedEngine, fields: dict[str, Any], param: str, words: str
) -> None:
    for stream in (False, True):
        response = await client.post(URL, json={**fields, "stream": stream})
        error = response.json()["error"]
        assert response.status_code == 400, error
        assert error["param"] == param
        assert words in error["message"]
    assert not engine.submitted


async def test_too_long_a_prompt_has_a_code_of_its_own(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, json={"prompt": [5] * CONTEXT})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("as_ids", [True, False])
async def test_offsets_of_an_echo_are_those_of_its_text(
    client: httpx.AsyncClient, tokenizer: Tokenizer, engine: ScriptedEngine, skip: bool, as_ids: bool
) -> None:
    engine.script = lambda request: tokenizer.encode("d<|user|>é")
    text = "a<|user|>bé<|system|>🙂c"
    prompt: Any = tokenizer.encode(text) if as_ids else text
    fields = {"prompt": prompt, "max_tokens": 9, "logprobs": 0, "echo": True, "skip_special_tokens": skip}
    choice = (await client.post(URL, json=fields)).json()["choices"][0]
    seen, logprobs = choice["text"], choice["logprobs"]
    assert seen == (text if not as_ids or not skip else "abé🙂c") + ("dé" if skip else "d<|user|>é")
    at = dict(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))
    for letter in "abcd":
        assert seen[at[letter]] == letter
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    (again,) = tokenizer.encode("<|user|>")
    assert (await client.post("/detokenize", json={"tokens": tokenizer.encode(text)})).json() == {"prompt": text}
    assert tokenizer.decode([again], skip_special_tokens=skip) == ("" if skip else "<|user|>")


async def test_an_echo_and_its_completion_meet_within_a_character(
    client: httpx.AsyncClient, tokenizer: Tokenizer, engine: ScriptedEngine
) -> None:
    ids = tokenizer.encode("h🙂")
    assert len(ids) > 2
    engine.script = lambda request: ids[2:]
    fields = {"prompt": ids[:2], "max_tokens": len(ids) - 2, "echo": True}
    assert (await client.post(URL, json=fields)).json()["choices"][0]["text"] == "h🙂"
    cut = {**fields, "max_tokens": len(ids) - 3}
    assert (await client.post(URL, json=cut)).json()["choices"][0]["text"] == "h"


async def test_what_the_model_recommends_for_the_length_holds_where_a_request_says_nothing(
    make_client: ClientMaker, frontend: Frontend, engine: ScriptedEngine
) -> None:
    client = make_client()
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    for recommended, limits in (({}, (16, None, 128)), ({"max_tokens": 3}, (3, 3, 3))):
        frontend.model = replace(frontend.model, sampling_defaults=recommended)
        engine.submitted.clear()
        for url, body in ((URL, {"prompt": "x"}), ("/v1/chat/completions", chat), ("/generate", {"text": "x"})):
            assert (await client.post(url, json=body)).status_code == 200
        asked = [request.params.max_tokens for request in engine.submitted]
        rooms = [CONTEXT - len(request.prompt_ids) for request in engine.submitted]
        assert asked == [room if limit is None else limit for limit, room in zip(limits, rooms, strict=True)]
    assert (await client.post(URL, json={"prompt": "x", "min_tokens": 5})).status_code == 200
    assert engine.submitted[-1].params.max_tokens == 5
    assert (await make_client().post(URL, json={"prompt": "x", "max_tokens": 9})).status_code == 200
    assert engine.submitted[-1].params.max_tokens == 9
