"""The cuda backend on one GPU: is it right, and how far is it from what the memory and the matrix units allow?

    python benchmarks/cuda_h200.py ceilings parity kernels offline:qwen3-0.6b single:qwen3-0.6b trace:qwen3-0.6b:256

Each part prints lines of JSON. Models have random weights in the shape named; ``parity`` runs the bundled model.

``ceilings``        copy bandwidth and bf16 matrix rate of this GPU
``parity``          greedy tokens on cuda, with graphs and without, beside the cpu backend's
``kernels``         decode attention, bytes of keys and values over time
``offline:SHAPE``   256 requests, in and out uniform in [100, 1024], T = 0.6: two passes with fresh token ids
``single:SHAPE``    one request, 256 in and 256 out
``prefill:SHAPE``   32 prompts of 2048 tokens, one token out
``trace:SHAPE:N``   N requests that decode, profiled: time on the device, gaps between steps, kernels by time
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import zif
from zif.engine.build import build_engine
from zif.engine.engine import Engine
from zif.engine.messages import EngineRequest
from zif.sampling.params import SamplingParams
from zif.settings import Settings

COMMON = {"max_position_embeddings": 4096, "hidden_act": "silu", "head_dim": 128, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": COMMON
    | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
       "num_hidden_layers": 28, "num_attention_heads": 16, "vocab_size": 151936, "rms_norm_eps": 1e-6,
       "rope_theta": 1000000.0, "tie_word_embeddings": True},
    "llama-3.1-8b": COMMON
    | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
       "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 128256, "rms_norm_eps": 1e-5,
       "rope_theta": 500000.0, "tie_word_embeddings": False},
}  # fmt: skip
HIGHEST_ID = 10000


def say(part: str, **figures: Any) -> None:
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"part": part, **rounded}), flush=True)


def timed(run: Any, times: int = 20) -> float:
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
    source = torch.empty(4 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = timed(lambda: target.copy_(source), 10)
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = timed(lambda: x @ y, 10)
    say("ceilings", copy_tb_s=2 * source.numel() / copy / 1e9, bf16_tflop_s=2 * 8192**3 / product / 1e9)


def parity() -> None:
    """Greedy tokens in float32, where cpu and cuda can be expected to agree to the last token."""
    prompts = ["Once upon a time", "The little dog", "In the morning, Anna", "A", "They went to the river and"] * 3
    params = SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True)
    for dtype in ("float32", "bfloat16"):
        found = {}
        for device, options in (("cpu", ()), ("cuda", ()), ("cuda", ("cuda.graphs=off",))):
            common = {"dtype": dtype, "random_seed": 0, "max_total_tokens": 8192}
            with zif.LLM(device=device, device_opt=options, progress=False, **common) as llm:
                done = llm.generate(prompts, params)
            found[device, options] = [list(completion.choices[0].token_ids) for completion in done]
        cpu, graphs, eager = found.values()
        agree = sum(a == b for x, y in zip(cpu, graphs, strict=True) for a, b in zip(x, y, strict=True))
        say("parity", dtype=dtype, graphs_equal_eager=graphs == eager, equal_to_cpu=cpu == graphs,
            tokens_equal_to_cpu=agree / sum(map(len, cpu)))  # fmt: skip


def kernels() -> None:
    """Decode attention of 32 query and 8 kv heads of 128, pages of 16, in bf16."""
    from zif.contract.attention import AttentionSpec
    from zif.contract.bind import candidates
    from zif.contract.optable import Ops
    from zif.contract.step import Step, StepShape
    from zif.ops.attention import attention_request
    from zif.plugins import select

    backend = select("cuda").create_backend()
    for seqs, length, query in ((256, 1024, 1), (32, 4096, 1), (1, 1024, 1), (1, 4096, 1), (8, 2048, 2048)):
        spec = AttentionSpec(group="g", q_heads=32, kv_heads=8, head_dim=128, v_head_dim=128, scale=128**-0.5)
        request = attention_request("paged_attention", "bfloat16", spec, 16, "bfloat16")
        pages = seqs * length // 16
        make = {"dtype": torch.bfloat16, "device": "cuda"}
        cache = {"g": {name: torch.randn(1, pages, 16, 8, 128, **make) for name in "kv"}}
        table = torch.randperm(pages, device="cuda").int().reshape(seqs, -1)
        decode = query == 1
        tokens = seqs * query
        ints = {"dtype": torch.int32, "device": "cuda"}
        step = Step(
            tokens=None, positions=None, seqs=torch.arange(seqs, **ints).repeat_interleave(query),
            query_starts=torch.arange(seqs + 1, **ints) * query, kv_lens=torch.full((seqs,), length, **ints),
            pages={"g": table}, num_tokens=torch.tensor([tokens], **ints), logits_at=None,
            shape=StepShape(tokens, seqs, table.shape[1], seqs, decode),
        )  # fmt: skip
        q = torch.randn(tokens, 32, 128, **make)
        for one in candidates(backend.kernels()):
            if one.op != "paged_attention" or one.provider == "torch_reference":
                continue
            refusal = one.supports(request)
            if refusal is not None:
                say("kernels", kernel=str(one), refused=refusal)
                continue
            run = one.make(request, Ops())
            ms = timed(lambda: run(q, cache, 0, step, spec))  # noqa: B023
            figures = {"us": ms * 1e3, "tb_s": 2 * seqs * length * 8 * 128 * 2 / ms / 1e9}
            if not decode:
                figures["tflop_s"] = 4 * seqs * length * length * 32 * 128 / 2 / ms / 1e9
            say("kernels", kernel=str(one), seqs=seqs, length=length, query=query, **figures)


def open_engine(shape: str, **settings: Any) -> Engine:
    begin = time.monotonic()
    directory = Path(tempfile.mkdtemp())
    (directory / "config.json").write_text(json.dumps(SHAPES[shape]))
    given = {"device": "cuda", "load_format": "dummy", "dtype": "bfloat16", "random_seed": 0, **settings}
    engine = build_engine(Settings(model=str(directory), **given), progress=False)
    torch.cuda.synchronize()
    say("ready", shape=shape, seconds=time.monotonic() - begin, cache_tokens=engine.stats()["cache_tokens"])
    return engine


def drive(engine: Engine, prompts: list[list[int]], lengths: list[int], tag: str, temperature: float = 0.6) -> float:
    """Seconds until all are done."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        params = SamplingParams(temperature=temperature, max_tokens=length, ignore_eos=True)
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
    assert made == sum(lengths), f"{made} tokens came, {sum(lengths)} were asked for"
    steps = {kind: [count, round(total, 3)] for kind, (count, total) in spent.items()}
    say("steps", tag=tag, **steps)
    return seconds


def offline(shape: str) -> None:
    rng = random.Random(0)
    first = [[rng.randint(0, HIGHEST_ID) for _ in range(rng.randint(100, 1024))] for _ in range(256)]
    lengths = [rng.randint(100, 1024) for _ in range(256)]
    fresh = random.Random(1)
    second = [[fresh.randint(0, HIGHEST_ID) for _ in prompt] for prompt in first]
    engine = open_engine(shape)
    for turn, prompts in enumerate((first, second)):
        steps = engine.stats()["steps_total"]
        seconds = drive(engine, prompts, lengths, f"{shape}-{turn}")
        say("offline", shape=shape, turn=turn, seconds=seconds, out_tok_s=sum(lengths) / seconds,
            total_tok_s=(sum(lengths) + sum(map(len, prompts))) / seconds,
            steps=engine.stats()["steps_total"] - steps, retractions=engine.stats()["retractions_total"])  # fmt: skip
    graphs = [program.memory_bytes for program in engine.runner.programs]
    say("graphs", shape=shape, programs=len(graphs), graph_mib=sum(graphs) / 2**20)


def single(shape: str, linear: str = "") -> None:
    """``linear``: the only provider of linear, where named."""
    pins = {"kernel": {"linear": linear}} if linear else {}
    engine = open_engine(shape, max_total_tokens=16384, **pins)
    rng = random.Random(0)
    for turn in range(3):
        prompt = [rng.randint(0, HIGHEST_ID) for _ in range(256)]
        seconds = drive(engine, [prompt], [256], f"single-{turn}", temperature=0.0)
        say("single", shape=shape, linear=linear, turn=turn, tok_s=256 / seconds, ms_per_token=seconds / 256 * 1e3)


def prefill(shape: str) -> None:
    engine = open_engine(shape)
    rng = random.Random(0)
    for turn in range(3):
        prompts = [[rng.randint(0, HIGHEST_ID) for _ in range(2048)] for _ in range(32)]
        seconds = drive(engine, prompts, [1] * 32, f"prefill-{turn}")
        say("prefill", shape=shape, turn=turn, tok_s=32 * 2048 / seconds)


def trace(shape: str, requests: int) -> None:
    """40 decode steps of ``requests`` requests behind prompts of 512."""
    engine = open_engine(shape)
    rng = random.Random(0)
    for number in range(requests):
        params = SamplingParams(temperature=0.6, max_tokens=400, ignore_eos=True)
        prompt = [rng.randint(0, HIGHEST_ID) for _ in range(512)]
        assert engine.add(EngineRequest(f"trace-{number}", prompt, params, ())) is None
    for _ in range(80):
        engine.step()
    host, launch = [], []
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(40):
        before = time.perf_counter()
        engine.step()
        host.append(time.perf_counter() - before)
        launch.append(engine.stats()["last_launch_ms"])
    torch.cuda.synchronize()
    per_step = (time.perf_counter() - begin) / 40
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(40):
            engine.step()
        torch.cuda.synchronize()
    events = sorted(
        ((e.time_range.start, e.time_range.end, e.name) for e in profile.events() if e.device_type.name == "CUDA"),
    )
    busy, spent, gaps, last = 0.0, defaultdict(float), [], None
    for start, end, name in events:
        if last is not None and start > last:
            gaps.append(start - last)
        if last is None or end > last:
            busy += end - (start if last is None else max(start, last))
            last = end
        spent[name[:70]] += end - start
    span = events[-1][1] - events[0][0]
    gaps.sort(reverse=True)
    say("trace", shape=shape, requests=requests, ms_per_step=per_step * 1e3, launch_ms=statistics.median(launch),
        traced_ms_per_step=span / 40e3, busy_ms_per_step=busy / 40e3, gaps_us_per_step=(span - busy) / 40,
        largest_gaps_us=[round(gap, 1) for gap in gaps[:40:4]], events_per_step=len(events) / 40)  # fmt: skip
    for name, total in sorted(spent.items(), key=lambda item: -item[1])[:16]:
        say("kernel", shape=shape, requests=requests, name=name, us_per_step=total / 40)


PARTS = {"ceilings": ceilings, "parity": parity, "kernels": kernels, "offline": offline, "single": single,
         "prefill": prefill, "trace": lambda shape, n: trace(shape, int(n))}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", metavar="PART")
    name = torch.cuda.get_device_name()
    say("machine", gpu=name, torch=torch.__version__, cuda=torch.version.cuda)
    for part in parser.parse_args().parts:
        kind, *arguments = part.split(":")
        begin = time.monotonic()
        try:
            PARTS[kind](*arguments)  # type: ignore[operator]
        except Exception as error:  # the other parts are measured all the same, and the failure is shown
            import traceback

            traceback.print_exc()
            say("failed", which=part, error=f"{type(error).__name__}: {str(error)[:300]}")
        say("took", which=part, seconds=time.monotonic() - begin)
        import gc

        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
