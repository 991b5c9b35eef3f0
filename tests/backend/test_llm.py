"""``zif.LLM`` as programs and notebooks use it, on the null device: calls, loops, interruptions, endings."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

import zif
from zif import SamplingParams
from zif.contract.errors import EngineDead, InvalidRequest

SHORT = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
ENDLESS = SamplingParams(temperature=0, ignore_eos=True)


def make(step_ms: int = 1, **settings: object) -> zif.LLM:
    """The bundled model's tokenizer and limits, on a device that computes nothing."""
    return zif.LLM(device="null", device_opt=(f"null.step_ms={step_ms}",), max_total_tokens=8192, **settings)


@pytest.fixture(scope="module")
def llm() -> Iterator[zif.LLM]:
    with make() as made:
        yield made


def wait_idle(llm: zif.LLM) -> None:
    while llm.stats()["num_running"] or llm.stats()["num_waiting"]:
        time.sleep(0.005)


def test_a_text_gives_a_completion_and_a_list_gives_a_list(llm: zif.LLM) -> None:
    assert llm.generate("Hello", SHORT).completion_tokens == 5
    both = llm.generate(["Hello", [5, 6, 7]], [SHORT, SamplingParams(max_tokens=2, ignore_eos=True, n=3)])
    assert [len(completion.choices) for completion in both] == [1, 3]
    assert both[1].prompt_ids == [5, 6, 7]
    assert llm.chat([{"role": "user", "content": "Hi"}], SHORT).choices[0].finish_reason == "length"


def test_one_prompt_of_ids_has_to_be_in_a_list(llm: zif.LLM) -> None:
    with pytest.raises(InvalidRequest, match=r"\[\[1, 2, 3\]\]"):
        llm.generate([1, 2, 3], SHORT)  # type: ignore[list-item]


def test_a_stream_left_early_is_aborted(llm: zif.LLM) -> None:
    for _ in llm.stream("Hello", ENDLESS):
        break
    wait_idle(llm)
    assert llm.flush_cache()
    assert llm.stats()["pages_free"] == llm.stats()["pages_total"]


async def test_from_a_running_loop(llm: zif.LLM) -> None:
    completions = await asyncio.gather(*(llm.agenerate(["Hello"], SHORT) for _ in range(4)))
    assert [c[0].completion_tokens for c in completions] == [5] * 4
    assert len([delta async for delta in llm.astream("Hello", SHORT)]) >= 5
    assert llm.generate("Hello", SHORT).completion_tokens == 5  # as a notebook's cell does


def test_an_interrupted_call_aborts_its_requests() -> None:
    with make(step_ms=20) as llm:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["Hello"] * 4, ENDLESS)
        wait_idle(llm)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            for _ in llm.stream("Hello", ENDLESS):
                pass
        wait_idle(llm)
        assert llm.generate("Hello", SHORT).completion_tokens == 5


def test_random_seed_repeats_a_run() -> None:
    def tokens(seed: int) -> list[list[int]]:
        params = SamplingParams(max_tokens=4, n=3, ignore_eos=True, temperature=20.0)
        with zif.LLM(device="cpu", random_seed=seed, max_total_tokens=2048, max_running_requests=4) as llm:
            return [choice.token_ids for choice in llm.generate("Once upon a time", params).choices]

    first = tokens(1)
    assert len({tuple(choice) for choice in first}) == 3
    assert tokens(1) == first
    assert tokens(2) != first


def test_after_close_it_says_so() -> None:
    llm = make()
    llm.close()
    llm.close()
    with pytest.raises(EngineDead, match="closed"):
        llm.generate("Hello", SHORT)
    with pytest.raises(EngineDead, match="closed"):
        llm.stats()


@pytest.mark.parametrize(
    ("option", "reason"),
    [("null.fail_at=20", "run 20 failed"), ("null.hang_at=20", r"no step has ended for 0\.5 s")],
    ids=["fails", "hangs"],
)
def test_a_device_that_breaks_ends_every_call(option: str, reason: str) -> None:
    llm = zif.LLM(device="null", device_opt=(option,), max_total_tokens=8192, watchdog_timeout=0.5)
    deltas = llm.stream("Hello", ENDLESS)
    assert next(deltas).token_ids
    with pytest.raises(EngineDead, match=reason):
        llm.generate(["Hello"] * 3, ENDLESS)
    with pytest.raises(EngineDead, match=reason):
        for _ in deltas:
            pass
    with pytest.raises(EngineDead, match=reason):
        llm.stats()
    llm.close()


def test_one_that_is_dropped_closes_itself() -> None:
    llm = make()
    engine_threads = [t for t in threading.enumerate() if t.name == "zif-engine"]
    dropped = weakref.ref(llm)
    del llm
    gc.collect()
    assert dropped() is None
    assert engine_threads[-1] not in threading.enumerate()


def test_a_program_that_closes_nothing_ends_well() -> None:
    program = """
import zif
llm = zif.LLM(device="cpu", max_total_tokens=2048, max_running_requests=4)
stream = llm.stream("Hello", zif.SamplingParams(ignore_eos=True))
next(stream)
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
    assert ended.stderr == ""


def test_statistics_count_as_completions_do_whatever_is_retracted() -> None:
    settings = {"max_total_tokens": 256, "page_size": 8, "schedule_conservativeness": 0.1}
    with zif.LLM(device="null", device_opt=("null.step_ms=0",), **settings) as llm:
        params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True, n=2)
        prompts = [list(range(5, 25)), list(range(5, 15)), list(range(40, 60))]
        completions = [done for _ in range(3) for done in llm.generate(prompts, params)]
        stats = llm.stats()
    assert stats["retractions_total"] > 0
    assert stats["prompt_tokens_total"] == sum(len(done.prompt_ids) for done in completions) == 150
    assert stats["generation_tokens_total"] == sum(done.completion_tokens for done in completions) == 18 * 60
    assert stats["cached_tokens_total"] == sum(done.cached_tokens for done in completions)
    assert stats["engine_prompt_tokens_total"] == 2 * stats["prompt_tokens_total"]
    assert stats["choices_finished"] == {"length": 18}
