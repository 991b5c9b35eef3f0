"""What ``zif warmup`` runs, on the null device: every kind of step and of sampler, once, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest

from zif.engine.engine import Engine
from zif.process.build import build_engine
from zif.process.warming import SAMPLERS, WarmUpFailed, warm_everything
from zif.settings import Settings


@pytest.fixture
def engine() -> Engine:
    return build_engine(Settings(device="null", max_running_requests=8), progress=False)


def test_every_kind_of_sampler_and_step_is_run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Any] = []
    launch = engine.runner.launch
    monkeypatch.setattr(engine.runner, "launch", lambda batch: batches.append(batch) or launch(batch))
    phases = [phase.name for phase in warm_everything(engine)]
    assert phases == ["prefill steps", "mixed steps", "samplers"]
    assert {batch.decode_only for batch in batches} == {True, False}
    assert any(0 < batch.num_decodes < len(batch.requests) for batch in batches), "decodes beside a prompt"
    seen = {request.params.needs for batch in batches for request in batch.requests}
    assert seen == {params.needs for params in SAMPLERS.values()}
    assert not engine.has_work
    assert engine.stats()["tokens_cached"] == engine.stats()["cached_tokens_total"] == 0


def test_decode_programs_are_run_and_choices_measured_where_the_backend_wants_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    backend: Any = engine.runner.backend
    monkeypatch.setattr(backend, "tune", lambda: asked.append("tune"))
    monkeypatch.setattr("zif.process.warming.warm_up", lambda runner: asked.append("warm_up"))
    monkeypatch.setattr(type(backend), "capabilities", _wanting(backend.capabilities))
    assert next(iter(warm_everything(engine))).name == "decode steps"
    assert asked == ["tune", "warm_up"], "measured in the very programs"


def test_a_request_that_fails_ends_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import zif.process.warming as warming
    from zif.messages import EngineOutput

    monkeypatch.setattr(engine, "step", lambda: [EngineOutput("warm-up-0", finish_reason="error", error="no memory")])
    with pytest.raises(WarmUpFailed, match="no memory"):
        list(warming.warm_everything(engine))


def _wanting(capabilities: Any) -> Any:
    from dataclasses import replace

    return replace(capabilities, warm_up=True)
