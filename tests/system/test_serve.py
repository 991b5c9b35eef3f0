"""What README promises of ``zif serve``, asked of the command itself by the clients that people use."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from system.conftest import Served, serve

MODEL = "zif-pocket"
TWO_RANKS = ("--device", "cpu", "--tp-size", "2", "--max-total-tokens", "8192")
LARGE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 64, "num_attention_heads": 16, "max_position_embeddings": 4096, "dtype": "bfloat16",
}  # fmt: skip
"""Of which dummy weights take a while to make."""
TURN: Any = [{"role": "user", "content": "What is 3 + 4?"}]


def client_of(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def idle(served: Served) -> dict[str, int]:
    """Wait until the engine runs nothing; its stats then."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stats = served.stats()
        if not stats["num_running"] and not stats["num_waiting"]:
            return stats
        time.sleep(0.05)
    raise AssertionError(f"the engine is still busy: {stats}")


def test_it_talks(served: Served) -> None:
    with client_of(served) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        answer = client.chat.completions.create(
            model=MODEL, messages=TURN, temperature=0, logprobs=True, top_logprobs=2
        )
        choice = answer.choices[0]
        assert "7" in (choice.message.content or "")
        assert choice.finish_reason == "stop"
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in choice.logprobs.content)

        stream = client.chat.completions.create(
            model=MODEL, messages=TURN, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == choice.message.content
        assert chunks[-1].usage is not None
        assert answer.usage is not None
        assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


def test_the_second_time_its_prefix_is_cached(served: Served) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 12
    with client_of(served) as client:
        cold, warm = (
            client.completions.create(model=MODEL, prompt=text, max_tokens=8, temperature=0) for _ in range(2)
        )
    assert cold.choices[0].text == warm.choices[0].text
    assert warm.usage is not None
    assert warm.usage.prompt_tokens_details is not None
    assert (warm.usage.prompt_tokens_details.cached_tokens or 0) > warm.usage.prompt_tokens // 2


def test_echo_scores_a_prompt_as_lm_eval_asks(served: Served) -> None:
    ids = (
        served.get("/health")
        and httpx.post(f"{served.url}/tokenize", json={"prompt": "Two and two make four."}).json()["tokens"]
    )
    body = {"model": MODEL, "prompt": ids, "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234, "temperature": 0}
    answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=30).json()["choices"][0]
    scores = answer["logprobs"]["token_logprobs"]
    assert len(scores) == len(ids) + 1
    assert scores[0] is None
    assert all(score <= 0 for score in scores[1:])


async def test_two_hundred_streams_and_clients_that_leave(served: Served) -> None:
    idle(served)
    dice = random.Random(5)
    limits = httpx.Limits(max_connections=200)

    async def request(client: httpx.AsyncClient, number: int) -> str:
        patience = dice.choice([None, None, 0, 1, 4, 9])
        body = {
            "model": MODEL,
            "prompt": f"Story {number % 20}. Once upon a time there was a small " + "very " * dice.randrange(40),
            "max_tokens": dice.randrange(1, 24),
            "temperature": dice.choice([0, 1.0]),
            "stream": True,
            "ignore_eos": True,
            "frequency_penalty": dice.choice([0, 0, 0.5]),
            "logprobs": dice.choice([None, None, 2]),
        }
        seen = 0
        async with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                seen += line.startswith("data: {")
                if patience is not None and seen > patience:
                    return "left"
                if line == "data: [DONE]":
                    return "done"
        return "cut"

    async with httpx.AsyncClient(base_url=served.url, limits=limits, timeout=100) as client:
        outcomes = await asyncio.gather(*(request(client, number) for number in range(200)))
    assert set(outcomes) == {"left", "done"}
    idle(served)
    assert httpx.post(f"{served.url}/flush_cache", timeout=30).status_code == 200
    stats = idle(served)
    assert stats["pages_free"] == stats["pages_total"]


GARBAGE: list[tuple[str, bytes | dict[str, Any]]] = [
    ("/v1/chat/completions", b"{not json"),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    ("/v1/chat/completions", b""),
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/chat/completions", {"messages": "hello"}),
    ("/v1/chat/completions", {"messages": TURN, "model": "nobody"}),
    ("/v1/chat/completions", {"messages": TURN, "temperature": "hot"}),
    ("/v1/chat/completions", {"messages": TURN, "max_tokens": -1}),
    ("/v1/completions", {"prompt": ""}),
    ("/v1/completions", {"prompt": []}),
    ("/v1/completions", {"prompt": [2**40]}),
    ("/v1/completions", {"prompt": [-1]}),
    ("/v1/completions", {"prompt": "word " * 9000}),
    ("/v1/completions", {"prompt": "a", "n": 10**9}),
    ("/v1/completions", {"prompt": "a", "logit_bias": {"99999999": 1}}),
    ("/v1/completions", {"prompt": "a", "top_p": float("1e308"), "stop": [1]}),
    ("/generate", {"text": 5}),
    ("/tokenize", {"tokens": 1}),
    ("/detokenize", {"tokens": [10**12]}),
]


@pytest.mark.parametrize(("path", "body"), GARBAGE, ids=lambda value: str(value)[:50])
def test_garbage_is_explained(served: Served, path: str, body: bytes | dict[str, Any]) -> None:
    data: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = httpx.post(served.url + path, timeout=30, **data)
    assert 400 <= answer.status_code < 500
    assert len(answer.json()["error"]["message"]) > 10


def test_a_browser_and_the_log_say_what_happens(served: Served) -> None:
    answer = served.get("/")
    assert answer.status_code == 200
    assert "OpenAI's API" in answer.text
    served.get("/health")
    served.get("/v1/nothing")
    said = served.log.read_text()
    assert re.search(r'"GET /v1/nothing HTTP/1.1" 404', said)
    assert "GET /health " not in said
    assert re.search(r"KV cache .*--max-total-tokens", said)


def test_absurd_max_tokens_is_cut_to_the_context(served: Served) -> None:
    with client_of(served) as client:
        answer = client.chat.completions.create(model=MODEL, messages=TURN, temperature=0, max_tokens=10**15)
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_port_in_use_is_one_readable_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(AssertionError, match=r"error: cannot listen on 127\.0\.0\.1"),
            serve(tmp_path / "log", "--port", str(taken.getsockname()[1])),
        ):
            pass
    assert "Traceback" not in (tmp_path / "log").read_text()


def start(log: Path, *flags: str) -> subprocess.Popen[bytes]:
    """``zif serve FLAGS``, not waited for."""
    command = [sys.executable, "-m", "zif", "serve", *flags]
    with log.open("wb") as output:
        return subprocess.Popen(command, stderr=output, stdout=output, start_new_session=True)


def test_of_two_servers_on_one_port_one_says_so_before_it_loads(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    logs = [tmp_path / "first", tmp_path / "second"]
    both = [start(log, "--device", "null", "--port", port) for log in logs]
    try:
        deadline = time.monotonic() + 30
        while all(server.poll() is None for server in both):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (loser,) = [i for i in range(2) if both[i].poll() is not None]
        assert both[loser].returncode == 2
        said = logs[loser].read_text()
        assert re.fullmatch(rf"error: cannot listen on 127\.0\.0\.1:{port}: .*--port\n", said)  # and no word of a model
        while "zif serves" not in logs[1 - loser].read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for server in both:
            server.terminate()
            server.wait(20)


def engine_of(server: subprocess.Popen[bytes]) -> int | None:
    """The engine's process, once it has been started."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    spawned = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(spawned[0]) if spawned else None


@pytest.mark.parametrize(
    "seconds", [0.0, pytest.param(0.3, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow), 2.0]
)
def test_an_engine_ends_with_its_server_at_any_phase(tmp_path: Path, seconds: float) -> None:
    """Killed while it starts, imports, loads or compiles: the engine would hold its device for nobody."""
    flags = ("--device", "null", "--device-opt", "null.memory_mb=65536", "--load-format", "dummy")
    (tmp_path / "config.json").write_text(json.dumps(LARGE))
    server = start(tmp_path / "log", str(tmp_path), *flags, "--port", "0")
    try:
        deadline = time.monotonic() + 30
        while (engine := engine_of(server)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(seconds)
        assert Path(f"/proc/{engine}").exists()
    finally:
        server.kill()
        server.wait()
    killed = time.monotonic()
    wait_gone([engine])
    assert time.monotonic() - killed < 6  # 1 s; an engine that loads would go on for 9


def test_a_stopped_engine_is_noticed_on_cpu(tmp_path: Path) -> None:
    with serve(tmp_path / "log", "--device", "cpu", "--watchdog-timeout", "1") as served:
        engine = served.engine_pid
        os.kill(engine, signal.SIGSTOP)
        body = {"prompt": "hello", "max_tokens": 5}
        answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=30)
        assert answer.status_code == 503
        assert "no step has ended for 1 s" in answer.text
        wait_gone([engine])
        served.process.terminate()
        assert served.process.wait(20) == 1


def test_sigterm_ends_unread_streams_with_an_error_event(tmp_path: Path) -> None:
    flags = ("--device", "null", "--device-opt", "null.step_ms=20", "--drain-timeout", "1")
    with serve(tmp_path / "log", *flags) as served, ExitStack() as stack:
        body = {"prompt": "hello", "max_tokens": 1500, "stream": True, "ignore_eos": True}
        url = f"{served.url}/v1/completions"
        streams = [stack.enter_context(httpx.stream("POST", url, json=body, timeout=30)) for _ in range(8)]
        served.process.terminate()
        assert served.process.wait(20) == 0
        for stream in streams:
            events = [line for line in stream.iter_lines() if line]
            assert len(events) > 10
            assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"


def test_a_killed_engine_is_reported_and_the_server_stops_well(tmp_path: Path) -> None:
    with serve(tmp_path / "log", "--device", "null") as served:
        body = {"prompt": "hello", "max_tokens": 5}
        assert httpx.post(f"{served.url}/v1/completions", json=body, timeout=30).status_code == 200
        os.kill(served.engine_pid, signal.SIGKILL)
        killed = time.monotonic()
        while (health := served.get("/health")).status_code == 200:
            assert time.monotonic() - killed < 10  # 2 s; by itself it would never be
        assert health.status_code == 503
        assert "signal 9" in health.json()["error"]["message"]
        assert httpx.post(f"{served.url}/v1/completions", json=body, timeout=30).status_code == 503
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(20) == 1
        assert "error: the engine died: " in served.log.read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("null.fail_at=30",), "run 30 failed"),
        (("null.fail_at=30", "null.fail_in=run"), "run 30 failed"),
        (("null.hang_at=30",), "no step has ended for 1 s"),
    ],
    ids=["fails in a fetch", "fails in a run", "hangs"],
)
def test_a_device_error_reaches_open_streams_and_the_health_check(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    flags = [word for option in options for word in ("--device-opt", option)]
    with serve(tmp_path / "log", "--device", "null", "--watchdog-timeout", "1", *flags) as served:
        body = {"prompt": "hello", "max_tokens": 200, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=30) as response:
            assert response.status_code == 200
            events = [line for line in response.iter_lines() if line]
        assert len(events) > 5  # tokens came, then the reason, and no [DONE]
        assert "data: [DONE]" not in events
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert error["code"] == "engine_dead"
        assert reason in error["message"]
        health = served.get("/health")
        assert health.status_code == 503
        assert reason in health.json()["error"]["message"]
        answer = httpx.post(f"{served.url}/v1/completions", json=body | {"stream": False}, timeout=30)
        assert answer.status_code == 503
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(20) == 1
        assert "error: the engine died: " in served.log.read_text()


def test_sigterm_to_the_whole_group_lets_a_stream_end(tmp_path: Path) -> None:
    flags = ("--device", "null", "--device-opt", "null.step_ms=20")
    with serve(tmp_path / "log", *flags) as served:
        body = {"prompt": "hello", "max_tokens": 40, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            os.killpg(served.process.pid, signal.SIGTERM)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert served.process.wait(20) == 0


def rank_pids(served: Served) -> list[int]:
    """The processes of the ranks that the engine's process leads."""
    tasks = Path(f"/proc/{served.engine_pid}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in pids if b"zif.parallel" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"{pids} still run"
        time.sleep(0.05)


def test_two_ranks_answer_as_one_and_end_with_the_server(served: Served, tmp_path: Path) -> None:
    with client_of(served) as client:
        alone = client.chat.completions.create(model=MODEL, messages=TURN, temperature=0, seed=3)
    with serve(tmp_path / "log", *TWO_RANKS) as both:
        pids = [both.engine_pid, *rank_pids(both)]
        assert len(pids) == 2
        with client_of(both) as client:
            answer = client.chat.completions.create(model=MODEL, messages=TURN, temperature=0, seed=3)
        assert answer.choices[0].message.content == alone.choices[0].message.content
        both.process.terminate()
        assert both.process.wait(30) == 0, both.log.read_text()
        wait_gone(pids)


@pytest.mark.slow
def test_ranks_end_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with serve(tmp_path / "log", *TWO_RANKS) as both:
        pids = [both.engine_pid, *rank_pids(both)]
        both.process.kill()
        wait_gone(pids)


def test_a_rank_that_is_killed_is_reported_and_the_server_stops_well(tmp_path: Path) -> None:
    with serve(tmp_path / "log", *TWO_RANKS) as both:
        engine, (rank,) = both.engine_pid, rank_pids(both)
        os.kill(rank, signal.SIGKILL)
        killed = time.monotonic()
        while both.get("/health").status_code == 200:  # nothing runs, so nothing else would notice
            assert time.monotonic() - killed < 10  # 2 s; by itself it would never be
        with client_of(both) as client, pytest.raises(openai.APIStatusError):
            client.chat.completions.create(model=MODEL, messages=TURN, max_tokens=500)
        health = both.get("/health")
        assert health.status_code == 503
        assert "rank 1 of 2 ended by signal 9" in health.text
        both.process.terminate()
        both.process.wait(30)
        wait_gone([engine, rank])
