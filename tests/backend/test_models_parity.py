"""Models against transformers, in float32, on tiny random checkpoints: logits and greedy tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backend.checkpoints import CHECKPOINTS, SERVED, VOCAB, Saved, save
from backend.driver import Driver, HostArray
from zif.conformance.oracle import Oracle
from zif.weights import Checkpoint

FAMILIES = ("llama", "mistral", "qwen2-windows", "qwen3", "gemma2", "gemma3", "phi3")
OTHERS = tuple(name for name in CHECKPOINTS if name not in FAMILIES)
LENGTHS = (31, 9, 1)
NEW = 5


Load = Callable[[str], Saved]


def assert_close(found: HostArray, wanted: HostArray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=5e-5)


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(1, VOCAB, length).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    made: dict[str, Saved] = {}

    def load(name: str) -> Saved:
        if name not in made:
            made[name] = save(name, tmp_path_factory.mktemp(name))
        return made[name]

    return load


@pytest.fixture(scope="module")
def expected(load: Load) -> Callable[[str], list[tuple[list[int], HostArray]]]:
    """(prompt and its greedy continuation, logits at each of them), a prompt each."""
    made: dict[str, list[tuple[list[int], HostArray]]] = {}

    def expected(name: str) -> list[tuple[list[int], HostArray]]:
        if name not in made:
            saved = load(name)
            sequences = [prompt + saved.continue_greedily(prompt, NEW) for prompt in prompts()]
            made[name] = [(tokens, saved.logits(tokens)) for tokens in sequences]
        return made[name]

    return expected


def serve(driver: Driver, chunk: int, pad: int = 0) -> list[tuple[list[int], HostArray]]:
    """Feed the prompts in chunks, and each sequence its own likeliest token once its prompt is in.

    Short prompts decode while longer ones are still being fed.
    """
    sequences = prompts()
    logits: list[list[HostArray]] = [[] for _ in sequences]
    fed = [0] * len(sequences)
    while True:
        new = {
            row: tokens[fed[row] : fed[row] + chunk] for row, tokens in enumerate(sequences) if fed[row] < len(tokens)
        }
        if not new:
            return [(tokens, np.concatenate(parts)) for tokens, parts in zip(sequences, logits, strict=True)]
        for row, result in driver.feed(new, pad=pad).items():
            logits[row].append(result)
            fed[row] += len(result)
            if fed[row] == len(sequences[row]) < LENGTHS[row] + NEW:
                sequences[row].append(int(result[-1].argmax()))


def check(found: list[tuple[list[int], HostArray]], wanted: list[tuple[list[int], HostArray]]) -> None:
    for (tokens, logits), (their_tokens, their_logits) in zip(found, wanted, strict=True):
        assert tokens == their_tokens
        assert_close(logits, their_logits)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_prefill_then_decode(name: str, load: Load, expected: Any) -> None:
    driver = Driver(Checkpoint(load(name).path), context_length=SERVED.get(name))
    check(serve(driver, chunk=64), expected(name))


@pytest.mark.parametrize(("page_size", "chunk", "pad"), [(1, 7, 0), (16, 5, 3), (4, 1, 0)])
@pytest.mark.parametrize("name", FAMILIES)
def test_chunked_prefill_with_decode(
    name: str, page_size: int, chunk: int, pad: int, load: Load, expected: Any
) -> None:
    driver = Driver(Checkpoint(load(name).path), page_size=page_size)
    check(serve(driver, chunk, pad), expected(name))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2, 3, 8, 16, 17, 30, 64])
@pytest.mark.parametrize("page_size", [1, 3, 8, 16, 64])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_page_and_chunk_size(name: str, page_size: int, chunk: int, load: Load, expected: Any) -> None:
    driver = Driver(Checkpoint(load(name).path), page_size=page_size, context_length=SERVED.get(name))
    check(serve(driver, chunk, pad=chunk % 3), expected(name))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_models_need_no_tensor_library(name: str, load: Load, expected: Any) -> None:
    """The same model on the ops' own specifications: numpy in float64."""
    driver = Driver(Checkpoint(load(name).path), backend=Oracle())
    check(serve(driver, chunk=20), expected(name))


@pytest.mark.parametrize(
    "name", [name if name == "gemma3" else pytest.param(name, marks=pytest.mark.slow) for name in CHECKPOINTS]
)
def test_the_same_model_runs_on_jax(name: str, load: Load, expected: Any) -> None:
    """Where a repeat is a scan, so that a layer's number is traced."""
    jax = pytest.importorskip("jax")
    from zif.reference.jax import JaxBackend, JaxRuntime

    backend = JaxBackend(JaxRuntime(jax.devices("cpu")[0]))
    driver = Driver(Checkpoint(load(name).path), backend=backend, context_length=SERVED.get(name))
    wanted = expected(name)
    before = {row: tokens[:-1] for row, (tokens, _) in enumerate(wanted)}
    last = {row: tokens[-1:] for row, (tokens, _) in enumerate(wanted)}
    for found, part in ((driver.feed(before), slice(None, -1)), (driver.feed(last), slice(-1, None))):
        for row, (_, logits) in enumerate(wanted):
            assert_close(found[row], logits[part])


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_stages_add_up(name: str, load: Load, expected: Any) -> None:
    """Layers cut anywhere, through a repeating block too, compute what they do together."""
    driver = Driver(Checkpoint(load(name).path))
    last = driver.model.num_layers

    def in_stages(ops: Any, w: Any, x: Any, cache: Any, step: Any) -> Any:
        for start, stop in ((0, 1), (1, 2), (2, last - 1), (last - 1, last)):
            x, cache = driver.model.layers(ops, w, x, cache, step, start, stop)
        return x, cache

    tokens, logits = expected(name)[0]
    assert_close(driver.feed({0: tokens}, layers=in_stages)[0], logits)


def test_a_family_in_bfloat16_stays_near(load: Load, expected: Any) -> None:
    """Weights of another dtype than the checkpoint's, and no operation that silently widens."""
    tokens, logits = expected("gemma3")[0]
    driver = Driver(Checkpoint(load("gemma3").path), dtype="bfloat16")
    found = driver.feed({0: tokens})[0]
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), logits.ravel())[0, 1] > 0.99
