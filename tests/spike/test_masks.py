"""Sampling that waits for the host, through the engine on torch, on JAX and on nothing: others go on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.checkpoints import VOCAB, save
from spike.frameworks import BOTH, Framework
from zif.engine.engine import MASK_SECONDS, Engine
from zif.engine.launch import Launch, Observer
from zif.engine.masking import Draw
from zif.messages import EngineRequest
from zif.null.backend import NullBackend, NullOptions
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9], [2, 7, 1, 8]]
GREEDY = SamplingParams(temperature=0, max_tokens=12)
DRAWN = SamplingParams(temperature=0.8, seed=4, max_tokens=12)
PENALISED = SamplingParams(temperature=0.7, seed=9, max_tokens=12, repetition_penalty=1.3, logprobs=2)
WORDS = -(-VOCAB // 32)


@dataclass
class Steps:
    """Even tokens and odd ones in turn, each mask there when it has been asked for ``late`` times.

    One that is asked for with the patience of an idle engine is there at once, unless it is ``never``.
    """

    late: int
    first: int = 0
    given: list[int] = field(default_factory=list)
    asked: int = 0
    waited: int = 0
    never: bool = False

    def advance(self, token: int) -> None:
        self.given.append(token)
        self.asked = 0

    def mask(self, timeout: float) -> Any:
        self.asked += 1
        idle = timeout > MASK_SECONDS / 2  # CPU steps are not paced: nothing else waits so long
        self.waited += idle
        if self.never or (self.asked <= self.late and not idle):
            return None
        bits = np.zeros(WORDS * 32, np.uint8)
        bits[(self.first + len(self.given)) % 2 :: 2] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("llama")).path


def engine_of(path: Path, backend: Any, *, overlap: bool = True, **settings: Any) -> Engine:
    backend.capabilities = replace(backend.capabilities, asynchronous=overlap)
    own: dict[str, Any] = {"max_total_tokens": 512, "page_size": 4, "dtype": "float32", "max_running_requests": 4}
    return build_engine(Settings(model=str(path), **{**own, **settings}), progress=False, backend=backend)


def generate(engine: Engine, params: list[SamplingParams], masks: list[Any]) -> list[list[int]]:
    """Tokens of each of the prompts."""
    for number, (prompt, own, mask) in enumerate(zip(PROMPTS, params, masks, strict=True)):
        made: Callable[[], Any] | None = None if mask is None else lambda mask=mask: mask
        assert engine.add(EngineRequest(str(number), prompt, own, masks=made)) is None
    tokens: dict[str, list[int]] = {str(number): [] for number in range(len(PROMPTS))}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
            assert len(output.logprobs or output.token_ids) == len(output.token_ids)
    assert engine.flush_cache()
    assert engine.stats()["pages_free"] == engine.stats()["pages_total"]
    return list(tokens.values())


PARAMS = [GREEDY, DRAWN, PENALISED, GREEDY]


@pytest.mark.parametrize("overlap", [True, False], ids=["overlapped", "in turn"])
@pytest.mark.parametrize("framework", BOTH, ids=lambda framework: framework.name)
def test_rows_with_masks_obey_them_and_leave_the_others_alone(path: Path, framework: Framework, overlap: bool) -> None:
    engine = engine_of(path, framework.backend(), overlap=overlap)
    plain = generate(engine, PARAMS, [None] * 4)
    prompt, late = Steps(0), [Steps(2), Steps(5, first=1)]
    found = generate(engine, PARAMS, [prompt, *late, None])
    assert found[3] == plain[3]
    for tokens, steps in zip(found, [prompt, *late], strict=False):
        assert [token % 2 for token in tokens] == [(steps.first + place) % 2 for place in range(12)]
        assert steps.given == tokens[:-1], "told of each token but the last"
    alone = generate(engine, PARAMS, [None, Steps(0), Steps(0, first=1), None])
    assert [alone[0], *alone[1:]] == [plain[0], *found[1:3], plain[3]], "when a mask comes changes no token"


def test_steps_are_launched_while_masks_are_made(path: Path) -> None:
    """The free row ends first, as many steps later as it has tokens; only then is a mask waited for."""
    engine = engine_of(path, BOTH[0].backend())
    slow = Steps(1000)
    assert engine.add(EngineRequest("masked", PROMPTS[0], GREEDY, masks=lambda: slow)) is None
    assert engine.add(EngineRequest("free", PROMPTS[1], GREEDY)) is None
    ends = []
    while engine.has_work:
        ends += [output.request_id for output in engine.step() if output.finish_reason]
        assert not slow.waited or ends
    assert ends == ["free", "masked"]
    assert slow.waited == 12
    assert engine.stats()["steps_total"] <= 12 + 12


def test_a_mask_that_never_comes_keeps_nobody_else(path: Path) -> None:
    engine = engine_of(path, BOTH[0].backend())
    assert engine.add(EngineRequest("masked", PROMPTS[0], GREEDY, masks=lambda: Steps(0, never=True))) is None
    for _ in range(5):
        engine.step()
    assert engine.add(EngineRequest("late", PROMPTS[1], GREEDY)) is None
    tokens: list[int] = []
    while len(tokens) < 12:
        tokens += [token for output in engine.step() for token in output.token_ids]
    assert [output.finish_reason for output in engine.abort()] == ["abort"]
    assert engine.flush_cache()


def test_a_request_that_is_aborted_while_it_waits(path: Path) -> None:
    engine = engine_of(path, BOTH[0].backend())
    assert engine.add(EngineRequest("masked", PROMPTS[0], GREEDY, masks=lambda: Steps(1000))) is None
    assert engine.add(EngineRequest("free", PROMPTS[1], GREEDY)) is None
    for _ in range(3):
        engine.step()
    assert [output.finish_reason for output in engine.abort(["masked"])] == ["abort"]
    while engine.has_work:
        engine.step()
    assert engine.flush_cache()
    assert engine.stats()["pages_free"] == engine.stats()["pages_total"]


def test_draws_keep_the_rules_of_the_contract(path: Path) -> None:
    """On the device that computes nothing, and whose masks exclude nothing for that."""

    class Draws(Observer):
        count = 0

        def launching(self, launch: Launch) -> None:
            self.count += isinstance(launch.program, Draw)

    engine = engine_of(path, NullBackend(NullOptions()))
    engine.runner.observers.append(draws := Draws())
    params = [replace(each, logprobs=None) for each in PARAMS]
    assert [len(tokens) for tokens in generate(engine, params, [Steps(1), Steps(3), None, None])] == [12] * 4
    assert draws.count >= 12
