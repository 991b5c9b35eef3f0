"""A server under load, as its clients see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu.workloads import say, write_config
from zif.bench.online import online as measure_online
from zif.bench.workload import Workload
from zif.settings import Settings

CONTEXT = 8192
REQUESTS = 40


def online_workload(rate: str, requests: str) -> Workload:
    """Lengths as SGLang's CI draws them for "random 4096/2048" (range ratio 0)."""
    return Workload(
        kind="online",
        num_prompts=int(requests),
        input_len=(1, 4096),
        output_len=(1, 2048),
        request_rate=float(rate),
    )


def online(shape: str, rate: str = "1", requests: str = str(REQUESTS)) -> None:
    """``zif serve`` in a process of its own, Poisson arrivals, in uniform to 4096, out to 2048: online:SHAPE:RATE:COUNT

    Requests stream over HTTP, text is detokenized, by a tokenizer of made-up words that is as large as the vocabulary.
    """
    directory = write_config(shape, tokenizer=True, max_position_embeddings=CONTEXT)
    settings = Settings(
        model=str(directory),
        device="cuda",
        load_format="dummy",
        dtype="bfloat16",
        random_seed=0,
        served_model_name=shape,
    )
    result = measure_online(online_workload(rate, requests), settings)
    figures = {figure.name: figure.values for figure in result.figures}
    say_online("zif", shape, rate, figures["time to first token"], figures["time between tokens"],
               out_tok_s=result.value("output throughput"), seconds=result.value("duration"),
               failed=len(result.errors), errors=result.errors[:2])  # fmt: skip


def say_online(
    engine: str, shape: str, rate: str, first: Sequence[float], between: Sequence[float], **more: Any
) -> None:
    """Print percentiles of milliseconds to the first token and between chunks."""
    shares = {"median": 50, "p90": 90, "p99": 99}
    ttft = {f"ttft_ms_{name}": float(np.percentile(first, share)) for name, share in shares.items()}
    itl = {f"itl_ms_{name}": float(np.percentile(between, share)) for name, share in shares.items()}
    say("online", engine=engine, shape=shape, rate=float(rate), requests=len(first), **ttft, **itl,
        chunks=len(first) + len(between), **more)  # fmt: skip
