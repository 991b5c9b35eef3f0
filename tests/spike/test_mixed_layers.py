"""Dense and sparse layers in one family, from one file: on torch and JAX, in any order, in the engine, on ranks."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zif_models
from backend.ranks import on_ranks
from backend.test_engine import run
from spike.frameworks import BOTH, ORACLE, TORCH, Framework
from spike.loop import Loop
from spike.shared import COUNT, FRAMEWORKS, PROMPTS, WORK
from zif.conformance import mixed_model
from zif.conformance.mixed_model import ARCHITECTURE
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings

PATTERNS = {
    "DeepSeek: dense layers lead": ("DDSSS", [("D", 2), ("S", 3)]),
    "Llama 4: every other one, of another window": ("dSdSd", [("dS", 2), ("d", 1)]),
}
LAYERS = pytest.mark.parametrize("layers", [layers for layers, _ in PATTERNS.values()], ids=[*PATTERNS])


def config(layers: str) -> dict[str, Any]:
    return {
        "architectures": [ARCHITECTURE], "layers": layers, "num_hidden_layers": len(layers), "vocab_size": 96,
        "hidden_size": 32, "intermediate_size": 40, "moe_intermediate_size": 16, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 5,
    }  # fmt: skip


@cache
def model(layers: str) -> Any:
    return mixed_model.build(config(layers))


@cache
def expected(layers: str) -> tuple[list[list[int]], list[Any]]:
    """(tokens, logits of each step) of the specifications."""
    oracle = Loop(ORACLE, model(layers))
    return oracle.generate(WORK, COUNT, fuse=False), [np.asarray(logits) for logits in oracle.logits]


@pytest.mark.parametrize(("layers", "blocks"), PATTERNS.values(), ids=[*PATTERNS])
def test_layers_repeat_by_their_whole_kind(layers: str, blocks: list[tuple[str, int]]) -> None:
    def letter(kind: Any) -> str:
        name = "D" if kind.experts is None else "S"
        return name.lower() if kind.attention.window else name

    found = [("".join(map(letter, segment.pattern)), segment.count) for segment in model(layers).segments]
    assert found == blocks


@LAYERS
@FRAMEWORKS
def test_tokens_and_logits_are_those_of_the_specification(framework: Framework, layers: str) -> None:
    loop = Loop(framework, model(layers))
    tokens, logits = expected(layers)
    assert loop.generate(WORK, COUNT, fuse=False) == tokens
    for found, wanted in zip(loop.logits, logits, strict=True):
        np.testing.assert_allclose(np.asarray(found)[:3], wanted[:3], rtol=0, atol=1e-4)
    assert len({tuple(row) for row in tokens}) == len(tokens)


@LAYERS
def test_ranks_give_the_tokens_of_one(layers: str) -> None:
    tokens, meeting = on_ranks(2, lambda backend: Loop(TORCH, model(layers), backend=backend).generate(WORK, COUNT))
    assert tokens == [expected(layers)[0]] * 2
    assert meeting.reduced == COUNT * (1 + 2 * len(layers))


def test_the_engine_serves_it_on_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zif_models.ARCHITECTURES, ARCHITECTURE, "zif.conformance.mixed_model")  # type: ignore[arg-type]
    (tmp_path / "config.json").write_text(json.dumps(config("DdSDdS")))
    settings = Settings(
        model=str(tmp_path), load_format="dummy", max_total_tokens=512, page_size=4, dtype="float32",
        chunked_prefill_size=8, max_running_requests=4,
    )  # fmt: skip
    greedy = [SamplingParams(temperature=0, max_tokens=5)] * 3
    prompts = [list(prompt) for prompt in PROMPTS]
    engines = [build_engine(settings, progress=False, backend=framework.backend()) for framework in BOTH]
    on_torch, on_jax = ([answer.tokens for answer in run(engine, prompts, greedy)] for engine in engines)
    assert on_torch == on_jax
    assert [len(tokens) for tokens in on_torch] == [5] * 3
