"""Laws that hold on a backend whatever the model, each shown by running an engine.

**Metamorphic**: a change that must not matter does not. Two tiny models with random weights, one with full attention
and biases, one with windows and soft-caps, continue the same prompts in two ways. Tokens must be the same. Where
rounding could decide, because the two most likely tokens are closer than the arithmetic, a sequence may part there
and is not followed further.

**True**: tiny models of every kind say what the float64 specifications do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from zif.conformance import variants
from zif.conformance.answers import generate
from zif.conformance.bench import GREEDY, LENGTHS, Bench
from zif.conformance.blame import Blame
from zif.conformance.results import Recorder
from zif.conformance.scope import EVERYTHING, Scope
from zif.conformance.tiny import FULL, NORMED, TINY, VOCAB, WINDOWS, Tiny
from zif.contract.backend import Backend
from zif.contract.cache import CacheFormat
from zif.contract.kernels import KernelSet
from zif.engine.launch import Launch, Observer
from zif.engine.programs import Forward, Mixed
from zif.sampling.params import SamplingParams

SECTION = "engine"
CROWD = 40
"""Requests of the check with many: kernels may differ for so many."""
TRUE = "as the specifications say"
Law = Callable[["Laws"], str | None]


def check_engine(
    backend: Backend,
    profiles: tuple[str, ...],
    recorder: Recorder,
    formats: Sequence[CacheFormat] = (),
    providers: Sequence[KernelSet] | None = None,
    scope: Scope = EVERYTHING,
) -> None:
    """Record the results of the section ``engine``; the ``formats`` besides dtypes' are tried too."""
    if "llm" not in profiles:
        recorder.add(SECTION, "all", "", "skip", "the plugin does not claim the profile llm")
        return
    dtypes = backend.capabilities.dtypes
    first, *_ = asked = scope.dtypes(dtypes)
    others = tuple(dict.fromkeys(stored.name for stored in formats if stored.name not in dtypes))
    blame = Blame(backend, backend.kernels() if providers is None else providers)
    for tiny in TINY:
        if not set(tiny.profiles) <= set(profiles):
            continue
        with tiny.checkpoint() as path:
            for dtype in asked:
                bench = Laws(backend, tiny, path, dtype, scope.seed)
                case = tiny.name if dtype == first else f"{tiny.name}, {dtype}"
                for name, law in _laws(tiny, narrow=dtype != first, caches=others):
                    if scope.quick and law is not Laws.true:
                        continue
                    if recorder.asks(SECTION, name, case):
                        _check(recorder, blame, name, case, law, bench)


def _laws(tiny: Tiny, *, narrow: bool, caches: Sequence[str]) -> Iterator[tuple[str, Law]]:
    """(name, law) of those that a model is to show."""
    yield TRUE, Laws.true
    if tiny in (FULL, WINDOWS):
        yield from (BOUNDED if narrow else METAMORPHIC).items()
        if not narrow:
            for name in caches:
                yield f"cache in {name}, in pieces and found again = whole", partial(Laws.stored, name=name)
    if tiny is NORMED and not narrow:
        for name in caches:
            yield f"cache in {name}, {TRUE}", partial(Laws.true, cache=name)


def _check(recorder: Recorder, blame: Blame, name: str, case: str, law: Law, bench: Laws) -> None:
    bench.off.clear()
    recorder.check(
        SECTION, name, case, lambda: law(bench), logging.INFO,
        blame=lambda: blame.of(law, bench), measured=bench.measured,
    )  # fmt: skip


class Joined(Observer):
    """The ``most`` sequences of one token that were beside a prompt in one step."""

    most = 0

    def launching(self, launch: Launch) -> None:
        if isinstance(launch.program, Forward | Mixed) and not launch.program.shape.decode:
            self.most = max(self.most, int((launch.inputs["tokens"] < 0).sum()))


class Laws(Bench):
    """Each method is a law: None if it holds, or how it is broken."""

    def chunked(self) -> str | None:
        """Prompts in pieces, beside sequences that decode."""
        engine = self.engine(chunked_prefill_size=16)
        answers = generate(engine, self.prompts, GREEDY)
        steps, pieces = engine.stats()["steps_total"], sum(LENGTHS) // 16
        if steps < pieces:
            return f"{sum(LENGTHS)} prompt tokens took {steps} steps of 16: they were not cut"
        return self.same(answers)

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
        return self.same(pieces, whole)

    def cached(self) -> str | None:
        """The second time, most of each prompt is in the prefix cache."""
        engine = self.engine(disable_radix_cache=False)
        plain = replace(GREEDY, prompt_logprobs=None)
        cold, warm = generate(engine, self.prompts, plain), generate(engine, self.prompts, plain)
        if not any(answer.cached for answer in warm):
            return "nothing was found in the prefix cache"
        return self.same(cold) or self.same(warm)

    def eager(self) -> str | None:
        """No executables, no buffers that persist, no captured graph."""
        return self.same(generate(self.engine(variants.eager(self.backend)), self.prompts, GREEDY))

    def other_pages(self) -> str | None:
        """After other traffic, whose ends leave the free pages in another order."""
        engine = self.engine()
        rng = np.random.default_rng(9)
        others = [rng.integers(3, VOCAB, int(length)).tolist() for length in rng.integers(1, 60, 7)]
        lengths = [SamplingParams(temperature=0, max_tokens=int(n), ignore_eos=True) for n in rng.integers(1, 20, 7)]
        generate(engine, others, lengths)
        return self.same(generate(engine, self.prompts[::-1], GREEDY)[::-1])

    def overlapped(self) -> str | None:
        """The host runs a step ahead of what it knows."""
        return self.same(generate(self.engine(variants.overlapped(self.backend)), self.prompts, GREEDY))

    def alone(self) -> str | None:
        """Each prompt in an engine that has nothing else to do."""
        engine = self.engine()
        return self.same([generate(engine, [prompt], GREEDY)[0] for prompt in self.prompts])

    def drawn_inside(self) -> str | None:
        """Requests without log-probabilities, whose tokens a backend may draw in the program of the step; in pieces."""
        plain = replace(GREEDY, logprobs=None, prompt_logprobs=None)
        return self.same(generate(self.engine(chunked_prefill_size=16), self.prompts, plain))

    def poisoned(self) -> str | None:
        """Whatever no token was written to holds NaN."""
        engine = self.engine()
        variants.poison(engine, self.backend)
        return self.same(generate(engine, self.prompts, GREEDY))

    def page_sizes(self) -> str | None:
        """The largest and the smallest page that the backend takes."""
        sizes = self.backend.capabilities.page_sizes or (1, 32)
        for size in {min(sizes), max(sizes)}:
            if fault := self.same(generate(self.engine(page_size=size), self.prompts, GREEDY)):
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
        return self.same(alone, together, drawn=True)

    def retracted(self) -> str | None:
        """Too few pages for all: some sequences give theirs up and begin anew."""
        page = self.backend.capabilities.page_sizes or (4,)
        engine = self.engine(
            page_size=min(page), max_total_tokens=max(112, 8 * min(page)), schedule_conservativeness=0.1
        )
        plain = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2)
        prompts = [prompt[:20] for prompt in self.prompts]
        tight = generate(engine, prompts, plain)
        if not engine.stats()["retractions_total"]:
            return "the pages sufficed for all: nothing was retracted"
        return self.same(tight, generate(self.engine(), prompts, plain))

    def stored(self, name: str) -> str | None:
        """A cache of another format, NaN where nothing was written; prompts in pieces, and the second time cached."""
        plain = replace(GREEDY, prompt_logprobs=None)
        whole = generate(self.engine(kv_cache_dtype=name), self.prompts, plain)
        engine = self.engine(kv_cache_dtype=name, chunked_prefill_size=16, disable_radix_cache=False)
        variants.poison(engine, self.backend)
        for _ in range(2):
            answers = generate(engine, self.prompts, plain)
            if fault := self.same(answers, whole):
                return fault
        return None if any(answer.cached for answer in answers) else "nothing was found in the prefix cache"


METAMORPHIC: dict[str, Law] = {
    "chunked prefill = whole": Laws.chunked,
    "joining a crowd = whole": Laws.crowded,
    "cache hit = cold": Laws.cached,
    "compiled = eager": Laws.eager,
    "other pages": Laws.other_pages,
    "overlapped = in turn": Laws.overlapped,
    "together = alone": Laws.alone,
    "drawn in the step = after it": Laws.drawn_inside,
    "NaN in unused pages": Laws.poisoned,
    "page sizes": Laws.page_sizes,
    "seeded draws, together = alone": Laws.drawn,
    "retracted = undisturbed": Laws.retracted,
}
BOUNDED = {
    name: METAMORPHIC[name]
    for name in ("chunked prefill = whole", "cache hit = cold", "together = alone", "retracted = undisturbed")
}
"""Those that are shown in narrower dtypes too, within a bound that is told."""
