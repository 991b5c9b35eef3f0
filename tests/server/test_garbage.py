"""Whatever a client sends, it is told what was wrong: no 5xx, no hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.conftest import ClientMaker
from server.scripted_engine import ScriptedEngine

PATHS = ["/v1/chat/completions", "/v1/completions", "/generate", "/tokenize", "/detokenize", "/abort_request"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, 2, -1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
roles = st.sampled_from(["user", "assistant", "x"])
messages = st.lists(st.fixed_dictionaries({}, optional={"role": roles | values, "content": values}), max_size=3)
NAMES = """model messages prompt text input_ids tokens stream stream_options n max_tokens max_completion_tokens
    min_tokens temperature top_p top_k min_p presence_penalty repetition_penalty logit_bias seed stop stop_token_ids
    ignore_eos logprobs top_logprobs echo best_of suffix response_format tools tool_choice chat_template_kwargs
    sampling_params return_logprob logprob_start_len top_logprobs_num rid abort_all continue_final_message""".split()
likely = st.fixed_dictionaries(
    {},
    optional={
        "messages": messages,
        "prompt": st.just("hello"),
        "text": st.just("hello"),
        "sampling_params": st.dictionaries(st.sampled_from(NAMES), values, max_size=4),
    },
)
anything = st.dictionaries(st.sampled_from(NAMES), values, max_size=6)
bodies = st.builds(lambda one, other: {**one, **other}, anything, likely)


def check(response: httpx.Response) -> None:
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        assert "\n" not in error["message"] or "chat template" in error["message"]
    elif response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        assert b"NaN" not in response.content
        orjson.loads(response.content)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), bodies)
@example("/v1/completions", {"prompt": "x", "logit_bias": {"-1": 0.0}})
@example("/v1/completions", {"prompt": "x", "max_tokens": 2**63})
@example("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text"}]}]})
async def test_any_json_is_answered(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    async with asyncio.timeout(10):
        check(await client.post(path, content=orjson.dumps(body)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"5",
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": NaN}',
        b'{"temperature": 1e999}',
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"prompt": "x", "max_tokens": ' + b"9" * 400 + b"}",
        "{'prompt': 'x'}".encode("utf-16"),
        b"prompt=x",
    ],
    ids=lambda content: repr(content[:24]),
)
async def test_what_is_no_json_is_a_400(client: httpx.AsyncClient, content: bytes) -> None:
    for path in PATHS:
        response = await client.post(path, content=content)
        assert response.status_code == 400
        assert response.json()["error"]["message"]


async def test_broken_json_says_where(client: httpx.AsyncClient) -> None:
    message = (await client.post("/v1/completions", content=b'{"prompt": }')).json()["error"]["message"]
    assert message.startswith("the body is not valid JSON")
    message = (await client.post("/v1/completions", content=b"")).json()["error"]["message"]
    assert message == "the request needs a JSON object as its body"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/merge-patch+json", 200),
        ("", 200),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain; charset=utf-8", 415),
        ("multipart/form-data; boundary=x", 415),
        ("nonsense", 415),
    ],
)
async def test_a_body_is_labelled_as_json_or_not_at_all(client: httpx.AsyncClient, kind: str, status: int) -> None:
    response = await client.post("/v1/completions", content=b'{"prompt": "x"}', headers={"content-type": kind})
    assert response.status_code == status
    if status == 415:
        assert response.json()["error"]["code"] == "unsupported_media_type"
        assert "Content-Type: application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/%ff%00", 404, "model_not_found"),
    ],
)
async def test_wrong_addresses(client: httpx.AsyncClient, method: str, path: str, status: int, code: str) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_bodies_have_a_limit_announced_or_not(make_client: ClientMaker) -> None:
    client = make_client(max_body_bytes=1000)

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    for content in (b"x" * 1001, unannounced()):
        response = await client.post("/v1/completions", content=content)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_body_that_never_comes_is_not_waited_for(make_client: ClientMaker) -> None:
    client = make_client(body_timeout=0.02)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    response = await client.post("/v1/completions", content=stuck())
    assert (response.status_code, response.json()["error"]["code"]) == (408, "request_timeout")


@pytest.fixture(autouse=True)
def nothing_stays_in_the_engine(engine: ScriptedEngine) -> Iterator[None]:
    yield
    assert not engine.running
