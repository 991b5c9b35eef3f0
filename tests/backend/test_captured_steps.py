"""Mixed steps that a backend captures: one program for page assignments, forward pass and sampler, padded widely.

Nothing is recorded here: what is tested is that requests get the same as by the programs of an uncaptured step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.checkpoints import VOCAB, Saved, save
from zif.contract.attention import AttentionSpec
from zif.contract.kernels import kernel
from zif.contract.step import Step, StepShape
from zif.engine.engine import Engine
from zif.engine.warmup import warm_up
from zif.messages import EngineRequest
from zif.process.build import build_engine
from zif.reference.torch import EagerExecutables, TorchBackend, TorchRuntime
from zif.reference.torch.reference import TorchReference
from zif.sampling.params import SamplingParams
from zif.settings import Settings

RNG = np.random.default_rng(3)
PROMPTS = [RNG.integers(0, VOCAB, size).tolist() for size in (3, 37, 18, 52, 1, 9)]
LARGEST = 64
SIZES = (16, LARGEST)
"""Tokens of the steps that are captured; they have eight sequences."""


class CapturableReference(TorchReference):
    level = 1

    @kernel("paged_attention")
    def paged_attention(self, q: Any, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        return super().paged_attention(q, cache, layer, step, spec)


class CapturingExecutables(EagerExecutables):
    """Steps of up to LARGEST tokens are said to be captured."""

    def bucket(self, axis: str, size: int, limit: int) -> int:
        if axis == "tokens" and size <= LARGEST:
            return min(next(extent for extent in SIZES if extent >= size), limit)
        if axis in ("seqs", "pages"):
            return limit
        return super().bucket(axis, size, limit)

    def captures(self, shape: StepShape) -> bool:
        return shape.tokens <= LARGEST and shape.logits == shape.seqs


class CapturingBackend(TorchBackend):
    def __init__(self, reference: TorchReference | None = None) -> None:
        super().__init__(TorchRuntime())
        self.executables = CapturingExecutables(self.runtime.device)
        self._reference = reference or CapturableReference()

    def kernels(self) -> Sequence[Any]:
        return (self._reference,)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save("llama", tmp_path_factory.mktemp("llama"))


def engine_of(saved: Saved, backend: TorchBackend, *, asynchronous: bool = True, **settings: Any) -> Engine:
    backend.capabilities = replace(backend.capabilities, asynchronous=asynchronous)
    own: dict[str, Any] = {
        "max_total_tokens": 2048, "page_size": 4, "dtype": "float32", "max_running_requests": 8, "random_seed": 1,
    }  # fmt: skip
    return build_engine(Settings(model=str(saved.path), **{**own, **settings}), progress=False, backend=backend)


def answers(engine: Engine, params: Sequence[SamplingParams]) -> dict[str, tuple[list[int], list[Any], Any]]:
    """Each request's (tokens, logprobs, prompt logprobs); one joins at every second step, so that most are mixed."""
    given: dict[str, tuple[list[int], list[Any], Any]] = {}
    waiting = list(enumerate(zip(PROMPTS, params, strict=True)))
    steps = 0
    while waiting or engine.has_work:
        if waiting and steps % 2 == 0:
            number, (prompt, own) = waiting.pop(0)
            assert engine.add(EngineRequest(str(number), prompt, own)) is None
        steps += 1
        for output in engine.step():
            tokens, logprobs, scores = given.get(output.request_id, ([], [], None))
            scored = output.prompt_logprobs or scores
            given[output.request_id] = (tokens + output.token_ids, logprobs + list(output.logprobs or []), scored)
    return given


def kinds(engine: Engine) -> set[str]:
    return {program.name.partition("-")[0] for program in engine.runner.programs}


def sampled(**facts: Any) -> list[SamplingParams]:
    own = {"temperature": 1.0, "max_tokens": 12, **facts}
    return [SamplingParams(**{**own, "seed": i, "temperature": own["temperature"] * (i % 2)}) for i in range(6)]


@pytest.mark.parametrize("chunk", [7, 64], ids="chunks of {}".format)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["in turn", "overlapped"])
def test_tokens_are_those_of_uncaptured_steps(llama: Saved, asynchronous: bool, chunk: int) -> None:
    settings = {"asynchronous": asynchronous, "chunked_prefill_size": chunk}
    plain = engine_of(llama, TorchBackend(TorchRuntime()), **settings)
    captured = engine_of(llama, CapturingBackend(), **settings)
    for _ in range(2):  # the second time with a cached prefix
        assert answers(captured, sampled()) == answers(plain, sampled())
    assert "mixed" in kinds(captured)
    assert not kinds(captured) & {"forward", "sample"}
    assert "mixed" not in kinds(plain)


@pytest.mark.parametrize("facts", [{"top_p": 0.8}, {"logprobs": 2}, {"presence_penalty": 1.5}], ids=str)
def test_samplers_that_are_not_plain_have_a_program_of_their_own(llama: Saved, facts: dict[str, Any]) -> None:
    plain, captured = engine_of(llama, TorchBackend(TorchRuntime())), engine_of(llama, CapturingBackend())
    found, wanted = (answers(engine, sampled(**facts)) for engine in (captured, plain))
    assert {name: tokens for name, (tokens, *_) in found.items()} == {name: own[0] for name, own in wanted.items()}
    assert {"forward", "sample"} <= kinds(captured)
    shapes = {program.name for program in captured.runner.programs if program.name.endswith("-8")}
    assert shapes, "a row of logits a sequence, so that it is the same forward program whatever samples"


def test_scored_prompts_get_their_logits(llama: Saved) -> None:
    facts = {"prompt_logprobs": 0, "temperature": 0.0}
    plain, captured = engine_of(llama, TorchBackend(TorchRuntime())), engine_of(llama, CapturingBackend())
    found, wanted = (answers(engine, sampled(**facts)) for engine in (captured, plain))
    for name, (tokens, _, scores) in wanted.items():
        assert found[name][0] == tokens
        assert [s and s.token_id for s in found[name][2]] == [s and s.token_id for s in scores]
        assert [s.logprob for s in found[name][2][1:]] == pytest.approx([s.logprob for s in scores[1:]], abs=1e-4)


def test_more_pages_than_the_program_has_room_for_are_assigned_before_it(llama: Saved) -> None:
    """A prompt of which all but a few tokens are cached brings more pages than it has new tokens."""
    prompt = RNG.integers(0, VOCAB, 120).tolist()
    greedy = SamplingParams(temperature=0, max_tokens=4)
    engine = engine_of(llama, CapturingBackend(), page_size=1)
    given = []
    for number in range(2):
        assert engine.add(EngineRequest(str(number), prompt, greedy)) is None
        tokens: list[int] = []
        while engine.has_work:
            for output in engine.step():
                tokens += output.token_ids
        given.append(tokens)
    assert given == [llama.continue_greedily(prompt, 4)] * 2
    assert {"mixed-16x8x128-8", "assign-128"} <= {program.name for program in engine.runner.programs}


def test_warming_up_compiles_all_that_is_captured(llama: Saved) -> None:
    settings = {"max_running_requests": 3, "chunked_prefill_size": LARGEST}
    plain, engine = (engine_of(llama, made, **settings) for made in (TorchBackend(TorchRuntime()), CapturingBackend()))
    runner = engine.runner
    shapes = [(shape.tokens, shape.seqs, shape.logits) for shape in runner.staging.shapes.warmed() if not shape.decode]
    assert shapes == [(16, 3, 3), (LARGEST, 3, 3)]
    count = warm_up(runner)
    made = Counter(program.name.partition("-")[0] for program in runner.programs)
    assert made.total() == count
    # a sampler for all mixed steps, greedy and random ones for three sizes of decode steps
    assert (made["mixed"], made["decode"]) == (2, 2 * 3)
    assert made["admit"] == len({runner.backend.executables.bucket("rows", size, 3) for size in (1, 2, 3)})
    assert answers(engine, sampled()) == answers(plain, sampled())
    assert [program.name for program in runner.programs[count:]] == []


def test_kernels_that_cannot_be_captured_leave_steps_as_they_are(llama: Saved) -> None:
    engine = engine_of(llama, CapturingBackend(TorchReference()))
    plain = engine_of(llama, TorchBackend(TorchRuntime()))
    assert not engine.runner.bound.capturable
    assert answers(engine, sampled()) == answers(plain, sampled())
    assert "mixed" not in kinds(engine)
    assert all(shape.decode for shape in engine.runner.staging.shapes.warmed())
