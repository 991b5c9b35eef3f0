"""Host time of a steady decode step, from schedule to launch and behind it, a JSON line a batch size.

    python benchmarks/host_step.py [--device simulated|null|cuda] [--batch 1 32 256 4096] [--steps 400] [--profile]

The budget from schedule to launch is 200 µs at batch 256. ``simulated`` runs the cuda backend's executables and
fetches on a device that does nothing and is never waited for: what is left is Python. ``null`` checks every rule
of the contract meanwhile, and is slower for it. ``cuda`` is the real thing, of Qwen3-0.6B's shape: there
``launch`` has the driver's time in it, of which ``replay`` is the graph's; ``replay_idle`` is the same while the
graph's last run is over.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import json
import logging
import pstats
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zif.engine.engine import Engine
from zif.engine.launch import Launch, Observer
from zif.messages import EngineRequest
from zif.null.backend import NullBackend, NullOptions
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "float32",
}  # fmt: skip
PROMPT = 64
WARM = 40


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("simulated", "null", "cuda"), default="simulated")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--profile", action="store_true", help="print where the time goes, too")
    args = parser.parse_args(argv)
    logging.getLogger("zif").setLevel(logging.ERROR)
    for batch in args.batch:
        engine = opened(args.device, batch, length(batch, args.steps))
        print(json.dumps({"device": args.device, "batch": batch, **measure(engine, batch, args)}), flush=True)
        engine.close()


def length(batch: int, steps: int) -> int:
    """Tokens of a request that lasts for all that is measured, of ``batch`` that begin a hundred a step."""
    return PROMPT + 2 * WARM + 4 * steps + batch // 64 + 64


def opened(device: str, batch: int, length: int) -> Engine:
    """An engine of random weights that runs ``batch`` requests of so many tokens."""
    common: dict[str, Any] = {"load_format": "dummy", "max_running_requests": batch, "random_seed": 0}
    if device == "cuda":
        from gpu.measuring import open_engine

        return open_engine("qwen3-0.6b", **common)
    backend: Any = NullBackend(NullOptions()) if device == "null" else simulated()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        settings = Settings(model=folder, max_total_tokens=batch * (length + 16), **common)
        return build_engine(settings, progress=False, backend=backend)


def simulated() -> Any:
    """The torch reference with the cuda backend's executables and runtime, on a GPU that does nothing."""
    from dataclasses import replace

    import torch
    from zif_cuda.device import Facts, Pinned
    from zif_cuda.executables import CudaExecutables
    from zif_cuda.runtime import CudaRuntime

    from zif.contract.arrays import tree_map
    from zif.contract.executable import NO_FACTS
    from zif.reference.torch import TorchBackend, TorchRuntime

    class Nothing:
        """An event, and a graph."""

        def record(self) -> None: ...
        def synchronize(self) -> None: ...
        def query(self) -> bool:
            return True

        def replay(self) -> None: ...

    class Device:
        def __init__(self) -> None:
            self.torch = torch.device("cpu")

        def facts(self) -> Facts:
            return Facts((9, 0), 132, 232448)

        def empty(self, nbytes: int) -> torch.Tensor:
            return torch.empty(nbytes, dtype=torch.uint8)

        def pinned(self, nbytes: int) -> Pinned:
            return Pinned(*[self.empty(nbytes)] * 2)

        def event(self) -> Nothing:
            return Nothing()

        def used(self) -> int:
            return 0

        def capture(self, fn: Any) -> tuple[Nothing, Any]:
            return Nothing(), fn()

    class Executables(CudaExecutables):
        """Programs that put out zeros."""

        def compile(
            self, name: str, fn: Any, inputs: Any, outputs: Any, resident: Any, donate: Any = (), facts: Any = NO_FACTS
        ) -> Any:
            def nothing(_: Any, given: Mapping[str, Any]) -> Any:
                return tree_map(made, dict(outputs)), {key: given[key] for key in donate}

            made = TorchRuntime("cpu").zeros
            return super().compile(name, nothing, inputs, outputs, resident, donate, replace(facts, capturable=True))

    device: Any = Device()
    backend: Any = TorchBackend(TorchRuntime("cpu"))
    backend.executables = Executables(device, graphs=True)
    fetches: Any = CudaRuntime(device)
    backend.runtime.fetch = fetches.fetch
    backend.capabilities = replace(backend.capabilities, asynchronous=True, fuse_sampling=True, warm_up=True)
    return backend


def measure(engine: Engine, batch: int, args: argparse.Namespace) -> dict[str, float]:
    """Medians in µs: of ``launch`` from the engine's own figure, of its parts from a run of their own."""
    import random

    rng = random.Random(0)
    most = length(batch, args.steps) - PROMPT
    params = SamplingParams(temperature=0.6, max_tokens=most, ignore_eos=True)
    for number in range(batch):
        prompt = [rng.randrange(500) for _ in range(PROMPT)]
        assert engine.add(EngineRequest(str(number), prompt, params)) is None
    while engine.stats()["num_running"] < batch or engine.stats()["num_waiting"]:
        engine.advance()
    for _ in range(WARM):
        engine.advance()
    launches, steps, wholes = [], [], []
    for _ in range(args.steps):
        begin = time.perf_counter()
        engine.advance()
        wholes.append((time.perf_counter() - begin) * 1e6)
        launches.append(engine._last_launch_ms * 1e3)
        steps.append(engine._last_step_ms * 1e3)
    parts = parts_of(engine, args.steps)
    if args.device == "cuda":
        wait = engine.runner.backend.runtime.synchronize
        parts["replay_idle_us"] = parts_of(engine, args.steps // 4, before=wait)["replay_us"]
    if args.profile:
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(args.steps):
            engine.advance()
        profile.disable()
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(30)
    engine.abort()
    launches.sort()
    wholes.sort()
    of = {"schedule_to_launch": 0.5, "p10": 0.1, "p90": 0.9, "p99": 0.99}
    named = {f"{name}_us": launches[int(len(launches) * share)] for name, share in of.items()}
    named |= {"advance_us": statistics.median(wholes), "advance_p99_us": wholes[int(len(wholes) * 0.99)]}
    return {name: round(value, 1) for name, value in {**named, "step_us": statistics.median(steps), **parts}.items()}


class Last(Observer):
    """Keeps the launch that was made last."""

    launch: Launch

    def launching(self, launch: Launch) -> None:
        self.launch = launch


def program_of(engine: Engine) -> Any:
    """The program that a step runs last, of the next step."""
    last = Last()
    engine.runner.observers.append(last)
    engine.advance()
    engine.runner.observers.remove(last)
    return engine.runner.executable(last.launch.program)


def parts_of(engine: Engine, steps: int, before: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Medians of the calls that a step is made of, in µs; what they call is in them. ``before`` comes before each."""
    spent: dict[str, list[float]] = defaultdict(list)
    runner: Any = engine.runner
    program = program_of(engine)
    graph = getattr(program, "_graph", None)
    named = [
        (engine.scheduler, "schedule"), (runner, "launch"), (program, "stage"), (program, "run"),
        *([(graph, "replay")] if graph is not None else []),
        (runner.backend.runtime, "fetch"), (runner, "collect"), (engine.scheduler, "commit"),
    ]  # fmt: skip
    for owner, name in named:
        fn = getattr(owner, name)

        def timed(*given: Any, fn: Any = fn, name: str = name, **named: Any) -> Any:
            begin = time.perf_counter()
            result = fn(*given, **named)
            spent[name].append((time.perf_counter() - begin) * 1e6)
            return result

        setattr(owner, name, functools.wraps(fn)(timed))
    for _ in range(steps):
        before()
        engine.advance()
    for owner, name in named:
        delattr(owner, name)
    return {f"{name}_us": statistics.median(values) for name, values in spent.items()}


if __name__ == "__main__":
    main()
