"""Several tokens a step, through the engine on torch, JAX and nothing: drafts change the steps, not the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.checkpoints import VOCAB, save
from backend.test_engine import Answer, run
from spike.frameworks import BOTH, Framework
from zif.contract.arrays import ArraySpec
from zif.contract.step import StepShape
from zif.engine.engine import Engine
from zif.engine.launch import Launch
from zif.engine.padding import padded
from zif.engine.programs import Context, ProgramSpec
from zif.null.backend import NullBackend, NullOptions
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.scheduler.batch import Batch
from zif.settings import Settings

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9], [2, 7, 1, 8], [1, 1, 2, 3, 5, 8, 13, 21, 34]]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=24, logprobs=2),
    SamplingParams(temperature=0.8, seed=4, max_tokens=19),
    SamplingParams(temperature=0.9, top_p=0.9, top_k=30, seed=4, max_tokens=24),
    SamplingParams(temperature=0.7, seed=9, max_tokens=12, repetition_penalty=1.3, frequency_penalty=0.4),
    SamplingParams(temperature=0, max_tokens=24, min_tokens=0),
]


@dataclass(frozen=True)
class Guess:
    """Write drafts of ``seqs`` rows: what is said to follow the last token, and what follows that."""

    seqs: int
    drafts: int

    def spec(self, context: Context) -> ProgramSpec:
        ops = context.ops

        def fn(inputs: dict[str, Any], resident: dict[str, Any]) -> Any:
            arrays, rows = dict(resident["table"]), inputs["rows"]
            token = arrays["last_token"][rows]
            for number in range(self.drafts):
                token = inputs["following"][token]
                arrays["drafts"] = ops.put(arrays["drafts"], (rows, rows * 0 + number), token)
            return {}, {"table": arrays}

        specs = {"rows": ArraySpec((self.seqs,), "int32"), "following": ArraySpec((context.table.vocab,), "int32")}
        return ProgramSpec(f"guess-{self.seqs}", fn, specs, {}, ("table",))


@dataclass
class Successors:
    """A drafter that knows for each token one that follows."""

    most: int
    following: Any

    def launches(self, batch: Batch, shape: StepShape) -> Sequence[Launch]:
        inputs = {"rows": padded(batch.rows, shape.seqs, 0), "following": self.following}
        return [Launch(Guess(shape.seqs, self.most), inputs)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("llama")).path


def engine_of(path: Path, backend: Any, drafter: Any, **settings: Any) -> Engine:
    """Steps overlap, whatever the backend."""
    backend.capabilities = replace(backend.capabilities, asynchronous=True)
    own: dict[str, Any] = {"max_total_tokens": 512, "page_size": 4, "dtype": "float32", "max_running_requests": 4}
    made = Settings(model=str(path), **{**own, **settings})
    return build_engine(made, progress=False, backend=backend, drafter=drafter)


def learned(prompts: Sequence[list[int]], answers: Sequence[Answer], wrong: int) -> Any:
    """A table of what followed each token last; every ``wrong``-th token is followed by another."""
    following = np.zeros(VOCAB, np.int32)
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = [prompt[-1], *answer.tokens]
        following[tokens[:-1]] = tokens[1:]
    following[::wrong] += 1
    return following % VOCAB


@pytest.mark.parametrize("framework", BOTH, ids=lambda framework: framework.name)
def test_drafts_change_no_token_and_save_steps(path: Path, framework: Framework) -> None:
    plain = engine_of(path, framework.backend(), None)
    expected = run(plain, PROMPTS, PARAMS)
    following = learned(PROMPTS, expected, wrong=7)
    engine = engine_of(path, framework.backend(), Successors(3, following), chunked_prefill_size=8)
    found = run(engine, PROMPTS, PARAMS)
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
    assert [answer.last.finish_reason for answer in found] == ["length"] * len(PROMPTS)
    assert engine.stats()["steps_total"] < 0.8 * plain.stats()["steps_total"]
    for mine, theirs in zip(found[0].logprobs, expected[0].logprobs, strict=True):
        assert (mine.token_id, mine.rank) == (theirs.token_id, theirs.rank)
        np.testing.assert_allclose(mine.logprob, theirs.logprob, atol=1e-4)
    stop = expected[0].tokens[6]
    stopped = replace(PARAMS[0], stop_token_ids=(stop,))
    (answer,) = run(engine, PROMPTS[:1], stopped)
    assert answer.tokens == expected[0].tokens[: expected[0].tokens.index(stop) + 1]
    assert (answer.last.finish_reason, answer.last.stop_reason) == ("stop", stop)
    assert engine.flush_cache()
    assert engine.stats()["pages_free"] == engine.stats()["pages_total"]


def test_wrong_drafts_cost_steps_of_more_tokens_and_nothing_else(path: Path) -> None:
    expected = run(engine_of(path, BOTH[0].backend(), None), PROMPTS, PARAMS)
    wrong = np.full(VOCAB, VOCAB - 1, np.int32)
    engine = engine_of(path, BOTH[0].backend(), Successors(2, wrong), max_total_tokens=100)
    assert [answer.tokens for answer in run(engine, PROMPTS, PARAMS)] == [answer.tokens for answer in expected]


def test_steps_with_drafts_keep_the_rules_of_the_contract(path: Path) -> None:
    """On the device that computes nothing, where none is accepted."""
    engine = engine_of(path, NullBackend(NullOptions(token=0)), Successors(2, np.zeros(VOCAB, np.int32)))
    answers = run(engine, PROMPTS, [replace(params, logprobs=None) for params in PARAMS])
    assert [len(answer.tokens) for answer in answers] == [params.max_tokens for params in PARAMS]
