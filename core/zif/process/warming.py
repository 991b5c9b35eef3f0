"""Everything that is compiled, tuned or measured once, done before anybody waits for it: what ``zif warmup`` runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from zif.contract.errors import ZifError
from zif.engine.engine import Engine
from zif.engine.warmup import warm_up
from zif.messages import EngineRequest
from zif.sampling.params import SamplingParams

TOKENS = 4
"""Made for each request: the first by a prefill step, the others by decode steps."""
LENGTHS = (1, 12, 24, 48, 80, 120, 180, 250, 1500)
"""Of prompts, where they fit; and one of as many tokens as a step takes."""
CROWD = 32
"""Requests that decode while prompts join them: kernels may differ for so many."""
SAMPLERS = {
    "greedy": SamplingParams(temperature=0.0),
    "random": SamplingParams(seed=0),
    "filters": SamplingParams(top_k=40, top_p=0.9, min_p=0.01, seed=0),
    "penalties": SamplingParams(repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, seed=0),
    "bias": SamplingParams(logit_bias={1: 1.0}, seed=0),
    "logprobs": SamplingParams(logprobs=0, seed=0),
    "1 alternative": SamplingParams(logprobs=1, seed=0),
    "5 alternatives": SamplingParams(logprobs=5, seed=0),
    "20 alternatives": SamplingParams(logprobs=20, seed=0),
    "prompt logprobs": SamplingParams(prompt_logprobs=1, seed=0),
    "all of it": SamplingParams(
        top_k=40, top_p=0.9, repetition_penalty=1.1, logprobs=5, prompt_logprobs=5, seed=0
    ),
}  # fmt: skip
"""One of each kind of sampler: kernels differ between them, not between sizes."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What was warmed up, and the seconds that it took."""

    name: str
    seconds: float


class WarmUpFailed(ZifError):
    """A request of the warm-up ended as none should."""


def warm_everything(engine: Engine) -> Iterator[Phase]:
    """Run every decode program, where the backend wants that, prompts of a few lengths alone and beside others, and
    each kind of sampler.

    The backend measures what it has to choose from on the way. Nothing stays in the prefix cache. Raises
    WarmUpFailed with what the engine said.
    """
    begin = time.monotonic()
    engine.runner.tune()
    if engine.runner.backend.capabilities.warm_up:
        warm_up(engine.runner)
        yield Phase("decode steps", time.monotonic() - begin)
    longest = engine.scheduler.max_length - TOKENS - 1
    fits = sorted({length for length in (*LENGTHS, engine.scheduler.config.chunked_prefill_size) if length <= longest})
    begin = time.monotonic()
    for length in fits:
        _run(engine, [[length]], SAMPLERS["greedy"])
    yield Phase("prefill steps", time.monotonic() - begin)
    begin = time.monotonic()
    for length in fits:
        _run(engine, [[fits[0]], [length], [length]], SAMPLERS["greedy"])
    crowd = min(CROWD, engine.scheduler.config.max_running_requests - 1)
    for length in (fits[len(fits) // 2], fits[-1]):
        _run(engine, [[fits[0]] * crowd, [length]], SAMPLERS["greedy"])
    yield Phase("mixed steps", time.monotonic() - begin)
    begin = time.monotonic()
    for params in SAMPLERS.values():
        _run(engine, [[fits[min(1, len(fits) - 1)]]], params)
    yield Phase("samplers", time.monotonic() - begin)


def _run(engine: Engine, waves: Sequence[Sequence[int]], params: SamplingParams) -> None:
    """Prompts of these lengths to their end, each wave of them added a step after the one before."""
    vocab = engine.runner.model.vocab_size
    made = replace(params, max_tokens=TOKENS, ignore_eos=True)
    waiting, number = list(waves), 0
    while waiting or engine.has_work:
        outputs = []
        wave = waiting.pop(0) if waiting else ()
        for length in wave:
            prompt = [(number + at) % vocab for at in range(length)]
            outputs.append(engine.add(EngineRequest(f"warm-up-{number}", prompt, made)))
            number += 1
        outputs += engine.step()
        failed = [output.error for output in outputs if output is not None and output.finish_reason == "error"]
        if failed:
            raise WarmUpFailed(f"a request of the warm-up ended with an error: {failed[0]}")
    engine.flush_cache()  # or the next prompt would be half known
