"""uvicorn on loopback: real clients, real disconnects, a real shutdown."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterable

import httpx
import openai
import pytest

from server.running import running
from server.scripted_engine import ScriptedEngine
from zif.contract.errors import InvalidSettings
from zif.frontend import Frontend
from zif.server import ServerOptions, serve
from zif.tokenizer import Tokenizer

HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


async def quiet(engine: ScriptedEngine) -> None:
    """Wait until nothing runs; the tests' own time limit is what ends the wait for ever."""
    while engine.running:
        await asyncio.sleep(0.01)


async def collect(stream: AsyncIterable[object]) -> list[object]:
    return [item async for item in stream]


async def test_the_openai_client(frontend: Frontend, engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    engine.script = lambda request: tokenizer.encode("naïve 🙂 café<|end|>")
    async with running(frontend, api_keys=("key",)) as server:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key") as client:
            assert [model.id async for model in client.models.list()] == ["tiny", "org/tiny"]

            chat = await client.chat.completions.create(
                model="tiny", messages=HELLO, n=2, stop=["caf"], logprobs=True, top_logprobs=1
            )
            assert [choice.message.content for choice in chat.choices] == ["naïve 🙂 "] * 2
            logprobs = chat.choices[0].logprobs
            assert logprobs is not None
            assert logprobs.content is not None
            assert bytes(logprobs.content[0].bytes or []).decode() == logprobs.content[0].token
            assert chat.usage is not None
            assert chat.usage.prompt_tokens_details is not None

            text, usage = "", None
            async for chunk in await client.chat.completions.create(
                model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
            ):
                usage = chunk.usage
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
            assert text == "naïve 🙂 café"
            assert usage is not None

            completion = await client.completions.create(model="tiny", prompt=[5, 6], echo=True, logprobs=2)
            assert completion.choices[0].logprobs is not None
            assert completion.choices[0].finish_reason == "stop"

            with pytest.raises(openai.BadRequestError, match="temperature must be in"):
                await client.chat.completions.create(model="tiny", messages=HELLO, temperature=-1)
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await client.chat.completions.create(model="gpt-4", messages=HELLO)
            engine.die("killed by signal 9")
            with pytest.raises(openai.InternalServerError, match="killed by signal 9"):
                await client.with_options(max_retries=0).chat.completions.create(model="tiny", messages=HELLO)
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="wrong") as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()


async def test_an_error_in_a_stream_reaches_the_openai_client(frontend: Frontend, engine: ScriptedEngine) -> None:
    engine.delay = 0.005
    async with running(frontend) as server, openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-") as client:
        stream = await client.completions.create(model="tiny", prompt="hello", max_tokens=200, stream=True)
        await anext(aiter(stream))
        engine.die("out of memory")
        with pytest.raises(openai.APIError, match="out of memory"):
            await collect(stream)


async def test_many_streams_with_clients_that_leave(frontend: Frontend, engine: ScriptedEngine) -> None:
    engine.delay = 0.001
    dice = random.Random(0)
    limits = httpx.Limits(max_connections=200)
    async with running(frontend) as server, httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:

        async def request(patience: int | None, stream: bool) -> str:
            body = {"prompt": "hello there", "max_tokens": 40, "stream": stream, "n": dice.choice([1, 1, 2])}
            if not stream and patience is not None:
                try:
                    async with asyncio.timeout(0.05):
                        await client.post("/v1/completions", json=body)
                except TimeoutError:
                    return "left"
                return "done"
            seen = 0
            async with client.stream("POST", "/v1/completions", json=body) as response:
                assert response.status_code == 200
                async for line in response.aiter_lines():
                    seen += line.startswith("data: {")
                    if patience is not None and seen > patience:
                        return "left"
            return "done"

        plans = [(dice.choice([None, 0, 5, 20]), dice.random() < 0.8) for _ in range(200)]
        outcomes = await asyncio.gather(*(request(*plan) for plan in plans))
        assert set(outcomes) == {"left", "done"}
        await quiet(engine)
        assert engine.aborted
        assert frontend.live == 0
        info = (await client.get("/server_info")).json()
        assert (info["open_requests"], info["num_running"]) == (0, 0)
        assert 'status="499"' in (await client.get("/metrics")).text


async def test_a_client_that_leaves_while_it_sends_is_forgotten(frontend: Frontend) -> None:
    async with running(frontend) as server:
        host, port = server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/health")).status_code == 200


async def test_garbage_on_the_socket_is_a_400(frontend: Frontend) -> None:
    async with running(frontend) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01 no http at all\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_shutdown_lets_requests_end_and_takes_no_new_ones(frontend: Frontend, engine: ScriptedEngine) -> None:
    engine.delay = 0.01
    async with running(frontend) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert engine.started
        request = asyncio.create_task(client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 20}))
        while not engine.running:
            await asyncio.sleep(0.001)
        server.stop.set()
        assert (await request).json()["usage"]["completion_tokens"] == 20
        await server.ended
        assert engine.stopped
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")


async def test_shutdown_aborts_what_does_not_end_in_time(frontend: Frontend, engine: ScriptedEngine) -> None:
    engine.delay = 0.01
    async with running(frontend, drain_seconds=0.1) as server, httpx.AsyncClient(base_url=server.url) as client:
        body = {"prompt": "hello", "max_tokens": 500, "ignore_eos": True, "stream": True}
        request = asyncio.create_task(client.post("/v1/completions", json=body))
        while not engine.running:
            await asyncio.sleep(0.001)
        server.stop.set()
        answer = await request
        assert '"code":"shutting_down"' in answer.text.splitlines()[-2], "the last event"
        await server.ended


async def test_an_address_in_use_is_said_before_the_model_is_loaded(frontend: Frontend, engine: ScriptedEngine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSettings, match=f"127.0.0.1:{port}: Address already in use; choose another"):
            await serve(frontend, ServerOptions(port=port))
    with pytest.raises(InvalidSettings, match="set --host"):
        await serve(frontend, ServerOptions(host="no such host"))
    assert not engine.started
