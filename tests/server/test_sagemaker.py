"""What Amazon SageMaker asks of a container."""

from __future__ import annotations

import httpx

from server.conftest import ClientMaker
from server.scripted_engine import ScriptedEngine
from server.sse import events

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


async def test_ping_says_whether_requests_can_be_served(make_client: ClientMaker, engine: ScriptedEngine) -> None:
    client = make_client(api_keys=("secret",))
    assert ((await client.get("/ping")).status_code, (await client.get("/ping")).content) == (200, b"")
    engine.die("killed")
    response = await client.get("/ping")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_dead")


async def test_invocations_answer_chats_and_completions(client: httpx.AsyncClient) -> None:
    assert (await client.post("/invocations", json=CHAT)).json()["object"] == "chat.completion"
    assert (await client.post("/invocations", json={"prompt": "x"})).json()["object"] == "text_completion"
    assert events(await client.post("/invocations", json={**CHAT, "stream": True}))[-1] == "[DONE]"


async def test_what_is_wrong_is_explained_as_elsewhere(client: httpx.AsyncClient) -> None:
    for body, param in (({}, "messages"), ({**CHAT, "n": 0}, "n"), ({"prompt": 5}, "prompt"), ([], None)):
        response = await client.post("/invocations", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    response = await client.post("/invocations", json={**CHAT, "guided_json": {"type": "object"}})
    assert response.json()["error"]["param"] == "guided_json"


async def test_invocations_hold_places_and_want_keys(make_client: ClientMaker, engine: ScriptedEngine) -> None:
    full = make_client(max_concurrent_requests=0)
    assert (await full.post("/invocations", json=CHAT)).status_code == 429
    assert (await make_client(api_keys=("secret",)).post("/invocations", json=CHAT)).status_code == 401
    assert not engine.submitted
