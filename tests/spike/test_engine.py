"""The engine itself on JAX: the same requests get the same tokens as on torch, and the kernels conform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.checkpoints import save
from backend.test_engine import Answer, run
from spike.frameworks import BOTH, JAX, Framework
from zif.conformance.results import Recorder
from zif.conformance.runner import check_backend
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9]]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=6, logprobs=3),
    SamplingParams(temperature=0.9, top_p=0.9, top_k=30, seed=4, max_tokens=6),
    SamplingParams(temperature=0.7, seed=9, max_tokens=6, repetition_penalty=1.3, frequency_penalty=0.4),
]


def answers(framework: Framework, path: Path, cache: str) -> list[Answer]:
    settings = Settings(
        model=str(path),
        max_total_tokens=512,
        page_size=4,
        dtype="float32",
        max_running_requests=8,
        kv_cache_dtype=cache,
    )
    return run(build_engine(settings, progress=False, backend=framework.backend()), PROMPTS, PARAMS)


@pytest.mark.parametrize("cache", ["float32", "int8"])
def test_the_engine_serves_the_same_on_both(tmp_path: Path, cache: str) -> None:
    """Overlapped on JAX, whose launches return early; with penalties, filters and logprobs."""
    path = save("qwen3", tmp_path).path
    on_torch, on_jax = (answers(framework, path, cache) for framework in BOTH)
    assert [answer.tokens for answer in on_jax] == [answer.tokens for answer in on_torch]
    assert [len(answer.tokens) for answer in on_torch] == [6, 6, 6]
    for mine, theirs in zip(on_jax[0].logprobs, on_torch[0].logprobs, strict=True):
        assert mine.rank == theirs.rank
        np.testing.assert_allclose(mine.logprob, theirs.logprob, atol=1e-4)
        assert [token for token, _ in mine.top] == [token for token, _ in theirs.top]


PROFILES = ("array", "llm", "mla", "moe")
UNLIKE = ("repeat", "rope_angles", "route", "penalize", "sample", "filter_logits", "logprobs")
"""Ops that JAX does in another way than torch does, those aside that the models of the spike lean on."""


def conformance(dtypes: Sequence[str], only: Sequence[str]) -> tuple[int, list[str]]:
    """(checks that passed, what did not) of the suite that ships, on JAX."""
    backend = JAX.backend()
    backend.capabilities = replace(backend.capabilities, dtypes=tuple(dtypes))  # type: ignore[misc]
    recorder = Recorder(only)
    check_backend(backend, PROFILES, recorder)
    wrong = [str(result) for result in recorder.results if result.status != "pass"]
    return len(recorder.results) - len(wrong), wrong


def test_the_jax_reference_conforms_where_it_is_unlike_torch_s() -> None:
    only = ["runtime", "executables", *(f"ops/{op}/float32/*/compiled" for op in UNLIKE)]
    passed, wrong = conformance(["float32"], only)
    assert not wrong
    assert passed > 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_jax_reference_conforms() -> None:
    passed, wrong = conformance(["float32", "bfloat16"], ["runtime", "executables", "ops"])
    assert not wrong
    assert passed > 600
