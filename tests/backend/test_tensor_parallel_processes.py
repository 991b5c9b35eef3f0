"""Tensor parallelism as it is served: a process each rank on the cpu backend, and what becomes of it when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zif
from backend.checkpoints import Saved, save
from backend.test_tensor_parallel import PROMPTS, run, settings_of
from zif import SamplingParams
from zif.contract.errors import EngineDead, InvalidSettings, UnsupportedModel
from zif.contract.info import Device
from zif.messages import EngineRequest
from zif.parallel.store import Store
from zif.plugins import Selection
from zif.process.build import build_engine
from zif.reference.torch import TorchBackend, TorchRuntime

ENDLESS = SamplingParams(temperature=0, ignore_eos=True)
CPU: dict[str, Any] = {"device": "cpu", "device_opt": ("cpu.threads=2", "cpu.native=off")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save("qwen3", tmp_path_factory.mktemp("qwen3"))


def followers(leader: int | None = None) -> list[int]:
    """Process ids of the ranks that a process leads, this one if none is given."""
    tasks = Path(f"/proc/{leader or os.getpid()}/task").glob("*/children")
    children = {int(pid) for task in tasks for pid in task.read_text().split()}
    return [pid for pid in children if b"zif.parallel" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_gone(pids: list[int]) -> None:
    """Until none of the processes runs."""
    deadline = time.monotonic() + 20
    while running := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, f"{running} still run"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_two_processes_give_the_tokens_of_one(saved: Saved) -> None:
    alone = run(build_engine(settings_of(saved), progress=False, backend=TorchBackend(TorchRuntime())))
    engine = build_engine(settings_of(saved, 2, **CPU), progress=False)
    ranks = followers()
    try:
        assert len(ranks) == 1
        assert run(engine) == alone
        # one that is aborted leaves both ranks as they were
        engine.add(EngineRequest("long", PROMPTS[0], SamplingParams(max_tokens=60, ignore_eos=True), ()))
        for _ in range(5):
            engine.step()
        assert [output.finish_reason for output in engine.abort()] == ["abort"]
        while engine.has_work:
            engine.step()
        assert engine.flush_cache()
        assert run(engine) == alone
    finally:
        engine.close()
    engine.close()
    wait_gone(ranks)


@pytest.fixture
def llm() -> Iterator[zif.LLM]:
    """The bundled model on two ranks."""
    with zif.LLM(tp_size=2, max_total_tokens=2048, dtype="float32", progress=False, **CPU) as made:
        yield made


def test_a_rank_that_dies_ends_open_streams_with_the_reason(llm: zif.LLM) -> None:
    (rank,) = followers()
    stream = llm.stream("Hello", ENDLESS)
    for _ in range(3):
        next(stream)
    os.kill(rank, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(EngineDead, match="the process of rank 1 of 2 ended by signal 9"):
        list(stream)
    assert time.monotonic() - begin < 15
    with pytest.raises(EngineDead, match="rank 1 of 2"):
        llm.generate("Hello")


def test_a_rank_that_dies_while_nothing_runs_is_noticed(llm: zif.LLM) -> None:
    (rank,) = followers()
    os.kill(rank, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while llm._engine.failure is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "the process of rank 1 of 2 ended by signal 9" in str(llm._engine.failure)


def test_a_rank_that_cannot_start_is_an_error_of_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setattr("zif.parallel.leader.GRACE_SECONDS", 0.2)  # the leader waits for it at their meeting
    with pytest.raises(EngineDead, match="the process of rank 1 of 2 ended with exit code 3"):
        zif.LLM(tp_size=2, progress=False, **CPU)


def test_what_a_rank_raises_is_the_error_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = (Device(name="cpu"), Device(name="cpu", index=7))
    monkeypatch.setattr(Selection, "devices_of_ranks", lambda self, size: apart)
    monkeypatch.setattr("zif.parallel.leader.GRACE_SECONDS", 0.2)
    with pytest.raises(EngineDead, match="rank 1 of 2: --device cpu:7: no such device"):
        zif.LLM(tp_size=2, progress=False, **CPU)


def test_ranks_end_with_a_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what they met in goes at the next start; a store that is in use stays."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    script = tmp_path / "script.py"  # without a guard: starting ranks must not run it again
    script.write_text(
        "import time, zif\n"
        f"llm = zif.LLM(tp_size=2, max_total_tokens=512, progress=False, **{CPU!r})\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == b"ready\n"
        ranks = followers(leader.pid)
        assert len(ranks) == 1
        (held,) = tmp_path.glob("zif-ranks-*")
        own = Store()
        assert held.exists()
        leader.kill()
    wait_gone(ranks)
    assert held.exists()
    other = Store()
    assert {str(path) for path in tmp_path.glob("zif-ranks-*")} == {own.path, other.path}
    for store in (own, other):
        store.remove()
        store.remove()
    assert not list(tmp_path.glob("zif-ranks-*"))


def test_every_rank_tunes(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that follow are other processes: what they find first on their path tells of it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib\nfrom zif.reference.torch import TorchBackend\n"
        f"TorchBackend.tune = lambda self: pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    engine = build_engine(settings_of(saved, 2, **CPU), progress=False)
    asked: list[str] = []
    monkeypatch.setattr(engine.runner.backend, "tune", lambda: asked.append("tune"))
    (rank,) = followers()
    try:
        engine.runner.tune()
        run(engine)
    finally:
        engine.close()
    assert asked == ["tune"]
    assert (tmp_path / str(rank)).exists()


def test_sizes_that_do_not_divide_are_refused_before_anything_starts(saved: Saved) -> None:
    with pytest.raises(UnsupportedModel, match=r"--tp-size 3: the model's 4 attention heads .* by 1, 2, 4"):
        build_engine(settings_of(saved, 3, **CPU), progress=False)
    with pytest.raises(InvalidSettings, match=r"--tp-size 2: .* has no tensor parallelism"):
        build_engine(settings_of(saved, 2, device="null"), progress=False)
    assert not followers()


def test_a_store_that_another_start_took_for_left_behind_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], tempfile.mkdtemp

    def removed_at_once(**given: str) -> str:
        made.append(real(**given))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr("zif.parallel.store.tempfile.mkdtemp", removed_at_once)
    store = Store()
    assert (len(made), store.path) == (2, made[1])
    store.remove()
