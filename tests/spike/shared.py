"""The models, the work and the loops that the spike's tests share: compiling them takes most of their time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from spike.frameworks import BOTH, ORACLE, Framework
from spike.gemma3_shaped import Gemma3Shaped
from spike.loop import GREEDY, Loop, Sequences
from zif.conformance.latent_model import DeepSeek2Shaped
from zif.sampling.params import SamplingParams

Shaped = Gemma3Shaped | DeepSeek2Shaped
GEMMA, DEEPSEEK = Gemma3Shaped(), DeepSeek2Shaped()
MODELS = pytest.mark.parametrize("model", [GEMMA, DEEPSEEK], ids=lambda model: type(model).__name__)
FRAMEWORKS = pytest.mark.parametrize("framework", BOTH, ids=lambda framework: framework.name)

PROMPTS = ([5, 9, 3, 70, 22, 8, 41], [1, 2], [90, 80, 70, 60, 50, 40, 30, 20, 10, 11, 12, 13])
DRAWN = [GREEDY, SamplingParams(temperature=0.8, seed=11), SamplingParams(temperature=1.1, seed=2**40 + 7)]
WORK = Sequences(PROMPTS, DRAWN, [-1] * 3)
COUNT = 8


@cache
def loop(framework: Framework, model: Shaped) -> Loop:
    """The model with dense weights. Compiled programs are shared by the tests; stale pages are too."""
    return Loop(framework, model)


@cache
def expected(model: Shaped) -> tuple[list[list[int]], list[Any]]:
    """(tokens, logits of each step) of the specifications."""
    oracle = Loop(ORACLE, model)
    return oracle.generate(WORK, COUNT, fuse=False), [np.asarray(logits) for logits in oracle.logits]
