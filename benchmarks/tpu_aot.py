"""What libtpu's compiler makes of serving steps: the table of docs/backends/tpu.md, and how compile time grows.

python benchmarks/tpu_aot.py                  # needs libtpu; no TPU. About ten minutes on two cores
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARED = {"max_position_embeddings": 8192, "hidden_act": "silu", "dtype": "bfloat16", "attention_bias": False}
MODELS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 5e5, "tie_word_embeddings": False, "mlp_bias": False, **SHARED,
    },
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "intermediate_size": 3072, "vocab_size": 151936,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True, **SHARED,
    },
}  # fmt: skip
FRACTIONS = {("Llama-3.1-8B", "v5e:2x4", 1): "0.985"}
PROGRAMS = ("decode-8x*x8x8", "decode-32x*x128x*", "decode-128x*x128x*", "mixed-512x*x128x64")
FOR_COMPILE_TIME = ("decode-8x8x8x8", "mixed-64x128x8x64")


def aot(config: dict[str, Any], target: str, programs: tuple[str, ...], *flags: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "zif.cli.main", "aot", directory, "--device", "tpu", "--target", target]
        command += ["--max-running-requests", "128", "--json", *flags]
        command += [word for program in programs for word in ("--only", program)]
        env = {**os.environ, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        told: dict[str, Any] = json.loads(done.stdout)
        return told


def report(targets: list[str], ranks: list[int]) -> None:
    """A line a program: each model on one device of each target, and on as many as ``ranks`` says."""
    for (name, config), target, size in itertools.product(MODELS.items(), targets, ranks):
        fraction = FRACTIONS.get((name, target, size))
        flags = ("--mem-fraction-static", fraction) if fraction else ()
        told = aot(config, target, PROGRAMS, "--tp-size", str(size), *flags)
        for program in told["programs"]:
            print(json.dumps({"model": name, "target": target, "ranks": size, **program}), flush=True)


def depth(targets: list[str]) -> None:
    """How the time to compile grows from 16 layers to 80: the least of three."""
    for target, program in itertools.product(targets, FOR_COMPILE_TIME):
        seconds: dict[int, float] = {}
        for layers in (16, 80):
            config = MODELS["Qwen3-0.6B"] | {"num_hidden_layers": layers}
            runs = [aot(config, target, (program,), "--tp-size", "1")["programs"][0]["compile_s"] for _ in range(3)]
            seconds[layers] = min(runs)
        ratio = seconds[80] / seconds[16]
        print(json.dumps({"target": target, "program": program, "compile_s": seconds, "ratio": ratio}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=["v5e:2x4", "v6e:2x4", "tpu7x:2x2x1"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--skip-depth", action="store_true", help="leave out how compile time grows with depth")
    args = parser.parse_args()
    report(args.targets, args.ranks)
    if not args.skip_depth:
        depth(args.targets)


if __name__ == "__main__":
    main()
