"""Tokens a second of an engine in this process."""

from __future__ import annotations

from typing import Any

from gpu.measuring import drive, let_go, open_engine
from gpu.workloads import Turn, say, say_turn
from gpu.workloads import offline as offline_turns
from gpu.workloads import prefill as prefill_turns
from gpu.workloads import shared as shared_turns
from gpu.workloads import single as single_turns
from zif.engine.engine import Engine


def offline(shape: str) -> None:
    """256 requests, in and out uniform in [100, 1024], T = 0.6: two passes with fresh token ids"""
    engine = open_engine(shape)
    for number, turn in enumerate(offline_turns()):
        _measured("offline", engine, shape, number, turn)
    graphs = [program.memory_bytes for program in engine.runner.programs]
    say("graphs", shape=shape, programs=len(graphs), graph_mib=sum(graphs) / 2**20)


def single(shape: str, linear: str = "") -> None:
    """One request, 256 in and 256 out, greedy; single:SHAPE:PROVIDER pins who serves ``linear``"""
    pins = {"kernel": {"linear": linear}} if linear else {}
    engine = open_engine(shape, max_total_tokens=16384, **pins)
    for number, turn in enumerate(single_turns()):
        _measured("single", engine, shape, number, turn, linear=linear)


def prefill(shape: str) -> None:
    """32 prompts of 2048 tokens, one token out"""
    engine = open_engine(shape)
    for number, turn in enumerate(prefill_turns()):
        _measured("prefill", engine, shape, number, turn)


def shared(shape: str) -> None:
    """256 requests that share 2,048 tokens, 64 of their own, 64 out: with the radix cache, without, and the ratio"""
    seconds = {}
    for radix in (True, False):
        engine = open_engine(shape, disable_radix_cache=not radix)
        for number, turn in enumerate(shared_turns()):
            before = engine.stats()["cached_tokens_total"]
            took = drive(engine, turn, f"shared-{radix}-{number}")
            found = (engine.stats()["cached_tokens_total"] - before) / turn.tokens_in
            say_turn("shared", "zif", shape, number, turn, took, radix_cache=radix, found_in_cache=found)
            seconds[radix] = took
        del engine
        let_go()
    say("shared ratio", shape=shape, times_as_fast=seconds[False] / seconds[True])


def _measured(part: str, engine: Engine, shape: str, number: int, turn: Turn, **more: Any) -> None:
    before = engine.stats()
    seconds = drive(engine, turn, f"{part}-{number}")
    after = engine.stats()
    counts = {name: after[f"{name}_total"] - before[f"{name}_total"] for name in ("steps", "retractions")}
    say_turn(part, "zif", shape, number, turn, seconds, **counts, **more)
