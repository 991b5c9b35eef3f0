"""What a connection may send, and how long it may take: each limit is reached over a socket."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from server.conftest import ClientMaker
from server.running import Running, running
from server.scripted_engine import ScriptedEngine
from zif.frontend import Frontend

GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"


async def connect(server: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    where = urlsplit(server.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # so that little is under way unread
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (where.hostname, where.port))
    return await asyncio.open_connection(sock=client, limit=8192)


async def say(server: Running, *parts: bytes, pause: float = 0.0) -> tuple[int, dict[str, Any]]:
    """Send ``parts``, one after the other; the status and the error of the answer that closes the connection.

    No status where the connection was reset: the answer is lost on a client that still sends when it is closed.
    """
    reader, writer = await connect(server)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    except ConnectionError:
        return 0, {}
    finally:
        writer.close()
    assert b"content-type: application/json" in head
    return int(head.split()[1]), json.loads(body)["error"]


async def test_headers_are_bounded_in_bytes_and_number(frontend: Frontend) -> None:
    async with running(frontend) as server:
        for head in (
            GET + b"a: " + b"x" * 70_000 + b"\r\n\r\n",
            GET + b"a: 1\r\n" * 200,
            GET.replace(b"health", b"health?" + b"x" * 70_000) + b"\r\n",
        ):
            status, error = await say(server, head)
            assert (status, error["code"]) == (431, "request_headers_too_large")
            assert error["type"] == "invalid_request_error"
        for endless in ([GET, *[b"b: 2\r\n"] * 150], [GET + b"a: ", *[b"x" * 20_000] * 20]):
            assert (await say(server, *endless, pause=0.001))[0] in (0, 431)
        reader, writer = await connect(server)
        writer.write(GET + b"a: " + b"x" * 60_000 + b"\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        writer.close()


async def test_headers_that_never_end_hold_a_connection_for_as_long_as_a_head_may_take(frontend: Frontend) -> None:
    async with running(frontend, head_timeout=0.2) as server:
        for parts in ((), (b"\r\n",), (GET,), [GET, *[b"a: 1\r\n"] * 15]):
            async with asyncio.timeout(10):
                status, error = await say(server, *parts, pause=0.02)
            assert (status, error.get("code")) in ((408, "request_timeout"), (0, None))


async def test_a_kept_connection_waits_for_its_next_request(frontend: Frontend) -> None:
    async with running(frontend, head_timeout=0.1) as server:
        reader, writer = await connect(server)
        for _ in range(3):
            writer.write(GET + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"}")
            await asyncio.sleep(0.2)
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"POST /generate HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /generate HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /generate HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\na\x00b: c\r\n\r\n",
    ],
    ids=lambda head: repr(head[:24]),
)
async def test_what_is_no_http_is_answered_as_everything_else(frontend: Frontend, head: bytes) -> None:
    async with running(frontend) as server:
        status, error = await say(server, head)
        assert status == 400
        assert (error["type"], error["code"]) == ("invalid_request_error", "malformed_http")


async def test_connections_are_bounded(frontend: Frontend) -> None:
    async with running(frontend, max_connections=3, head_timeout=5) as server:
        kept = [await connect(server) for _ in range(3)]
        status, error = await say(server, b"")
        assert (status, error["code"]) == (503, "too_many_connections")
        kept.pop()[1].close()
        async with httpx.AsyncClient(base_url=server.url) as client, asyncio.timeout(20):
            while (await client.get("/health")).status_code != 200:
                await asyncio.sleep(0.01)
        for _, writer in kept:
            writer.close()


async def test_a_reader_that_stops_is_hung_up_on_and_its_request_aborted(
    frontend: Frontend, engine: ScriptedEngine
) -> None:
    engine.chunk = 256
    engine.script = lambda request: [5] * 10_000_000
    frontend.model = type(frontend.model)(
        names=("tiny",), context_length=20_000_000, vocab_size=frontend.model.vocab_size, eos_token_ids=()
    )
    body = orjson.dumps({"prompt": "x", "stream": True, "max_tokens": 9_000_000})
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with running(frontend, write_timeout=0.3) as server:
        reader, writer = await connect(server)
        writer.write(head + body)
        assert b"200" in await reader.readline()
        async with asyncio.timeout(20):
            while not engine.aborted:
                await asyncio.sleep(0.02)
        writer.close()


async def test_a_slow_reader_gets_all_of_its_answer(frontend: Frontend) -> None:
    async with running(frontend, write_timeout=0.1) as server:
        reader, writer = await connect(server)
        prompt = [5] * 500
        body = orjson.dumps({"prompt": [prompt] * 100, "echo": True, "max_tokens": 0, "logprobs": 0})
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)
        length = 0
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
            wanted = int(head.lower().partition(b"content-length: ")[2].split()[0])
            assert wanted > 1_000_000
            while length < wanted:
                length += len(await reader.read(8192))
                await asyncio.sleep(0.001)
        writer.close()


async def test_a_place_is_held_from_the_headers_on(make_client: ClientMaker) -> None:
    client = make_client(max_concurrent_requests=2)
    go = asyncio.Event()

    async def slow() -> Any:
        yield b'{"prompt": "x", '
        await go.wait()
        yield b'"max_tokens": 1}'

    held = [asyncio.create_task(client.post("/v1/completions", content=slow())) for _ in range(2)]
    async with asyncio.timeout(20):
        while (await client.get("/server_info")).json()["open_requests"] < 2:
            await asyncio.sleep(0.001)
    assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 429
    assert (await client.get("/health")).status_code == 200
    go.set()
    assert [response.status_code for response in await asyncio.gather(*held)] == [200, 200]


async def test_bodies_are_bounded_together(make_client: ClientMaker) -> None:
    client = make_client(max_body_bytes=1000, max_total_body_bytes=1500)
    read, go = asyncio.Event(), asyncio.Event()

    async def slow() -> Any:
        yield b'{"prompt": "' + b"x" * 900
        read.set()
        await go.wait()
        yield b'", "max_tokens": 1}'

    held = asyncio.create_task(client.post("/v1/completions", content=slow()))
    await read.wait()
    response = await client.post("/tokenize", json={"prompt": "x" * 900})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (await client.post("/tokenize", json={"prompt": "x" * 100})).status_code == 200
    go.set()
    assert (await held).status_code == 400  # longer than the context, but read
    assert (await client.post("/tokenize", json={"prompt": "x" * 900})).status_code == 200


async def test_a_panic_is_a_500_in_the_usual_shape(make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As PyO3 names it."""

    def panic(*_: object, **__: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("zif.server.service.Service.model_name", panic)
    response = await make_client().post("/v1/completions", json={"prompt": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
