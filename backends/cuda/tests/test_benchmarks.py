"""The parts of the benchmarks that need no GPU: workloads, gaps between steps, the comparison, and that all import."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    logger = logging.getLogger("zif")
    level = logger.level
    yield
    logger.setLevel(level)  # a benchmark is a program, and quiets it


def test_every_part_says_its_purpose() -> None:
    pytest.importorskip("triton")
    driver = importlib.import_module("cuda_gpu")
    for part in driver.PARTS:
        purpose = driver._part(part).__doc__
        assert purpose is not None and len(purpose.splitlines()[0]) > 20, part


def test_offline_is_the_workload_that_peers_were_measured_with() -> None:
    first, second = importlib.import_module("gpu.workloads").offline()
    assert (first.tokens_in, first.tokens_out) == (142_827, 133_966)
    assert second.lengths == first.lengths
    assert [len(prompt) for prompt in second.prompts] == [len(prompt) for prompt in first.prompts]
    assert second.prompts[0][:9] != first.prompts[0][:9]


def test_shared_prefixes_are_shared_within_a_turn_alone() -> None:
    warm, turn = importlib.import_module("gpu.workloads").shared()
    assert len(turn.prompts) == 256
    assert {len(prompt) for prompt in turn.prompts} == {2112}
    assert len({tuple(prompt[:2048]) for prompt in turn.prompts}) == 1
    assert len({tuple(prompt[2048:]) for prompt in turn.prompts}) == 256
    assert warm.prompts[0][:2048] != turn.prompts[0][:2048]


def test_a_config_has_a_tokenizer_as_large_as_its_vocabulary() -> None:
    from zif.tokenizer import load_tokenizer

    workloads = importlib.import_module("gpu.workloads")
    directory = workloads.write_config("llama-3.1-8b", tokenizer=True, max_position_embeddings=8192)
    assert json.loads((directory / "config.json").read_text())["max_position_embeddings"] == 8192
    tokenizer = load_tokenizer(directory)
    assert tokenizer.decode(tokenizer.encode("any text")) == "any text"
    assert tokenizer.decode([workloads.SHAPES["llama-3.1-8b"]["vocab_size"] - 1]).startswith(" ")


def steps(*, copies_out: bool) -> list[Any]:
    """Three steps of 30 µs; 10 and 20 µs lie between their kernels, of which copies take 3 each."""
    event = importlib.import_module("gpu.tracing").Event
    found, at = [], 0.0
    for pause in (10.0, 20.0, 0.0):
        found.append(event(at - 3, at - 1, "Memcpy HtoD (Pinned -> Device)"))
        found += [event(at, at + 14, "first"), event(at + 12, at + 20, "overlapping"), event(at + 25, at + 30, "last")]
        if copies_out:
            found.append(event(at + 31, at + 32, "Memcpy DtoH (Device -> Pinned)"))
        at += 30 + pause
    return found


def test_gaps_are_those_between_steps_not_those_within() -> None:
    tracing = importlib.import_module("gpu.tracing")
    assert tracing.step_gaps(steps(copies_out=True)) == [(10.0, 7.0), (20.0, 17.0)]
    assert tracing.step_gaps(steps(copies_out=False)) == [(10.0, 8.0), (20.0, 18.0)]


def test_copies_by_kernels_lie_between_steps_too() -> None:
    tracing = importlib.import_module("gpu.tracing")
    kernel = "void at::native::vectorized_elementwise_kernel<2, at::native::BUnaryFunctor<..., BitwiseOrFunctor<long>>>"
    events = [event._replace(name=kernel) if "Memcpy" in event.name else event for event in steps(copies_out=True)]
    within = tracing.Event(21.0, 22.0, "Memcpy DtoD (Device -> Device)")
    assert tracing.step_gaps([*events, within]) == [(10.0, 7.0), (20.0, 17.0)]


def test_comparison_leaves_out_the_first_turn_and_other_output(tmp_path: Path) -> None:
    workloads, peers = importlib.import_module("gpu.workloads"), importlib.import_module("peers")

    def line(engine: str, turn: int, rate: float) -> str:
        return json.dumps({"part": "offline", "engine": engine, "shape": "s", "turn": turn, "out_tok_s": rate})

    assert workloads.WORKLOADS.keys() >= peers.FIGURES.keys()
    ours, theirs = tmp_path / "zif.jsonl", tmp_path / "vllm.jsonl"
    ours.write_text("\n".join(["a log line", line("zif", 0, 1.0), line("zif", 1, 30.0)]))
    online = {"part": "online", "shape": "s", "ttft_ms_median": 60.0, "itl_ms_median": 5.0}
    theirs.write_text(
        "\n".join([line("vllm", 0, 99.0), line("vllm", 1, 20.0), json.dumps(online | {"engine": "vllm"})])
    )
    rows = peers.compare([ours, theirs])
    assert rows == [{"what": "offline out_tok_s", "shape": "s", "zif": 30.0, "vllm": 20.0, "ratio": 1.5}]
    with ours.open("a") as file:
        file.write("\n" + json.dumps(online | {"engine": "zif", "ttft_ms_median": 30.0}))
    ratios = {row["what"]: row["ratio"] for row in peers.compare([ours, theirs])}
    assert ratios == {"offline out_tok_s": 1.5, "online ttft_ms_median": 2.0, "online itl_ms_median": 1.0}


@pytest.mark.parametrize("batch", ["1", "3"])
def test_host_time_of_a_step_is_that_of_captured_decode_steps(batch: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With every program compiled before the first request, as on a GPU: the last one compiled is no step's."""
    driver = importlib.import_module("host_step")
    driver.main(["--batch", batch, "--steps", "8"])
    found = json.loads(capsys.readouterr().out)
    parts = ("schedule", "stage", "replay", "run", "fetch", "launch", "collect", "commit", "step")
    assert all(found[f"{part}_us"] > 0 for part in parts)
    assert found["launch_us"] > found["stage_us"] + found["run_us"] > found["replay_us"]
