"""Inputs that requests bring to a model that declares them, through the engine, on torch, on JAX and on nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.checkpoints import save
from spike.frameworks import BOTH, Framework
from zif.contract.model import InputSpec
from zif.engine.engine import Engine
from zif.engine.inputs import InputProvider, from_requests
from zif.messages import EngineOutput, EngineRequest
from zif.null.backend import NullBackend, NullOptions
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.scheduler.batch import Batch
from zif.settings import Settings

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1, 8], [1, 1, 2, 3, 5, 8]]
GREEDY = SamplingParams(temperature=0, max_tokens=5)
HIDDEN = 64


@pytest.fixture(autouse=True)
def _family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zif.engine.part.further_models", lambda _: {"LlamaForCausalLM": "spike.with_inputs"})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("llama")).path


def engine_of(path: Path, backend: Any, provider: InputProvider = from_requests, **settings: Any) -> Engine:
    own: dict[str, Any] = {"max_total_tokens": 512, "page_size": 4, "dtype": "float32", "max_running_requests": 4}
    return build_engine(
        Settings(model=str(path), **{**own, **settings}), progress=False, backend=backend, provider=provider
    )


def generate(engine: Engine, inputs: list[dict[str, Any]], prompts: list[list[int]] = PROMPTS) -> list[Any]:
    """(tokens, cached prompt tokens) of each."""
    given = zip(prompts, inputs, strict=True)
    for number, (prompt, own) in enumerate(given):
        assert engine.add(EngineRequest(str(number), prompt, GREEDY, inputs=own)) is None
    tokens: dict[str, list[int]] = {str(number): [] for number in range(len(prompts))}
    last: dict[str, EngineOutput] = {}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
            last[output.request_id] = output
    return [(tokens[name], last[name].cached_tokens) for name in tokens]


@pytest.mark.parametrize("framework", BOTH, ids=lambda framework: framework.name)
def test_each_request_is_served_by_what_it_brings(path: Path, framework: Framework) -> None:
    """In chunks of the prompt, beside requests that bring nothing, and never by another's cached prefix."""
    engine = engine_of(path, framework.backend(), chunked_prefill_size=6)
    plain = generate(engine, [{}, {}, {}])
    table = np.asarray(engine.runner.residents["weights"].arrays["embed"].arrays["w"])
    other = [7, *PROMPTS[0][1:5], 8, *PROMPTS[0][6:]]  # differs in two places, which lie in two chunks
    extra = table[other] - table[PROMPTS[0]]
    brought = [{"extra": extra}, {"wanted": np.int32(17)}, {}]
    found = generate(engine, brought)
    assert found[0][0] == generate(engine, [{}], [other])[0][0] != plain[0][0]
    assert found[1][0] == [17] * 5
    assert found[2][0] == plain[2][0]
    assert [cached for _, cached in found] == [0, 0, 4], "what was cached is of requests that brought nothing"
    again = generate(engine, brought)
    assert [tokens for tokens, _ in again] == [tokens for tokens, _ in found]
    assert again[0][1] == 8, "the same inputs share a prefix"


@pytest.mark.parametrize("framework", BOTH, ids=lambda framework: framework.name)
def test_a_provider_gives_the_values_of_a_step(path: Path, framework: Framework) -> None:
    def provider(spec: InputSpec, batch: Batch) -> Any:
        return np.float32(-1000) if spec.name == "boost" else from_requests(spec, batch)

    ((plain, _), *_) = generate(engine_of(path, framework.backend()), [{}, {}, {}])
    engine = engine_of(path, framework.backend(), provider)
    ((kept, _), (found, _)) = generate(engine, [{}, {"wanted": plain[0]}], [PROMPTS[0], PROMPTS[0]])
    assert kept == plain
    assert plain[0] not in found


def test_inputs_are_staged_on_a_device_that_checks_what_is(path: Path) -> None:
    engine = engine_of(path, NullBackend(NullOptions()), dtype="float32")
    assert [len(tokens) for tokens, _ in generate(engine, [{"wanted": 3}, {}, {}])] == [5, 5, 5]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"image": np.zeros(3)}, r"no input 'image'; it has extra, wanted, boost"),
        ({"wanted": np.zeros(2, np.int32)}, r"'wanted' is \(2,\), not \(\)"),
        ({"extra": np.zeros((3, HIDDEN))}, r"'extra' is \(3, 64\), not \(4, 64\): \(64,\) a prompt token"),
        ({"wanted": 0.5}, r"'wanted' is float64, not int32"),
        ({"wanted": 1 << 40}, r"'wanted' has values that int32 cannot hold"),
        ({"boost": 1.0}, r"'boost' is one for all requests of a step"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(path: Path, inputs: dict[str, Any], said: str) -> None:
    engine = engine_of(path, NullBackend(NullOptions()))
    refused = engine.add(EngineRequest("0", PROMPTS[1], GREEDY, inputs=inputs))
    assert refused is not None
    assert refused.finish_reason == "error"
    assert re.search(said, str(refused.error))
    assert not engine.has_work
