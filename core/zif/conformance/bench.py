"""A tiny model on a backend, and what it can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from zif.conformance.answers import Answer, compare, generate, judge
from zif.conformance.tiny import Tiny
from zif.conformance.truth import log_probabilities
from zif.contract.backend import Backend
from zif.engine.engine import Engine
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings

LENGTHS = (3, 70, 18, 41, 1, 64)
NEW = 14
GREEDY = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=2, prompt_logprobs=0)
CLOSE = 2e-3
"""Log-probabilities in float32 closer than this may be ordered either way."""


@dataclass
class Bench:
    """One model on one backend. ``path``: its checkpoint. ``kernel``: pins, an op's kernel each."""

    backend: Backend
    tiny: Tiny
    path: str
    dtype: str
    seed: int = 0
    kernel: Mapping[str, str] = field(default_factory=dict)
    off: list[float] = field(default_factory=list)
    _base: list[Answer] = field(default_factory=list)

    def but(self, **changes: Any) -> Self:
        """The same model otherwise: nothing is known of it."""
        return replace(self, off=[], _base=[], **changes)

    @property
    def close(self) -> float:
        """How far log-probabilities may be apart."""
        return CLOSE if self.dtype == "float32" else self.tiny.narrow

    @property
    def vocab(self) -> int:
        """Token ids that there are."""
        return self.tiny.model.vocab_size

    @property
    def prompts(self) -> list[list[int]]:
        """Of several lengths, none longer than the model's context, less what is generated."""
        rng, longest = np.random.default_rng([5, self.seed]), self.tiny.model.context_length - NEW - 1
        return [rng.integers(3, self.vocab, min(length, longest)).tolist() for length in LENGTHS]

    def engine(self, backend: Any = None, **settings: Any) -> Engine:
        """A fresh engine; with no prefix cache unless ``settings`` say otherwise."""
        own: dict[str, Any] = {"max_total_tokens": 2048, "disable_radix_cache": True, "random_seed": 0} | settings
        made = Settings(model=self.path, load_format="dummy", dtype=self.dtype, kernel=dict(self.kernel), **own)
        backend = backend or self.backend
        return build_engine(made, progress=False, backend=backend, warm_up=False, models=self.tiny.models)

    @property
    def base(self) -> list[Answer]:
        """All prompts together, whole, one step after the other."""
        if not self._base:
            self._base = generate(self.engine(disable_overlap_schedule=True), self.prompts, GREEDY)
        return self._base

    def same(
        self, answers: Sequence[Answer], other: Sequence[Answer] | None = None, *, drawn: bool = False
    ) -> str | None:
        """None if ``answers`` agree with ``other``, or with the base."""
        return compare(self.base if other is None else other, answers, self.close, drawn=drawn, off=self.off)

    def true(self, cache: str | None = None) -> str | None:
        """Prompts in pieces, against the specifications; ``cache``: the format that keys and values are stored in."""
        settings = {"chunked_prefill_size": 16} | ({"kv_cache_dtype": cache} if cache is not None else {})
        engine = self.engine(**settings)
        answers = generate(engine, self.prompts, GREEDY)
        groups = engine.runner.cache.groups if cache is not None else ()
        sequences = [prompt + answer.tokens for prompt, answer in zip(self.prompts, answers, strict=True)]
        truth = log_probabilities(self.tiny.model, self.dtype, sequences, groups)
        close = self.close + max((group.format.error for group in groups), default=0.0)
        return judge(self.prompts, answers, truth, close, self.off)

    def measured(self) -> str:
        """How near log-probabilities were that were compared."""
        return f"log-probabilities within {max(self.off):.2g}" if self.off else ""
