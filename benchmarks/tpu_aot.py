"""What libtpu's compiler makes of serving steps: the table of docs/backends/tpu.md, and how compile time grows.

python benchmarks/tpu_aot.py                  # needs libtpu; no TPU. About five minutes on two cores
"""

from __future__ import annotations

import argparse
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
FRACTIONS = {("Llama-3.1-8B", "v5e:2x4"): "0.985", ("Llama-3.1-8B", "tpu7x:2x2x1"): "0.72"}
PROGRAMS = ("decode-8x*x8x8", "decode-32x*x128x*", "decode-128x*x128x*", "mixed-512x*x128x64")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=["v5e:2x4", "v6e:2x4", "tpu7x:2x2x1"])
    targets = parser.parse_args().targets
    for name, config in MODELS.items():
        for target in targets:
            fraction = FRACTIONS.get((name, target))
            flags = ("--mem-fraction-static", fraction) if fraction else ()
            told = aot(config, target, PROGRAMS, *flags)
            for program in told["programs"]:
                print(json.dumps({"model": name, "target": target, **program}), flush=True)
    for program in ("decode-8x8x8x8", "mixed-64x128x8x64"):
        seconds = {
            layers: min(
                aot(MODELS["Qwen3-0.6B"] | {"num_hidden_layers": layers}, targets[0], (program,))["programs"][0][
                    "compile_s"
                ]
                for _ in range(3)
            )
            for layers in (16, 80)
        }
        print(json.dumps({"program": program, "compile_s": seconds, "ratio": seconds[80] / seconds[16]}), flush=True)


if __name__ == "__main__":
    main()
