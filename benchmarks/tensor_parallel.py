"""Tensor parallelism on the GPUs of one host: is it right, what does a collective cost, and what does it gain?

    python benchmarks/tensor_parallel.py                                   # everything, on two GPUs, in about 5 minutes
    python benchmarks/tensor_parallel.py correct:cuda:2 speed:qwen3-0.6b:2 # parts of it
    python benchmarks/tensor_parallel.py broadcast correct:cpu:2           # needs no GPU

Each part is a process of its own, which is ended if it takes too long, and prints lines of JSON. ``correct`` runs the
bundled model, ``speed`` random weights in the shape named, over ``cuda_gpu.py``'s workloads ``single`` and ``offline``.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from gpu.workloads import WORKLOADS, say, say_turn

EVERYTHING = (
    "correct:cuda:2", "collectives:2", "broadcast",
    "speed:qwen3-0.6b:1", "speed:qwen3-0.6b:2", "speed:llama-3.1-8b:1", "speed:llama-3.1-8b:2",
)  # fmt: skip
LIMIT_SECONDS = 150
PROMPTS = ["The capital of France is", "Once upon a time,", "1, 2, 3, 4,", "The quick brown fox", "My name is", "Q:"]


def correct(device: str, ranks: str) -> None:
    """Greedy tokens of the bundled model on ranks and on one device: in float32 they are to be the same."""
    import zif
    from zif import SamplingParams

    cases = [("float32", ""), ("bfloat16", "")]
    if device == "cuda":
        cases = [("float32", "on"), ("float32", "off"), ("bfloat16", "on")]
    params = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
    for dtype, graphs in cases:
        options = (f"cuda.graphs={graphs}",) if graphs else ()
        tokens = []
        for size in (1, int(ranks)):
            begin = time.monotonic()
            with zif.LLM(
                device=device, device_opt=options, tp_size=size, dtype=dtype, max_total_tokens=8192,
                max_running_requests=8, progress=False, log_level="warning",
            ) as llm:  # fmt: skip
                ready = time.monotonic() - begin
                twice = [llm.generate(PROMPTS, params) for _ in range(2)]
                tokens.append([completion.choices[0].token_ids for turn in twice for completion in turn])
        differ = [_first_difference(*pair) for pair in zip(*tokens, strict=True)]
        say("correct", device=device, ranks=int(ranks), dtype=dtype, graphs=graphs, equal=tokens[0] == tokens[1],
            first_differences=differ, ready_seconds=ready)  # fmt: skip


def speed(shape: str, ranks: str) -> None:
    """Tokens a second: one request, and 256."""
    from gpu.measuring import drive, open_engine

    engine = open_engine(shape, tp_size=int(ranks))
    for part in ("single", "offline"):
        for number, turn in enumerate(WORKLOADS[part]()):
            seconds = drive(engine, turn, f"{part}-{number}")
            launch = engine.stats()["last_launch_ms"]
            say_turn(part, "zif", shape, number, turn, seconds, ranks=int(ranks), last_launch_ms=launch)
    engine.close()


def collectives(ranks: str) -> None:
    """Microseconds of an all-reduce and an all-gather inside a graph, at the sizes of decode steps."""
    store = tempfile.mkdtemp(prefix="ranks-")
    command = [sys.executable, __file__, "--rank"]
    others = [subprocess.Popen([*command, str(rank), "--store", store, "--of", ranks]) for rank in range(1, int(ranks))]
    _time_collectives(0, int(ranks), store)
    for other in others:
        other.wait()


def _time_collectives(rank: int, size: int, store: str) -> None:
    import torch
    from zif_cuda.communicator import NcclCommunicator
    from zif_cuda.device import CudaDevice

    from zif.contract.comm import Group
    from zif.contract.info import Device

    devices = tuple(Device(name="gpu", index=index) for index in range(size))
    comm = NcclCommunicator(CudaDevice(rank), Group(rank, devices, store))
    times = 50
    cases: list[tuple[str, tuple[int, int], torch.dtype, Callable[[Any], Any]]] = [
        ("all_reduce", (tokens, hidden), torch.bfloat16, comm.all_reduce)
        for hidden in (1024, 4096) for tokens in (1, 8, 64, 256, 2048)
    ]  # fmt: skip
    cases += [
        ("all_gather", (tokens, vocab // size), torch.float32, comm.all_gather)
        for vocab in (151936, 128256) for tokens in (1, 256)
    ]  # fmt: skip
    for name, shape, dtype, run in cases:
        x = torch.zeros(shape, dtype=dtype, device="cuda")
        run(x)
        stream = torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(times):
                run(x)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(3):
            graph.replay()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if rank == 0:
            moved = x.numel() * x.element_size()
            microseconds = begin.elapsed_time(end) * 1e3 / times
            say("collective", op=name, ranks=size, shape=shape, dtype=str(dtype), microseconds=microseconds,
                gb_s=moved / microseconds / 1e3)  # fmt: skip
        del graph
    torch.cuda.synchronize()
    comm.close()


def broadcast() -> None:
    """Microseconds that telling followers of a decode step of 256 sequences takes the leading rank."""
    import numpy as np

    from zif.contract.step import HostStep, StepShape
    from zif.engine.launch import Launch
    from zif.engine.programs import Decode
    from zif.parallel.leader import Followers
    from zif.parallel.wire import LaunchWriter
    from zif.sampling.sampler import SamplerShape

    shape = StepShape(256, 256, 256, 256, decode=True)
    program = Decode(shape, SamplerShape(256, random=True))
    column = np.arange(256, dtype=np.int32)
    inputs = dict.fromkeys(("rows", "tokens", "page_rows", "page_indices", "page_ids.full"), column)
    inputs["num_tokens"] = column[:1]
    launch = Launch(program, inputs, step=HostStep(shape, np.arange(257, dtype=np.int32), column))
    drain = "import sys; from multiprocessing.connection import Connection; pipe = Connection(int(sys.argv[1]))\n"
    drain += "while len(pipe.recv_bytes()) > 9: pass"
    for count in (1, 3, 7):
        followers = Followers.__new__(Followers)  # its pipes, without ranks at their other ends
        followers._writer = LaunchWriter()
        followers._pipes, processes = [], []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            processes.append(
                subprocess.Popen([sys.executable, "-c", drain, str(theirs.fileno())], pass_fds=[theirs.fileno()])
            )
            theirs.close()
            followers._pipes.append(Connection(ours.detach()))
        took = []
        for _ in range(400):
            begin = time.perf_counter()
            followers.launching(launch)
            took.append(time.perf_counter() - begin)
            time.sleep(1e-3)  # a step
        followers._tell(0)
        for process in processes:
            process.wait()
        ordered = sorted(took[100:])
        say("broadcast", followers=count, median_us=ordered[150] * 1e6, p95_us=ordered[285] * 1e6)


def _first_difference(one: Any, other: Any) -> int | None:
    return next((at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), None)


def _in_a_process(part: str) -> None:
    """Run a part, and end it and its ranks where it does not end by itself, or this process is ended."""
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, __file__, "--here", part], start_new_session=True)
    try:
        code: Any = process.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        code = f"still running after {LIMIT_SECONDS} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    say("took", which=part, seconds=time.monotonic() - begin, ended=code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=EVERYTHING, metavar="PART[:ARGUMENT...]")
    parser.add_argument("--here", action="store_true", help="run the parts in this process")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--of", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is not None:
        _time_collectives(given.rank, given.of, given.store)
        return
    if not given.here:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for part in given.parts:
        kind, *arguments = part.split(":")
        if given.here:
            {"correct": correct, "speed": speed, "collectives": collectives, "broadcast": broadcast}[kind](*arguments)
        else:
            _in_a_process(part)


if __name__ == "__main__":
    main()
