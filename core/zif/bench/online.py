"""Benchmark of a server: requests arrive at random, as people's do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zif.bench.client import Client, Timeline
from zif.bench.results import Result
from zif.bench.workload import Request, Workload
from zif.contract.errors import ZifError

if TYPE_CHECKING:
    from zif.settings import Settings

START_SECONDS = 600.0
UNKNOWN_VOCAB = 1000
"""Token ids that any model has, where the server does not tell how many there are."""


def online(workload: Workload, settings: Settings) -> Result:
    """Poisson arrivals against ``workload.base_url``, or a server started for it with ``settings``."""
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    if workload.base_url is not None:
        return _measure(workload, Client(workload.base_url, key))
    with _own_server(settings, key) as client:
        return _measure(workload, client)


def _measure(workload: Workload, client: Client) -> Result:
    model = client.get("/v1/models")["data"][0]["id"]
    info = _server_info(client)
    vocab = int(info.get("vocab_size", UNKNOWN_VOCAB))
    if workload.warmup:
        _send(client, model, workload.requests(vocab, 0)[:2], [0.0, 0.0], workload.temperature)
    start = time.perf_counter()
    timelines = _send(client, model, workload.requests(vocab, 1), workload.arrivals(), workload.temperature)
    seconds = time.perf_counter() - start
    done = [timeline for timeline in timelines if timeline.error is None and timeline.chunks]
    errors = [timeline.error or "nothing was generated" for timeline in timelines if timeline not in done]
    if not done:
        raise ZifError(f"all {len(timelines)} requests failed; the first said: {errors[0]}")
    facts = {"model": model, "device": info.get("device"), "url": client.url, "num_prompts": workload.num_prompts,
             "input_len": list(workload.input_len), "output_len": list(workload.output_len),
             "request_rate": workload.request_rate}  # fmt: skip
    result = Result("online", facts, errors=errors)
    result.add("time to first token", "ms", [(t.chunks[0] - t.sent) * 1e3 for t in done])
    gaps = [(b - a) * 1e3 for t in done for a, b in zip(t.chunks, t.chunks[1:], strict=False)]
    result.add("time between tokens", "ms", gaps)
    result.add("time of a request", "ms", [(t.chunks[-1] - t.sent) * 1e3 for t in done])
    result.add("requests", "1/s", len(done) / seconds)
    result.add("output throughput", "tok/s", sum(t.tokens for t in done) / seconds)
    result.add("duration", "s", seconds)
    result.add("failed requests", "count", len(errors))
    return result


def _send(
    client: Client, model: str, requests: list[Request], arrivals: list[float], temperature: float
) -> list[Timeline]:
    """Send each request at its time, in a thread of its own."""
    start = time.perf_counter()
    with ThreadPoolExecutor(max_workers=len(requests)) as pool:
        futures = []
        for request, arrival in zip(requests, arrivals, strict=True):
            time.sleep(max(0.0, start + arrival - time.perf_counter()))
            futures.append(pool.submit(client.complete, model, request, temperature))
        return [future.result() for future in futures]


def _server_info(client: Client) -> dict[str, Any]:
    """What a server of ours says of itself; nothing, of others."""
    try:
        info = client.get("/server_info")
    except ZifError:
        return {}
    return info if isinstance(info, dict) else {}


@contextmanager
def _own_server(settings: Settings, key: str | None) -> Iterator[Client]:
    """``zif serve`` in a process of its own, on a free port, with the same settings."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"ZIF_LOG_LEVEL": "warning"} | ({"ZIF_API_KEY": key} if key is not None else {})
    command = [
        sys.executable,
        "-m",
        "zif.cli.main",
        "serve",
        *flags(settings),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, env=environment)
    client = Client(f"http://127.0.0.1:{port}", key)
    try:
        _wait_until_ready(process, client)
        yield client
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def flags(settings: Settings) -> list[str]:
    """The command line of ``zif serve`` that gives these settings; where and with what key it listens aside."""
    from zif.settings import flag_of

    words: list[str] = []
    for name in sorted(settings.model_fields_set - {"host", "port", "api_key", "log_level"}):
        value, flag = getattr(settings, name), flag_of(name)
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            words += [f"{flag}={key}={item}" for key, item in value.items()]
        elif isinstance(value, tuple):
            words += [f"{flag}={item}" for item in value]
        else:
            words.append(f"{flag}={value}")
    return words


def _wait_until_ready(process: subprocess.Popen[bytes], client: Client) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ZifError(f"the server ended with exit code {process.returncode} before it was ready")
        try:
            client.get("/health")
        except ZifError:
            time.sleep(0.2)
        else:
            return
    raise ZifError(f"the server was not ready within {START_SECONDS:.0f} s")
