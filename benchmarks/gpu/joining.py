"""What a request that joins costs: the time to its first token, of steps that are captured and of the same op by op."""

from __future__ import annotations

import random
import statistics
import time

from gpu.measuring import let_go, open_engine
from gpu.workloads import HIGHEST_ID, say
from zif.engine.engine import Engine
from zif.messages import EngineRequest
from zif.sampling.params import SamplingParams

SIZES = (16, 60, 128, 256, 500, 1000, 1500)
BESIDE = (32, 128)
"""Requests that decode meanwhile, in the second half."""
REPEATS = 9


def joining(shape: str) -> None:
    """Time to the first token by prompt length, alone and beside 32 and 128 that decode; graphs on and off"""
    tokens = {}
    for graphs in ("on", "off"):
        begin = time.perf_counter()
        engine = open_engine(shape, disable_radix_cache=True, device_opt=(f"cuda.graphs={graphs}",))
        programs = engine.runner.programs
        mixed = sum(program.name.startswith("mixed") for program in programs)
        mib = sum(program.memory_bytes for program in programs) / 2**20
        opened = time.perf_counter() - begin
        say("joining start", shape=shape, graphs=graphs, seconds=opened, programs=len(programs), mixed=mixed, mib=mib)
        tokens[graphs] = _alone(engine, shape, graphs)
        for beside in BESIDE:
            _beside(engine, shape, graphs, beside)
        del engine
        let_go()
    alike = sum(one == other for one, other in zip(tokens["on"], tokens["off"], strict=True))
    say("joining tokens", shape=shape, alike=alike, of=len(tokens["on"]))


def _alone(engine: Engine, shape: str, graphs: str) -> list[int]:
    """The greedy first tokens, which rounding may decide otherwise: random weights are near ties."""
    firsts = []
    for size in SIZES:
        times = []
        for number in range(REPEATS + 2):
            took, token = _first_token(engine, f"{size}-{number}", size)
            times.append(took)
            firsts.append(token)
            _drain(engine)
        say("joining alone", shape=shape, graphs=graphs, prompt=size, first_token_ms=_median_ms(times))
    return firsts


def _beside(engine: Engine, shape: str, graphs: str, beside: int) -> None:
    for size in SIZES:
        for number in range(beside):
            _add(engine, f"beside-{beside}-{size}-{number}", 64, 400, seed=number)
        for _ in range(20):
            engine.step()
        times = []
        for number in range(REPEATS + 2):
            times.append(_first_token(engine, f"late-{beside}-{size}-{number}", size)[0])
            for _ in range(3):
                engine.step()
        say("joining beside", shape=shape, graphs=graphs, beside=beside, prompt=size, first_token_ms=_median_ms(times))
        engine.abort()
        _drain(engine)


def _first_token(engine: Engine, name: str, size: int) -> tuple[float, int]:
    begin = time.perf_counter()
    _add(engine, name, size, 2, seed=size)
    while True:
        for output in engine.step():
            if output.request_id == name and output.token_ids:
                return time.perf_counter() - begin, output.token_ids[0]


def _add(engine: Engine, name: str, size: int, count: int, seed: int) -> None:
    rng = random.Random(f"{name}-{seed}")
    prompt = [rng.randint(0, HIGHEST_ID) for _ in range(size)]
    refused = engine.add(EngineRequest(name, prompt, SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)))
    assert refused is None, refused


def _drain(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


def _median_ms(times: list[float]) -> float:
    """Of all but the first two, in which what is left compiles."""
    return statistics.median(times[2:]) * 1e3
