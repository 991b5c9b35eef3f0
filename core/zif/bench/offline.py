"""Benchmarks of an engine in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from zif.bench.results import Result
from zif.bench.workload import Request, Workload, check_fits
from zif.llm import LLM
from zif.sampling.params import SamplingParams
from zif.settings import Settings


def throughput(workload: Workload, settings: Settings) -> Result:
    """All requests at once: tokens a second."""
    with _open(settings) as llm:
        if workload.warmup:
            _complete(llm, workload.requests(_vocab(llm), 0), workload)
        result = Result("offline", _facts(llm, workload))
        seconds, tokens_in, tokens_out = _complete(llm, workload.requests(_vocab(llm), 1), workload)
    result.add("requests", "1/s", workload.num_prompts / seconds)
    result.add("input throughput", "tok/s", tokens_in / seconds)
    result.add("output throughput", "tok/s", tokens_out / seconds)
    result.add("duration", "s", seconds)
    return result


def latency(workload: Workload, settings: Settings) -> Result:
    """One request at a time: time to the first token, between tokens, and to the end."""
    with _open(settings) as llm:
        if workload.warmup:
            for request in workload.requests(_vocab(llm), 0)[:2]:
                _timed(llm, request, workload)
        result = Result("latency", _facts(llm, workload))
        requests = workload.requests(_vocab(llm), 1)
        check_fits(requests, llm.frontend.model.context_length)
        marks = [_timed(llm, request, workload) for request in requests]
    gaps = [after - before for times in marks for before, after in pairwise(times[1:])]
    result.add("time to first token", "ms", [(times[1] - times[0]) * 1e3 for times in marks])
    result.add("time between tokens", "ms", [gap * 1e3 for gap in gaps])
    result.add("time of a request", "ms", [(times[-1] - times[0]) * 1e3 for times in marks])
    if gaps:
        result.add("decode", "tok/s", len(gaps) / sum(gaps))
    return result


def shared_prefix(workload: Workload, settings: Settings) -> Result:
    """Requests that share a long prefix, the cache cold at the start: with the prefix cache and without."""
    figures = {}
    facts: dict[str, Any] = {}
    for cached in (True, False):
        with _open(settings.model_copy(update={"disable_radix_cache": not cached})) as llm:
            if workload.warmup:
                _complete(llm, workload.requests(_vocab(llm), 0), workload)
                llm.flush_cache()
            facts = facts or _facts(llm, workload)
            before = llm.stats()["cached_tokens_total"]
            seconds, tokens_in, _ = _complete(llm, workload.requests(_vocab(llm), 1), workload)
            figures[cached] = seconds, (llm.stats()["cached_tokens_total"] - before) / tokens_in
    result = Result("prefix", facts)
    result.add("with the prefix cache", "s", figures[True][0])
    result.add("without it", "s", figures[False][0])
    result.add("times as fast", "ratio", figures[False][0] / figures[True][0])
    result.add("prompt tokens from the cache", "share", figures[True][1])
    return result


@contextmanager
def _open(settings: Settings) -> Iterator[LLM]:
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    with LLM(**given, progress=False) as llm:
        yield llm


def _complete(llm: LLM, requests: Sequence[Request], workload: Workload) -> tuple[float, int, int]:
    """(seconds, prompt tokens, tokens made) of all requests together."""
    check_fits(requests, llm.frontend.model.context_length)
    params = [_params(request, workload) for request in requests]
    start = time.perf_counter()
    done = llm.generate([request.prompt for request in requests], params)
    seconds = time.perf_counter() - start
    made = sum(len(choice.token_ids) for completion in done for choice in completion.choices)
    assert made == sum(request.output_len for request in requests), "a request ended before its length"
    return seconds, sum(len(request.prompt) for request in requests), made


def _timed(llm: LLM, request: Request, workload: Workload) -> list[float]:
    """When a request was sent, and when each of its tokens came."""
    times = [time.perf_counter()]
    for delta in llm.stream(request.prompt, _params(request, workload)):
        times += [time.perf_counter()] * len(delta.token_ids)
    return times


def _params(request: Request, workload: Workload) -> SamplingParams:
    return SamplingParams(temperature=workload.temperature, max_tokens=request.output_len, ignore_eos=True)


def _vocab(llm: LLM) -> int:
    return llm.frontend.model.vocab_size


def _facts(llm: LLM, workload: Workload) -> dict[str, Any]:
    stats = llm.stats()
    return {
        **{name: stats[name] for name in ("model", "device", "dtype", "page_size", "max_running_requests")},
        "num_prompts": workload.num_prompts,
        "input_len": list(workload.input_len),
        "output_len": list(workload.output_len),
        **({"shared_len": workload.shared_len} if workload.kind == "prefix" else {}),
    }
