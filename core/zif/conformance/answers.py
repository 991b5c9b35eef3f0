"""What requests got of an engine, and whether two runs agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zif.engine.engine import Engine
from zif.messages import EngineRequest, TokenLogprob
from zif.sampling.params import SamplingParams

A = np.ndarray[Any, Any]


@dataclass
class Answer:
    """What one request got."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt: list[float] = field(default_factory=list)
    cached: int = 0


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


def compare(
    one: Sequence[Answer],
    other: Sequence[Answer],
    close: float,
    *,
    drawn: bool = False,
    off: list[float] | None = None,
) -> str | None:
    """None if two runs agree: tokens, up to where rounding may decide, and log-probabilities within ``close``, which
    ``other`` may lack.

    ``drawn``: tokens are samples, for which the gap between the likeliest says nothing. ``off`` gets by how much each
    log-probability is off.
    """
    off = [] if off is None else off
    for number, (first, second) in enumerate(zip(one, other, strict=True)):
        if first.prompt and second.prompt:
            each = np.abs(np.array(first.prompt) - np.array(second.prompt))
            if not (each <= close).all():
                worst = int(np.argmax(np.where(np.isnan(each), np.inf, each))) + 1
                return f"prompt {number}: log-probability of token {worst} is off by {each[worst - 1]:.3g}"
            off += each.tolist()
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
            off.append(abs(a.logprob - b.logprob))
    return None


def judge(
    prompts: Sequence[Sequence[int]], answers: Sequence[Answer], truth: Sequence[A], close: float, off: list[float]
) -> str | None:
    """None if greedy answers are what ``truth`` says, [tokens, vocab] log-probabilities of prompt and answer.

    Each token has to be the likeliest, or nearer than ``close`` to it, and each log-probability that near.
    """
    for number, (prompt, answer, scored) in enumerate(zip(prompts, answers, truth, strict=True)):
        for place, logprob in enumerate(answer.prompt):
            wanted = float(scored[place, prompt[place + 1]])
            off.append(abs(wanted - logprob))
            if not off[-1] <= close:
                return f"prompt {number} of {len(prompt)} tokens: token {place + 1} has {logprob:.5g}, not {wanted:.5g}"
        for place, (token, told) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
            row = scored[len(prompt) - 1 + place]
            off.append(abs(float(row[token]) - told.logprob))
            if not (off[-1] <= close and row.max() - row[token] <= close):
                best = int(row.argmax())
                return (
                    f"prompt {number} of {len(prompt)} tokens, output {place}: token {token} with {told.logprob:.5g}; "
                    f"by the specifications it has {row[token]:.5g}, and {best} is the likeliest, with {row[best]:.5g}"
                )
    return None
