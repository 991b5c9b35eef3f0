"""Other engines on the workloads of ``cuda_gpu.py``, in the same sitting; and both side by side.

    python benchmarks/cuda_gpu.py offline:llama-3.1-8b single:llama-3.1-8b prefill:llama-3.1-8b | tee zif.jsonl
    python benchmarks/peers.py vllm llama-3.1-8b offline single prefill | tee vllm.jsonl
    python benchmarks/peers.py compare zif.jsonl vllm.jsonl

``vllm SHAPE PART...`` starts vLLM once (written for 0.26, the newest that runs on torch 2.11)
and runs the parts in it, turn by turn: the same token ids and lengths, prefix cache off, no detokenization. ``online``
is a start of its own: the requests of ``online`` in vLLM's own asynchronous engine, without the HTTP server that
zif is measured through, and without text, so what it says is the better for vLLM.
``compare`` reads the JSON lines of both and prints zif / peer; the first turn of each part is taken as its warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpu.workloads import SHAPES, WORKLOADS, Turn, say, say_turn, write_config

FIGURES = {"offline": "out_tok_s", "single": "out_tok_s", "prefill": "in_tok_s"}
"""What each part is about: more is better."""
LATENCIES = ("ttft_ms_median", "itl_ms_median")
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0"}


def vllm(shape: str, parts: list[str], tokenizer: bool) -> None:
    os.environ.update(ENVIRONMENT | {"VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")})
    import vllm

    say("machine", engine="vllm", version=vllm.__version__)
    begin = time.monotonic()
    if "online" in parts:
        asyncio.run(_vllm_online(shape, tokenizer))
    rest = [part for part in parts if part != "online"]
    if not rest:
        return
    from vllm.entrypoints.llm import LLM

    engine = _started(LLM, shape, 4096, tokenizer)
    say("ready", engine="vllm", shape=shape, seconds=time.monotonic() - begin)
    for part in rest:
        for number, turn in enumerate(WORKLOADS[part]()):
            seconds = _vllm_turn(engine, turn)
            say_turn(part, "vllm", shape, number, turn, seconds)


def _started(make: Callable[..., Any], shape: str, context: int, tokenizer: bool) -> Any:
    """An engine without a tokenizer, or, where it does not start without one, with the made-up one."""
    try:
        return make(**_vllm_arguments(shape, context, tokenizer))
    except Exception as error:
        if tokenizer:
            raise
        say("started again", engine="vllm", without_tokenizer=f"{type(error).__name__}: {str(error)[:200]}")
    return make(**_vllm_arguments(shape, context, True))


def _vllm_arguments(shape: str, context: int, tokenizer: bool) -> dict[str, Any]:
    config = SHAPES[shape]
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    directory = write_config(
        shape, tokenizer=True, max_position_embeddings=context, rope_parameters=rope, bos_token_id=1, eos_token_id=2
    )
    return {
        "model": str(directory), "skip_tokenizer_init": not tokenizer, "load_format": "dummy", "dtype": "bfloat16",
        "max_model_len": context, "gpu_memory_utilization": 0.9, "max_num_seqs": 512,
        "max_num_batched_tokens": 16384, "enable_prefix_caching": False, "attention_backend": "FLASH_ATTN",
        "disable_log_stats": True,
    }  # fmt: skip


def _vllm_turn(engine: Any, turn: Turn) -> float:
    """Seconds until all requests of a turn are done."""
    from vllm.sampling_params import SamplingParams

    prompts = [{"prompt_token_ids": prompt} for prompt in turn.prompts]
    params = [
        SamplingParams(temperature=turn.temperature, ignore_eos=True, max_tokens=length, detokenize=False)
        for length in turn.lengths
    ]
    begin = time.perf_counter()
    outputs = engine.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - begin
    made = sum(len(output.outputs[0].token_ids) for output in outputs)
    assert made == turn.tokens_out, f"{made} tokens came, {turn.tokens_out} were asked for"
    return seconds


async def _vllm_online(shape: str, tokenizer: bool) -> None:
    from gpu.serving import CONTEXT, REQUESTS, online_workload, say_online
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    from zif.bench.workload import Request

    def make(**arguments: Any) -> Any:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    engine = _started(make, shape, CONTEXT, tokenizer)
    workload = online_workload("1", str(REQUESTS))
    vocab = SHAPES[shape]["vocab_size"]

    async def send(name: str, request: Request, at: float) -> list[float]:
        """When it was sent, and when each piece of news came."""
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=request.output_len, detokenize=False,
                                output_kind=RequestOutputKind.DELTA)  # fmt: skip
        times = [time.perf_counter()]
        async for _ in engine.generate({"prompt_token_ids": request.prompt}, params, name):
            times.append(time.perf_counter())
        return times

    warm = [send(f"warm-{i}", request, 0.0) for i, request in enumerate(workload.requests(vocab, 0)[:2])]
    await asyncio.gather(*warm)
    start = time.perf_counter()
    requests = workload.requests(vocab, 1)
    sent = [
        send(f"online-{i}", request, start + arrival)
        for i, (request, arrival) in enumerate(zip(requests, workload.arrivals(), strict=True))
    ]
    marks = await asyncio.gather(*sent)
    seconds = time.perf_counter() - start
    first = [(times[1] - times[0]) * 1e3 for times in marks]
    between = [(b - a) * 1e3 for times in marks for a, b in pairwise(times[1:])]
    made = sum(request.output_len for request in requests)
    say_online("vllm", shape, "1", first, between, out_tok_s=made / seconds, seconds=seconds, failed=0)
    engine.shutdown()


def compare(paths: list[Path]) -> list[dict[str, Any]]:
    """A line for each part and shape that zif and a peer both ran; ``ratio`` above 1 is for zif."""
    lines = [line for path in paths for line in _lines(path)]
    found: dict[tuple[str, str, str], float] = {}
    for part, figure in FIGURES.items():
        for line in lines:
            if line["part"] != part or "turn" not in line:
                continue
            key = (part, line["shape"], line["engine"])
            turns = [other[figure] for other in lines if _key(other) == key and other["turn"] > 0]
            if turns:
                found[f"{part} {figure}", line["shape"], line["engine"]] = statistics.median(turns)
    for line in lines:
        if line["part"] == "online":
            for figure in LATENCIES:
                found[f"online {figure}", line["shape"], line["engine"]] = line[figure]
    rows = []
    for (what, shape, engine), peer in found.items():
        ours = found.get((what, shape, "zif"))
        if engine == "zif" or ours is None:
            continue
        ratio = peer / ours if what.startswith("online") else ours / peer
        rows.append({"what": what, "shape": shape, "zif": ours, engine: peer, "ratio": ratio})
    return rows


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in ("part", "shape", "engine"))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The measurements in a file; what else was printed is passed over."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith('{"part"')]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("vllm", help="run parts on vLLM")
    run.add_argument("shape", choices=sorted(SHAPES))
    run.add_argument("parts", nargs="+", choices=[*FIGURES, "online"], metavar="PART")
    run.add_argument("--tokenizer", action="store_true", help="load the made-up tokenizer; without, none is loaded")
    side_by_side = commands.add_parser("compare", help="print zif / peer of what both ran")
    side_by_side.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args()
    if args.command == "vllm":
        vllm(args.shape, args.parts, args.tokenizer)
    else:
        for row in compare(args.files):
            say("ratio", **row)


if __name__ == "__main__":
    main()
