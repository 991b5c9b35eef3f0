"""Timing on the device, and an engine driven step by step."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from gpu.workloads import Turn, say, write_config
from zif.engine.engine import Engine
from zif.messages import EngineRequest
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings


def timed(run: Callable[[], Any], times: int = 20) -> float:
    """Milliseconds of one call, on the device."""
    for _ in range(3):
        run()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times


def ceilings() -> None:
    """Copy bandwidth and bf16 matrix rate of this GPU"""
    source = torch.empty(4 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = timed(lambda: target.copy_(source), 10)
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = timed(lambda: x @ y, 10)
    say("ceilings", copy_tb_s=2 * source.numel() / copy / 1e9, bf16_tflop_s=2 * 8192**3 / product / 1e9)


def open_engine(shape: str, **settings: Any) -> Engine:
    """An engine of random weights in this process."""
    begin = time.monotonic()
    given = {"device": "cuda", "load_format": "dummy", "dtype": "bfloat16", "random_seed": 0, **settings}
    engine = build_engine(Settings(model=str(write_config(shape)), **given), progress=False)
    torch.cuda.synchronize()
    gc.collect()
    gc.freeze()  # as where engines run: a collection of a framework's modules takes a tenth of a second
    say("ready", shape=shape, seconds=time.monotonic() - begin, cache_tokens=engine.stats()["cache_tokens"], **settings)
    return engine


def drive(engine: Engine, turn: Turn, tag: str) -> float:
    """Seconds until all requests of a turn are done."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for number, (prompt, length) in enumerate(zip(turn.prompts, turn.lengths, strict=True)):
        params = SamplingParams(temperature=turn.temperature, max_tokens=length, ignore_eos=True)
        refusal = engine.add(EngineRequest(f"{tag}-{number}", prompt, params, ()))
        assert refusal is None, refusal
    made, last = 0, begin
    spent: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    while engine.has_work:
        outputs = engine.step()
        made += sum(len(output.token_ids) for output in outputs)
        now = time.perf_counter()
        launched = engine._in_flight
        mixed = launched is not None and not launched.batch.decode_only
        kind = "prefill" if mixed else f"decode {-(-len(outputs) // 64) * 64}"
        spent[kind][0] += 1
        spent[kind][1] += now - last
        last = now
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    assert made == turn.tokens_out, f"{made} tokens came, {turn.tokens_out} were asked for"
    steps = {kind: [count, round(total, 3)] for kind, (count, total) in spent.items()}
    say("steps", tag=tag, **steps)
    return seconds


def let_go() -> None:
    """Give back the memory of what is not referred to any more."""
    gc.unfreeze()
    gc.collect()
    torch.cuda.empty_cache()
