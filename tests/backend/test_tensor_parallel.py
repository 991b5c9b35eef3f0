"""Tensor parallelism, ranks as threads: every family computes on several ranks what it computes on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.checkpoints import CHECKPOINTS, SERVED, VOCAB, Saved, save
from backend.ranks import on_ranks
from zif.engine.build import build_engine
from zif.engine.engine import Engine
from zif.engine.messages import EngineRequest
from zif.reference.torch import TorchBackend, TorchRuntime
from zif.sampling.params import SamplingParams
from zif.settings import Settings

RNG = np.random.default_rng(5)
SHARED = RNG.integers(1, VOCAB, 17).tolist()
PROMPTS = [SHARED + RNG.integers(1, VOCAB, length).tolist() for length in (2, 19, 5)]
NEW = 12
GREEDY = SamplingParams(temperature=0, max_tokens=NEW)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=NEW, seed=11, repetition_penalty=1.1)


def settings_of(saved: Saved, size: int = 1, **values: Any) -> Settings:
    return Settings(
        **{
            "model": str(saved.path), "max_total_tokens": 512, "page_size": 2, "chunked_prefill_size": 16,
            "dtype": "float32", "tp_size": size, **values,
        }
    )  # fmt: skip


def run(engine: Engine) -> list[list[int]]:
    """Greedy and seeded tokens of the prompts, twice: the second time from the prefix cache."""
    tokens: dict[str, list[int]] = {}
    for turn in range(2):
        for kind, params in (("greedy", GREEDY), ("sampled", SAMPLED)):
            for row, prompt in enumerate(PROMPTS):
                tokens[name := f"{kind}-{row}-{turn}"] = []
                assert engine.add(EngineRequest(name, prompt, params, ())) is None
        while engine.has_work:
            for output in engine.step():
                tokens[output.request_id] += output.token_ids
    return list(tokens.values())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_two_ranks_give_the_tokens_of_one(name: str, tmp_path: Path) -> None:
    saved = save(name, tmp_path)
    context = {"context_length": SERVED.get(name)}
    alone = run(build_engine(settings_of(saved, **context), progress=False, backend=TorchBackend(TorchRuntime())))
    both, meeting = on_ranks(
        2, lambda backend: run(build_engine(settings_of(saved, 2, **context), progress=False, backend=backend))
    )
    assert both[0] == alone
    assert both[1] == alone
    assert meeting.reduced
    assert meeting.gathered
