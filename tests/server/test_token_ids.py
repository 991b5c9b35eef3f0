"""``return_token_ids`` and ``prompt_logprobs``, in vLLM's shapes."""

from __future__ import annotations

import httpx
import pytest

from server.scripted_engine import ScriptedEngine
from server.sse import events

CHAT = "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
TEXT = "/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 3}


@pytest.mark.parametrize("endpoint", [CHAT, TEXT], ids=["chat", "completions"])
async def test_token_ids_are_those_of_the_engine(
    client: httpx.AsyncClient, engine: ScriptedEngine, endpoint: tuple[str, dict[str, object]]
) -> None:
    path, body = endpoint
    answer = (await client.post(path, json={**body, "return_token_ids": True, "n": 2})).json()
    prompt = engine.submitted[-1].prompt_ids
    for choice in answer["choices"]:
        assert choice["token_ids"] == (prompt * 3)[:3]
        assert answer.get("prompt_token_ids", choice.get("prompt_token_ids")) == prompt
    chunks = events(await client.post(path, json={**body, "return_token_ids": True, "stream": True}))[:-1]
    ids = [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])]
    assert ids == (prompt * 3)[:3]
    said = [chunk.get("prompt_token_ids", chunk["choices"][0].get("prompt_token_ids")) for chunk in chunks]
    assert [one for one in said if one is not None] == [prompt]
    plain = (await client.post(path, json=body)).json()
    assert "token_ids" not in plain["choices"][0]


@pytest.mark.parametrize("endpoint", [CHAT, TEXT], ids=["chat", "completions"])
async def test_prompt_logprobs_are_by_token_id(
    client: httpx.AsyncClient, engine: ScriptedEngine, endpoint: tuple[str, dict[str, object]]
) -> None:
    path, body = endpoint
    answer = (await client.post(path, json={**body, "prompt_logprobs": 1})).json()
    prompt = engine.submitted[-1].prompt_ids
    scores = answer.get("prompt_logprobs", answer["choices"][0].get("prompt_logprobs"))
    assert scores[0] is None
    for token, score in zip(prompt[1:], scores[1:], strict=True):
        assert score[str(token)].keys() == {"logprob", "rank", "decoded_token"}
    response = await client.post(path, json={**body, "prompt_logprobs": 1, "stream": True})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt_logprobs")
    assert (await client.post(path, json={**body, "prompt_logprobs": 0})).status_code == 200
