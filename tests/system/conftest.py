"""The product as a user has it: ``zif serve`` in a process of its own, on the cpu backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest


@dataclass
class Served:
    """A running ``zif serve``: its URL, its process, and what it wrote to stderr so far."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)

    @property
    def engine_pid(self) -> int:
        """The process that the model runs in: the server's one child that is no resource tracker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        spawned = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(spawned) == 1, spawned
        return int(spawned[0])

    def stats(self) -> dict[str, int]:
        """The engine's gauges and counters."""
        stats: dict[str, int] = self.get("/server_info").json()
        return stats


@contextmanager
def serve(log: Path, *flags: str) -> Iterator[Served]:
    """``zif serve FLAGS`` on a free port, until the block ends."""
    command = [sys.executable, "-m", "zif.cli.main", "serve", "--port", "0", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=stderr, env=environment, start_new_session=True)
    try:
        yield Served(_wait_for_url(process, log), process, log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        said = log.read_text()
        if (match := re.search(r"at (http://\S+)/v1", said)) is not None:
            return match[1]
        assert process.poll() is None, f"zif serve ended with {process.returncode}:\n{said}"
        time.sleep(0.05)
    raise AssertionError(f"zif serve was not ready within 90 s:\n{log.read_text()}")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The bundled model, served on cpu for all tests of the session that leave it alive."""
    with serve(tmp_path_factory.mktemp("serve") / "log", "--device", "cpu") as running:
        yield running
        assert running.process.poll() is None, running.log.read_text()
