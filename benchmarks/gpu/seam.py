"""What the seam costs: a step through zif's model file, ops and executables, beside the same kernels called by hand."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from gpu.direct import FIELDS, DirectModel
from gpu.measuring import open_engine
from gpu.workloads import say
from zif.contract.arrays import ArraySpec
from zif.contract.executable import ProgramFacts
from zif.contract.step import HostStep, Step, StepShape
from zif.engine.engine import Engine

CASES = {"decode": (32, 1, 512), "prefill": (8, 512, 512)}
"""Sequences, new tokens of each, and cached tokens with those."""
TURNS = 40
STEPS = {"decode": 10, "prefill": 5}


class Times(NamedTuple):
    """Milliseconds a step: until the host had launched all, until the device was done, and between two events."""

    host: float
    whole: float
    device: float


def seam(shape: str = "qwen3-0.6b") -> None:
    """Eager decode of 32 and eager prefill of 8 × 512 tokens: through zif, and the same kernels by hand: seam:SHAPE"""
    engine = open_engine(shape, device_opt=("cuda.graphs=off",), max_total_tokens=1 << 16)
    for name, (seqs, new, cached) in CASES.items():
        inputs, padded, host = _step(seqs, new, cached, engine.runner.cache)
        through, by_hand = _through(engine, inputs, padded, host), _by_hand(engine, inputs, padded, host)
        for _ in range(3):
            equal = torch.equal(through(), by_hand())
        measured: dict[str, list[Times]] = {"through": [], "by hand": []}
        gc.collect()
        gc.disable()
        for turn in range(TURNS):
            order = [("through", through), ("by hand", by_hand)]
            for which, run in order if turn % 2 else reversed(order):
                measured[which].append(_timed(run, STEPS[name]))
        gc.enable()
        ratios = {}
        for field in Times._fields:
            a, b = ([getattr(times, field) for times in measured[which]] for which in measured)
            ratios[f"{field}_ms"] = [round(statistics.median(a), 4), round(statistics.median(b), 4)]
            ratios[f"{field}_ratio"] = statistics.median(a) / statistics.median(b)
            ratios[f"{field}_paired_ratio"] = statistics.median(x / y for x, y in zip(a, b, strict=True))
        served = {str(choice.kernel) for choice in engine.runner.bound.choices if choice.request.op in
                  ("linear", "gated_linear", "logits", "attention", "paged_attention", "add_norm")}  # fmt: skip
        say("seam", case=name, shape=shape, equal_bits=equal, turns=TURNS, steps=STEPS[name], **ratios,
            kernels=sorted(served))  # fmt: skip


def _timed(run: Callable[[], Any], steps: int) -> Times:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start = time.perf_counter()
    begin.record()
    for _ in range(steps):
        run()
    end.record()
    launched = time.perf_counter()
    torch.cuda.synchronize()
    done = time.perf_counter()
    return Times((launched - start) * 1e3 / steps, (done - start) * 1e3 / steps, begin.elapsed_time(end) / steps)


def _step(seqs: int, new: int, cached: int, cache: Any) -> tuple[dict[str, np.ndarray[Any, Any]], StepShape, HostStep]:
    """A step's host arrays; sequences lie on shuffled pages."""
    layout = next(iter(cache.arrays.values()))["k"]
    num_pages, page_size = layout.shape[1], layout.shape[2]
    rng = np.random.default_rng(0)
    width = -(-cached // page_size)
    order = rng.permutation(np.arange(1, num_pages))[: seqs * width].reshape(seqs, width)
    tokens = seqs * new
    starts = np.arange(seqs + 1) * new
    shape = StepShape(tokens, seqs, width, seqs, decode=new == 1)
    arrays = {
        "tokens": rng.integers(0, 10000, tokens),
        "positions": np.tile(np.arange(cached - new, cached), seqs),
        "seqs": np.repeat(np.arange(seqs), new),
        "query_starts": starts,
        "kv_lens": np.full(seqs, cached),
        "pages": order,
        "num_tokens": np.array([tokens]),
        "logits_at": starts[1:] - 1,
    }
    inputs = {name: arrays[name].astype(np.int32) for name in FIELDS}
    return inputs, shape, HostStep(shape, inputs["query_starts"], inputs["kv_lens"])


def _through(engine: Engine, inputs: Any, shape: StepShape, host: HostStep) -> Callable[[], torch.Tensor]:
    """The model's file over the bound ops, as a program of the backend's executables; planned as the runner does."""
    runner = engine.runner
    model, ops, group = runner.model, runner.bound.ops, runner.model.cache_groups[0].name

    def fn(staged: dict[str, Any], resident: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        step = Step(**{**staged, "pages": {group: staged["pages"]}}, shape=shape)
        x = model.embed(ops, resident["weights"], step)
        x, cache = model.layers(ops, resident["weights"], x, resident["cache"], step)
        logits = model.head(ops, resident["weights"], x if shape.decode else x[step.logits_at], step)
        return {"logits": logits}, {"cache": cache}

    residents = {"weights": runner.residents["weights"].arrays, "cache": runner.cache.arrays}
    specs = {name: ArraySpec(value.shape, "int32") for name, value in inputs.items()}
    logits = {"logits": ArraySpec((shape.logits, model.vocab_size), "float32")}
    facts = ProgramFacts(shape, capturable=False)
    executable = runner.backend.executables.compile("seam", fn, specs, logits, residents, ("cache",), facts)

    def run() -> torch.Tensor:
        for prepare in runner.bound.plans:
            prepare(host)
        outputs, _ = executable.run(executable.stage(inputs), residents)
        return outputs["logits"]

    return run


def _by_hand(engine: Engine, inputs: Any, shape: StepShape, host: HostStep) -> Callable[[], torch.Tensor]:
    """The same, written out, with callables and plans of its own."""
    direct = DirectModel(engine)
    return lambda: direct.run(inputs, shape, host)
