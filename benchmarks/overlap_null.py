"""Host work hidden behind the device: the median step of the engine on the null device.

    python benchmarks/overlap_null.py --step-ms 5 --host-ms 3

The device takes ``--step-ms`` for a step; the host is kept busy for ``--host-ms`` in each, on top of
what the scheduler and the runner do. In turn, a step takes both together and more; overlapped,
hardly more than the longer of the two.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from zif.messages import EngineRequest
from zif.null.backend import NullBackend, NullOptions
from zif.process.build import build_engine
from zif.sampling.params import SamplingParams
from zif.settings import Settings

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--host-ms", type=float, default=3.0)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    logging.getLogger("zif").setLevel(logging.ERROR)
    figures = {
        "overlapped": measure(args, overlap=True),
        "in turn": measure(args, overlap=False),
    }
    print(json.dumps({"step_ms": args.step_ms, "host_ms": args.host_ms, "median_step_ms": figures}, indent=2))


def measure(args: argparse.Namespace, *, overlap: bool) -> float:
    """Median milliseconds between two steps whose results became known, all requests decoding."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        settings = Settings(
            model=folder, load_format="dummy", max_total_tokens=1 << 16, disable_overlap_schedule=not overlap
        )
        backend = NullBackend(NullOptions(step_ms=args.step_ms))
        engine = build_engine(settings, progress=False, backend=backend)
    schedule = engine.scheduler.schedule

    def busy_schedule() -> Any:
        end = time.perf_counter() + args.host_ms / 1e3
        while time.perf_counter() < end:
            pass
        return schedule()

    engine.scheduler.schedule = busy_schedule  # type: ignore[method-assign]
    params = SamplingParams(temperature=0, max_tokens=args.steps, ignore_eos=True)
    for number in range(args.requests):
        engine.add(EngineRequest(str(number), [number % 500 + 1] * 8, params))
    moments = []
    while engine.has_work:
        engine.step()
        moments.append(time.perf_counter())
    steps = [(after - before) * 1e3 for before, after in pairwise(moments[5:-5])]
    return round(statistics.median(steps), 3)


if __name__ == "__main__":
    main()
