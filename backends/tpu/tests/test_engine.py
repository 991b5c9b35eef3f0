"""The engine on this backend: the tests that the torch reference passes, with JAX below."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from backend import test_engine as shared
from backend import test_models_engine as families
from backend.checkpoints import CHECKPOINTS, Saved, save
from zif.contract.info import Device
from zif_tpu.backend import create

OnJax = Callable[[object], None]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save("llama", tmp_path_factory.mktemp("llama"))


def test_greedy_tokens_chunked_and_retracted(on_jax: OnJax, llama: Saved, caplog: pytest.LogCaptureFixture) -> None:
    on_jax(shared)
    expected = [llama.continue_greedily(prompt, 10) for prompt in shared.PROMPTS]
    engine = shared.engine_of(
        llama, chunked_prefill_size=16, max_running_requests=4, max_total_tokens=160, schedule_conservativeness=0.01
    )
    params = shared.SamplingParams(temperature=0, max_tokens=10)
    with caplog.at_level(logging.WARNING, "zif_tpu"):
        for _ in range(2):  # the second time from the prefix cache
            assert shared.tokens_of(shared.run(engine, shared.PROMPTS, params)) == expected
    # each was told of, and the second round compiled nothing
    told = [record.getMessage() for record in caplog.records if "while requests wait" in record.getMessage()]
    assert 0 < len(told) <= 6


def test_drawn_tokens_are_the_torch_references(on_jax: OnJax, llama: Saved) -> None:
    params = [
        shared.SamplingParams(temperature=0.9, max_tokens=12, seed=i, frequency_penalty=0.4 * (i % 2), logprobs=1)
        for i in range(4)
    ]
    wanted = shared.run(shared.engine_of(llama), shared.PROMPTS, params)
    on_jax(shared)
    found = shared.run(shared.engine_of(llama), shared.PROMPTS, params)
    assert shared.tokens_of(found) == shared.tokens_of(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        expected = [entry.logprob for entry in theirs.logprobs]
        assert [entry.logprob for entry in ours.logprobs] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_running_out_of_cache(on_jax: OnJax, llama: Saved) -> None:
    on_jax(shared)
    shared.test_running_out_of_cache_retracts_and_changes_nothing(llama, True)


@pytest.mark.slow
def test_prompts_are_scored(on_jax: OnJax, llama: Saved) -> None:
    on_jax(shared)
    shared.test_logprobs_of_prompt_and_output(llama)


@pytest.mark.parametrize(
    "name", [name if name == "gemma3" else pytest.param(name, marks=pytest.mark.slow) for name in CHECKPOINTS]
)
def test_families(name: str, on_jax: OnJax, tmp_path: Path) -> None:
    on_jax(families)
    families.test_greedy_tokens(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kv_heads"), [("mistral", 2), ("llama", 1)])
def test_pallas_kernels_serve_a_model(
    name: str, kv_heads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With windows, and with keys and values in one array.

    The whole engine in TPU interpret mode: layers traced by the scan, the cache aliased through the kernels.
    """
    options = {"platform": "cpu", "pallas": "interpret"}
    monkeypatch.setattr(shared, "TorchBackend", lambda runtime: create(options, Device(name="cpu")))
    saved = save(name, tmp_path, num_key_value_heads=kv_heads)
    engine = shared.engine_of(
        saved, page_size=8, context_length=64, chunked_prefill_size=16, max_running_requests=4, max_total_tokens=256
    )
    kernels = {choice.request.op: str(choice.kernel) for choice in engine.runner.bound.choices}
    ours = ("rope_and_cache", "kv_write", "paged_attention")
    assert [kernels[op] for op in ours] == [f"pallas.{op}" for op in ours]
    prompts = shared.PROMPTS[:3]
    found = shared.run(engine, prompts, shared.SamplingParams(temperature=0, max_tokens=4))
    assert shared.tokens_of(found) == [saved.continue_greedily(prompt, 4) for prompt in prompts]
