"""Every family through the engine: pages that windows leave behind are given back, prefixes are shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.checkpoints import CHECKPOINTS, SERVED, VOCAB, save
from zif.messages import EngineRequest
from zif.process.build import build_engine
from zif.reference.torch import TorchBackend, TorchRuntime
from zif.sampling.params import SamplingParams
from zif.settings import Settings

RNG = np.random.default_rng(5)
SHARED = RNG.integers(1, VOCAB, 17).tolist()
PROMPTS = [SHARED + RNG.integers(1, VOCAB, length).tolist() for length in (2, 19, 5)]
NEW = 12


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_greedy_tokens(name: str, tmp_path: Path) -> None:
    saved = save(name, tmp_path)
    settings = Settings(
        model=str(tmp_path), max_total_tokens=512, page_size=2, chunked_prefill_size=16, dtype="float32",
        context_length=SERVED.get(name),
    )  # fmt: skip
    engine = build_engine(settings, progress=False, backend=TorchBackend(TorchRuntime()))
    for _ in range(2):  # the second time from the prefix cache
        found: dict[str, list[int]] = {}
        for row, prompt in enumerate(PROMPTS):
            found[str(row)] = []
            request = EngineRequest(str(row), prompt, SamplingParams(temperature=0, max_tokens=NEW), ())
            assert engine.add(request) is None
        while engine.has_work:
            for output in engine.step():
                found[output.request_id] += output.token_ids
        expected = [saved.continue_greedily(prompt, NEW, margin=1e-4) for prompt in PROMPTS]
        assert list(found.values()) == expected
