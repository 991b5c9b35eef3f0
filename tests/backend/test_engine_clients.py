"""Clients of an engine: what they deliver, and what they say when the engine fails, dies or is stopped."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.checkpoints import save
from zif.contract.errors import EngineDead, InvalidRequest, Overloaded, WeightsError
from zif.engine.wire import Failed, Reply
from zif.messages import EngineOutput, EngineRequest
from zif.process.build import build_engine
from zif.process.child import settled
from zif.process.client import Client, ProcessClient, ThreadClient
from zif.process.loop import PipePort
from zif.sampling.params import SamplingParams
from zif.settings import Settings

LONG = SamplingParams(temperature=0, max_tokens=90)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("llama")).path


def settings_of(path: Path, *options: str, **values: object) -> Settings:
    """The null device: these tests are about lines and processes, not about tokens."""
    values = {"max_total_tokens": 1024, **values}
    return Settings(model=str(path), device="null", device_opt=options, load_format="dummy", **values)


def thread_client(path: Path, *options: str, **values: object) -> ThreadClient:
    return ThreadClient(lambda _: build_engine(settings_of(path, *options, **values), progress=False))


@pytest.fixture(params=["thread", "process"])
async def client(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[Client]:
    made: Client = (
        thread_client(path, "null.step_ms=5")
        if request.param == "thread"
        else ProcessClient(settings_of(path, "null.step_ms=5"))
    )
    await made.start()
    yield made
    await made.shutdown(0)
    await made.shutdown(0)


async def collect(client: Client, request: EngineRequest) -> list[EngineOutput]:
    return [output async for output in client.submit(request)]


async def test_requests_get_their_own_tokens_in_order(client: Client) -> None:
    params = [SamplingParams(temperature=0, max_tokens=n, logprobs=1 if n == 3 else None) for n in (1, 3, 7)]
    requests = [EngineRequest(str(i), [1, 2, 3], own) for i, own in enumerate(params)]
    answers = await asyncio.gather(*(collect(client, request) for request in requests))
    assert [sum(len(output.token_ids) for output in answer) for answer in answers] == [1, 3, 7]
    assert [answer[-1].finish_reason for answer in answers] == ["length"] * 3
    assert all(output.finish_reason is None for answer in answers for output in answer[:-1])
    assert [len(output.logprobs or []) for output in answers[1]] == [1, 1, 1]
    stats = await client.stats()
    assert stats["requests_total"] == 3
    assert stats["pages_free"] == stats["pages_total"]  # three tokens fill no page that could be kept


async def test_abort_ends_a_request_and_frees_its_pages(client: Client) -> None:
    outputs = client.submit(EngineRequest("a", [1, 2, 3], LONG))
    await anext(outputs)
    assert not await client.flush_cache()
    await client.abort(["a", "nobody"])
    assert [output.finish_reason async for output in outputs][-1] == "abort"
    while (await client.stats())["num_running"]:
        await asyncio.sleep(0.01)
    assert await client.flush_cache()
    stats = await client.stats()
    assert stats["pages_free"] == stats["pages_total"]


async def test_refusals_reach_the_caller(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="128"):
        await collect(client, EngineRequest("a", [1] * 200, LONG))


async def test_overload_is_told_from_a_wrong_request(path: Path) -> None:
    client = thread_client(path, "null.step_ms=20", max_queued_requests=1, max_running_requests=1)
    await client.start()
    outcomes = await asyncio.gather(
        *(collect(client, EngineRequest(str(i), [1], SamplingParams(max_tokens=3))) for i in range(5)),
        return_exceptions=True,
    )
    await client.shutdown(0)
    assert {type(outcome) for outcome in outcomes} == {list, Overloaded}


async def test_a_device_that_breaks_ends_requests_with_the_reason(path: Path) -> None:
    client = thread_client(path, "null.fail_at=4")
    await client.start()
    with pytest.raises(EngineDead, match="null"):
        await collect(client, EngineRequest("a", [1, 2, 3], LONG))
    assert client.failure is not None
    with pytest.raises(EngineDead):
        await collect(client, EngineRequest("b", [1], LONG))
    with pytest.raises(EngineDead):
        await client.stats()
    await client.shutdown(0)


def made(kind: str, path: Path, *options: str, **values: object) -> Client:
    if kind == "thread":
        return thread_client(path, *options, **values)
    return ProcessClient(settings_of(path, *options, **values))


async def ended(client: Client) -> None:
    """Wait until the engine's thread or process is gone."""
    begin = time.monotonic()
    while client._alive():
        assert time.monotonic() - begin < 5
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("where", ["run", "wait"])
async def test_a_device_error_in_a_step_ends_open_streams_and_the_engine(path: Path, kind: str, where: str) -> None:
    client = made(kind, path, "null.fail_at=9", f"null.fail_in={where}")
    await client.start()
    streams = [client.submit(EngineRequest(str(i), [1, 2, 3], LONG)) for i in range(3)]
    assert (await anext(streams[0])).token_ids
    for stream in streams:
        with pytest.raises(EngineDead, match=r"RuntimeError: null device: run 9 failed, as null\.fail_at asked$"):
            async for _ in stream:
                pass
    assert "run 9 failed" in str(client.failure)
    await ended(client)
    await client.shutdown(0)


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_a_device_that_never_ends_a_step_is_found_by_the_watchdog(path: Path, kind: str) -> None:
    client = made(kind, path, "null.hang_at=9", watchdog_timeout=0.4)
    await client.start()
    await asyncio.sleep(0.8)  # idle is not hung
    stream = client.submit(EngineRequest("a", [1, 2, 3], LONG))
    assert (await anext(stream)).token_ids
    await asyncio.sleep(0.1)  # it hangs by now
    asked = asyncio.create_task(client.stats())
    begin = time.monotonic()
    with pytest.raises(EngineDead, match=r"no step has ended for 0\.4 s"):
        async for _ in stream:
            pass
    assert time.monotonic() - begin < 3
    with pytest.raises(EngineDead, match="no step has ended"):
        await asked
    with pytest.raises(EngineDead, match="no step has ended"):
        await collect(client, EngineRequest("b", [1], LONG))
    if kind == "process":
        await ended(client)
    await client.shutdown(0)


async def test_steps_without_news_are_no_hang(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zif.process.loop.BEAT_SECONDS", 0.1)
    client = thread_client(path, "null.step_ms=150", watchdog_timeout=0.4, chunked_prefill_size=8)
    await client.start()
    begin = time.monotonic()
    answer = await collect(client, EngineRequest("a", [1] * 60, SamplingParams(max_tokens=1)))
    assert answer[-1].finish_reason == "length"
    assert time.monotonic() - begin > 0.8  # eight steps, of which the last alone has a token
    await client.shutdown(0)


async def test_a_reader_that_is_slow_is_no_hang(path: Path) -> None:
    client = thread_client(path, watchdog_timeout=0.3)
    await client.start()
    stream = client.submit(EngineRequest("a", [1, 2, 3], SamplingParams(max_tokens=8)))
    assert (await anext(stream)).token_ids
    await asyncio.sleep(1.0)  # all has been said long ago
    assert client.failure is None
    assert [output.finish_reason async for output in stream][-1] == "length"
    await client.shutdown(0)


def test_only_a_device_of_its_own_is_watched_unasked(path: Path) -> None:
    def limit(**values: object) -> object:
        return build_engine(settings_of(path, **values), progress=False).stats()["watchdog_timeout"]

    assert limit() == 300
    assert limit(watchdog_timeout=7) == 7
    assert limit(watchdog_timeout=0) == 0
    host = Settings(model=str(path), device="cpu", device_opt=("cpu.native=off",), max_total_tokens=64)
    assert build_engine(host, progress=False).stats()["watchdog_timeout"] == 900


async def test_a_killed_engine_is_reported_at_once(path: Path) -> None:
    client = ProcessClient(settings_of(path, "null.step_ms=5"))
    await client.start()
    outputs = client.submit(EngineRequest("a", [1, 2, 3], LONG))
    await anext(outputs)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(EngineDead, match="signal 9"):
        async for _ in outputs:
            pass
    assert time.monotonic() - killed < 2  # the promise that README makes
    assert "signal 9" in str(client.failure)
    await client.shutdown(0)


def test_an_engine_process_never_walks_what_it_was_built_of(path: Path) -> None:
    gc.collect()
    engine = settled(settings_of(path), threading.Event(), lambda _: None)
    try:
        frozen = gc.get_freeze_count()
        assert frozen > 10_000
        assert len(gc.get_objects()) < frozen / 10
        engine.add(EngineRequest("a", [1, 2, 3], SamplingParams(max_tokens=2)))
        assert [token for _ in range(4) for output in engine.step() for token in output.token_ids] == [7, 7]
    finally:
        engine.close()
        gc.unfreeze()


async def test_a_start_that_fails_raises_what_failed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    for client in (
        ProcessClient(Settings(model=str(tmp_path), device="null")),
        ThreadClient(lambda _: build_engine(Settings(model=str(tmp_path), device="null"), progress=False)),
    ):
        with pytest.raises(WeightsError, match=r"config\.json"):
            await client.start()
        assert client.failure is not None
        await client.shutdown(0)


async def test_shutdown_drains_then_aborts(path: Path) -> None:
    client = thread_client(path, "null.step_ms=5")
    await client.start()
    short = asyncio.create_task(collect(client, EngineRequest("a", [1], SamplingParams(max_tokens=4))))
    await asyncio.sleep(0)
    await client.shutdown(drain_seconds=10)
    assert (await short)[-1].finish_reason == "length"
    with pytest.raises(EngineDead, match="shut"):
        await collect(client, EngineRequest("b", [1], LONG))


async def test_shutdown_is_safe_without_a_start(path: Path) -> None:
    await thread_client(path).shutdown(0)
    process = ProcessClient(settings_of(path))
    await process.shutdown(0)
    starting = asyncio.create_task(process.start())
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await process.shutdown(0)


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Codes that the process would have ended with."""
    codes: list[int] = []
    monkeypatch.setattr("zif.process.loop.os._exit", codes.append)
    return codes


def test_the_last_words_of_an_abandoned_engine_come_behind_what_it_is_saying(exits: list[int]) -> None:
    ours, theirs = multiprocessing.Pipe()
    port, long = PipePort(theirs), Reply(1, b"x" * (8 << 20))  # more than a pipe holds: written piece by piece
    speaks = threading.Thread(target=port.send, args=(long,))
    speaks.start()
    assert ours.poll(10)
    ends = threading.Thread(target=port.abandon, args=("a rank is gone",))
    ends.start()
    assert ours.recv() == long
    assert ours.recv() == Failed("EngineDead", "a rank is gone")
    for thread in (speaks, ends):
        thread.join(10)
    assert exits == [1]


def test_an_abandoned_engine_ends_although_nobody_listens(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zif.process.loop.ABANDON_SECONDS", 0.2)
    ours, theirs = multiprocessing.Pipe()
    port = PipePort(theirs)
    speaks = threading.Thread(target=port.send, args=(Reply(1, b"x" * (8 << 20)),), daemon=True)
    speaks.start()
    assert ours.poll(10)
    port.abandon("a rank is gone")
    assert exits == [1]
    ours.recv()
    speaks.join(10)
