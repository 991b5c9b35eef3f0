"""Sends hostile requests to a server, and watches what others notice of it.

``python tests/system/storm.py URL`` prints, for each kind of request alone, how it was answered, the slowest
``/health`` meanwhile, and the longest gap of a stream beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from system.hostile import MAKERS, Hostile, hostile

# Runs in a process of its own, so that the sender's work is not measured. Prints milliseconds: of each /health, and
# of each gap between two tokens of an endless stream.
PROBE = """
import http.client, json, sys, threading, time
host, port, stream = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "stream"
over, health, gaps = threading.Event(), [], []
def follow():
    while not over.is_set():
        line = http.client.HTTPConnection(host, port, timeout=60)
        body = {"prompt": "beside", "stream": True, "max_tokens": 900, "ignore_eos": True}
        line.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer, last = line.getresponse(), None
        while not over.is_set() and (got := answer.readline()):
            if got.startswith(b"data: {"):
                now = time.perf_counter()
                if last is not None:
                    gaps.append((now - last) * 1e3)
                last = now
        line.close()
if stream:
    threading.Thread(target=follow, daemon=True).start()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
line = http.client.HTTPConnection(host, port, timeout=60)
print("ready", flush=True)
while not over.is_set():
    began = time.perf_counter()
    line.request("GET", "/health")
    answer = line.getresponse(); answer.read()
    assert answer.status == 200, answer.status
    health.append((time.perf_counter() - began) * 1e3)
    time.sleep(0.01)
print(json.dumps({"health": health, "gaps": gaps}))
"""


class Watch:
    """What was noticed while it ran, in milliseconds."""

    def __init__(self) -> None:
        self.health: list[float] = []
        self.gaps: list[float] = []


@contextlib.contextmanager
def watched(url: str, *, stream: bool = False) -> Iterator[Watch]:
    """Ask for ``/health`` without pause while the block runs, and follow a stream."""
    where, watch = urlsplit(url), Watch()
    command = [sys.executable, "-c", PROBE, str(where.hostname), str(where.port), "stream" if stream else "alone"]
    probe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert probe.stdout is not None
    assert probe.stdout.readline() == "ready\n"
    time.sleep(0.3)
    try:
        yield watch
        time.sleep(0.1)
    finally:
        said, _ = probe.communicate("", timeout=90)
        assert probe.returncode == 0
        seen: dict[str, list[float]] = json.loads(said)
        watch.health, watch.gaps = seen["health"], seen["gaps"]


async def exchange(url: str, what: Hostile, patience: float = 120.0) -> int:
    """Send a request; the status of its answer, 0 for none (the connection was closed, or the sender left)."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    status = b""
    try:
        async with asyncio.timeout(what.leave or patience):
            writer.write(what.data)
            status = await reader.readline()
            while await reader.read(2**18):
                pass
    except TimeoutError:
        assert what.leave is not None, f"{what.name} was not answered within {patience} s"
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return int(status.split()[1]) if status.count(b" ") >= 2 else 0


def resident(pid: int) -> int:
    """Bytes of memory that the server and its engine hold."""
    server = psutil.Process(pid)
    return sum(int(process.memory_info().rss) for process in [server, *server.children()])


def main(url: str) -> None:
    """Print the table."""
    for name in MAKERS:
        what = hostile(name)
        with watched(url, stream=True) as watch:
            began = time.perf_counter()
            status: Any = asyncio.run(exchange(url, what))
            took = time.perf_counter() - began
        gap = max(watch.gaps, default=0)
        print(
            f"| {name} | {len(what.data):,} | {status} | {took:.2f} | {max(watch.health):.0f} | {gap:.0f} |", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1])
