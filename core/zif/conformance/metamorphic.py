"""Metamorphic tests of the engine on a backend: a change that must not matter, and does not.

Two tiny models with random weights, one with full attention and biases, one with windows and soft-caps,
continue the same prompts in two ways. Tokens must be the same. Where rounding could decide, because
the two most likely tokens are closer than the arithmetic, a sequence may part there and is not
followed further.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zif.conformance import variants
from zif.conformance.results import Recorder
from zif.contract.backend import Backend
from zif.contract.cache import CacheFormat
from zif.engine.engine import Engine
from zif.engine.launch import Launch, Observer
from zif.engine.programs import Forward, Mixed
from zif.messages import EngineRequest, TokenLogprob
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings

SECTION = "engine"
VOCAB = 256
_COMMON = {
    "vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "full attention": _COMMON
    | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu"},
    "windows and soft-caps": _COMMON
    | {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 24, "query_pre_attn_scalar": 64, "attn_logit_softcapping": 20.0,
        "final_logit_softcapping": 15.0, "tie_word_embeddings": True,
    },
}  # fmt: skip
LENGTHS = (3, 70, 18, 41, 1, 64)
CROWD = 40
"""Requests of the check with many: kernels may differ for so many."""
GREEDY = SamplingParams(temperature=0, max_tokens=14, ignore_eos=True, logprobs=2, prompt_logprobs=0)
CLOSE = {"float32": 2e-3}
"""Log-probabilities closer than this may be ordered either way; 0.2 for narrower dtypes."""


@dataclass
class Answer:
    """What one request got."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt: list[float] = field(default_factory=list)
    cached: int = 0


def check_engine(
    backend: Backend, profiles: tuple[str, ...], recorder: Recorder, formats: Sequence[CacheFormat] = ()
) -> None:
    """Record the results of the section ``engine``; the ``formats`` besides dtypes' are tried too."""
    if "llm" not in profiles:
        recorder.add(SECTION, "all", "", "skip", "the plugin does not claim the profile llm")
        return
    dtypes = backend.capabilities.dtypes
    dtype = "float32" if "float32" in dtypes else dtypes[0]
    for model, config in MODELS.items():
        with _checkpoint(config) as path:
            bench = Bench(backend, path, dtype)
            checks: dict[str, Callable[[], str | None]] = {
                "chunked prefill = whole": bench.chunked,
                "joining a crowd = whole": bench.crowded,
                "cache hit = cold": bench.cached,
                "compiled = eager": bench.eager,
                "other pages": bench.other_pages,
                "overlapped = in turn": bench.overlapped,
                "together = alone": bench.alone,
                "drawn in the step = after it": bench.drawn_inside,
                "NaN in unused pages": bench.poisoned,
                "page sizes": bench.page_sizes,
                "seeded draws, together = alone": bench.drawn,
                "retracted = undisturbed": bench.retracted,
            }
            for name in dict.fromkeys(stored.name for stored in formats if stored.name not in dtypes):
                checks[f"cache in {name}, in pieces and found again = whole"] = partial(bench.stored, name)
            for name, test in checks.items():
                if recorder.wants(SECTION, name):
                    recorder.check(SECTION, name, model, test, logging.INFO)


class Joined(Observer):
    """The ``most`` sequences of one token that were beside a prompt in one step."""

    most = 0

    def launching(self, launch: Launch) -> None:
        if isinstance(launch.program, Forward | Mixed) and not launch.program.shape.decode:
            self.most = max(self.most, int((launch.inputs["tokens"] < 0).sum()))


class Bench:
    """One model on one backend; each test compares two ways of running it."""

    def __init__(self, backend: Backend, path: str, dtype: str) -> None:
        self._backend = backend
        self._path = path
        self._dtype = dtype
        self._close = CLOSE.get(dtype, 0.2)
        rng = np.random.default_rng(5)
        self.prompts: list[list[int]] = [rng.integers(3, VOCAB, length).tolist() for length in LENGTHS]
        self._base: list[Answer] = []

    def engine(self, backend: Any = None, **settings: Any) -> Engine:
        """A fresh engine; with no prefix cache unless ``settings`` say otherwise."""
        own: dict[str, Any] = {"max_total_tokens": 2048, "disable_radix_cache": True, "random_seed": 0} | settings
        made = Settings(model=self._path, load_format="dummy", dtype=self._dtype, **own)
        return build_engine(made, progress=False, backend=backend or self._backend, warm_up=False)

    @property
    def base(self) -> list[Answer]:
        """All prompts together, whole, one step after the other."""
        if not self._base:
            self._base = generate(self.engine(disable_overlap_schedule=True), self.prompts, GREEDY)
        return self._base

    def chunked(self) -> str | None:
        """Prompts in pieces, beside sequences that decode."""
        engine = self.engine(chunked_prefill_size=16)
        answers = generate(engine, self.prompts, GREEDY)
        steps, pieces = engine.stats()["steps_total"], sum(LENGTHS) // 16
        if steps < pieces:
            return f"{sum(LENGTHS)} prompt tokens took {steps} steps of 16: they were not cut"
        return self._same(answers)

    def crowded(self) -> str | None:
        """Prompts in pieces, beside many sequences that decode."""
        rng = np.random.default_rng(11)
        short = [rng.integers(3, VOCAB, 1 + number % 4).tolist() for number in range(CROWD)]
        prompts = [*short, *(prompt for prompt in self.prompts if len(prompt) > 16)]
        plain = replace(GREEDY, prompt_logprobs=None)
        params = [replace(plain, max_tokens=30)] * CROWD + [plain] * (len(prompts) - CROWD)
        room = {"max_total_tokens": 4096, "max_running_requests": CROWD + len(self.prompts)}
        whole = generate(self.engine(**room), prompts, params)
        engine = self.engine(chunked_prefill_size=16, **room)
        joined = Joined()
        engine.runner.observers.append(joined)
        pieces = generate(engine, prompts, params)
        if joined.most < CROWD:
            return f"no prompt joined more than {joined.most} that decode"
        return compare(whole, pieces, self._close)

    def cached(self) -> str | None:
        """The second time, most of each prompt is in the prefix cache."""
        engine = self.engine(disable_radix_cache=False)
        plain = replace(GREEDY, prompt_logprobs=None)
        cold, warm = generate(engine, self.prompts, plain), generate(engine, self.prompts, plain)
        if not any(answer.cached for answer in warm):
            return "nothing was found in the prefix cache"
        return self._same(cold) or self._same(warm)

    def eager(self) -> str | None:
        """No executables, no buffers that persist, no captured graph."""
        return self._same(generate(self.engine(variants.eager(self._backend)), self.prompts, GREEDY))

    def other_pages(self) -> str | None:
        """After other traffic, whose ends leave the free pages in another order."""
        engine = self.engine()
        rng = np.random.default_rng(9)
        others = [rng.integers(3, VOCAB, int(length)).tolist() for length in rng.integers(1, 60, 7)]
        lengths = [SamplingParams(temperature=0, max_tokens=int(n), ignore_eos=True) for n in rng.integers(1, 20, 7)]
        generate(engine, others, lengths)
        return self._same(generate(engine, self.prompts[::-1], GREEDY)[::-1])

    def overlapped(self) -> str | None:
        """The host runs a step ahead of what it knows."""
        return self._same(generate(self.engine(variants.overlapped(self._backend)), self.prompts, GREEDY))

    def alone(self) -> str | None:
        """Each prompt in an engine that has nothing else to do."""
        engine = self.engine()
        return self._same([generate(engine, [prompt], GREEDY)[0] for prompt in self.prompts])

    def drawn_inside(self) -> str | None:
        """Requests without log-probabilities, whose tokens a backend may draw in the program of the step; in pieces."""
        plain = replace(GREEDY, logprobs=None, prompt_logprobs=None)
        return self._same(generate(self.engine(chunked_prefill_size=16), self.prompts, plain))

    def poisoned(self) -> str | None:
        """Whatever no token was written to holds NaN."""
        engine = self.engine()
        variants.poison(engine, self._backend)
        return self._same(generate(engine, self.prompts, GREEDY))

    def page_sizes(self) -> str | None:
        """The largest and the smallest page that the backend takes."""
        sizes = self._backend.capabilities.page_sizes or (1, 32)
        for size in {min(sizes), max(sizes)}:
            if fault := self._same(generate(self.engine(page_size=size), self.prompts, GREEDY)):
                return f"page size {size}: {fault}"
        return None

    def drawn(self) -> str | None:
        """A request's random bits are its own."""
        params = [
            SamplingParams(temperature=0.8, top_p=0.95, seed=seed, max_tokens=8, ignore_eos=True, logprobs=2)
            for seed in range(len(self.prompts))
        ]
        together, engine = generate(self.engine(), self.prompts, params), self.engine()
        alone = [generate(engine, [prompt], own)[0] for prompt, own in zip(self.prompts, params, strict=True)]
        return compare(together, alone, self._close, drawn=True)

    def retracted(self) -> str | None:
        """Too few pages for all: some sequences give theirs up and begin anew."""
        page = self._backend.capabilities.page_sizes or (4,)
        engine = self.engine(
            page_size=min(page), max_total_tokens=max(112, 8 * min(page)), schedule_conservativeness=0.1
        )
        plain = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2)
        prompts = [prompt[:20] for prompt in self.prompts]
        tight = generate(engine, prompts, plain)
        if not engine.stats()["retractions_total"]:
            return "the pages sufficed for all: nothing was retracted"
        return compare(generate(self.engine(), prompts, plain), tight, self._close)

    def stored(self, name: str) -> str | None:
        """A cache of another format, NaN where nothing was written; prompts in pieces, and the second time cached."""
        plain = replace(GREEDY, prompt_logprobs=None)
        whole = generate(self.engine(kv_cache_dtype=name), self.prompts, plain)
        engine = self.engine(kv_cache_dtype=name, chunked_prefill_size=16, disable_radix_cache=False)
        variants.poison(engine, self._backend)
        for _ in range(2):
            answers = generate(engine, self.prompts, plain)
            if fault := compare(whole, answers, self._close):
                return fault
        return None if any(answer.cached for answer in answers) else "nothing was found in the prefix cache"

    def _same(self, answers: list[Answer]) -> str | None:
        return compare(self.base, answers, self._close)


def generate(
    engine: Engine, prompts: Sequence[list[int]], params: SamplingParams | Sequence[SamplingParams]
) -> list[Answer]:
    """Add all prompts at once, and step until they have ended. Raises RuntimeError for one that cannot be served."""
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    answers = [Answer() for _ in prompts]
    for number, (prompt, own) in enumerate(zip(prompts, each, strict=True)):
        refusal = engine.add(EngineRequest(str(number), prompt, own))
        if refusal is not None:
            raise RuntimeError(f"the engine refused a prompt of {len(prompt)} tokens: {refusal.error}")
    while engine.has_work:
        for output in engine.step():
            answer = answers[int(output.request_id)]
            answer.tokens += output.token_ids
            answer.logprobs += output.logprobs or []
            answer.cached = max(answer.cached, output.cached_tokens)
            if output.prompt_logprobs is not None:
                answer.prompt = [entry.logprob for entry in output.prompt_logprobs if entry is not None]
    return answers


def compare(one: Sequence[Answer], other: Sequence[Answer], close: float, *, drawn: bool = False) -> str | None:
    """None if two runs agree: tokens, up to where rounding may decide, and log-probabilities within ``close``, which
    ``other`` may lack.

    ``drawn``: tokens are samples, for which the gap between the likeliest says nothing.
    """
    for number, (first, second) in enumerate(zip(one, other, strict=True)):
        if first.prompt and second.prompt:
            off = np.abs(np.array(first.prompt) - np.array(second.prompt))
            if not (off <= close).all():
                worst = int(np.argmax(np.where(np.isnan(off), np.inf, off))) + 1
                return f"prompt {number}: log-probability of token {worst} is off by {off[worst - 1]:.3g}"
        if len(first.tokens) != len(second.tokens):
            return f"prompt {number}: {len(first.tokens)} tokens and {len(second.tokens)}"
        for place, (a, token) in enumerate(zip(first.logprobs, second.tokens, strict=True)):
            if a.token_id != token:
                gap = a.top[0][1] - a.top[1][1]
                if drawn or not gap <= close:
                    return f"prompt {number}, output {place}: token {a.token_id} and {token} (gap {gap:.3g})"
                break
            b = second.logprobs[place] if second.logprobs else a
            if not abs(a.logprob - b.logprob) <= close:
                return f"prompt {number}, output {place}: log-probability {a.logprob:.5g} and {b.logprob:.5g}"
    return None


@contextmanager
def _checkpoint(config: dict[str, Any]) -> Iterator[str]:
    """A directory with a config and no weights: they are made up."""
    logger = logging.getLogger("zif")
    level = logger.level
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        logger.setLevel(logging.ERROR)  # that the weights are made up is no news here
        try:
            yield folder
        finally:
            logger.setLevel(level)
