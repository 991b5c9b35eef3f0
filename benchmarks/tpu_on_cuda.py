"""JAX on CUDA beside the cuda backend: the same model files, prompts and limits on both, one after the other.

    python benchmarks/tpu_on_cuda.py                            # one GPU, jax[cuda13] and torch: about two minutes
    python benchmarks/tpu_on_cuda.py --on cpu --layers 2 --requests 4    # that it works, without a GPU

Prints a line of JSON a device. Weights are random, in Qwen3-0.6B's shape; the first pass, which compiles, is not
measured. Pallas kernels are for TPUs: what runs here is the JAX reference, which gathers every token's pages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu.workloads import SHAPES

SHAPE = "qwen3-0.6b"
DEVICES = {
    "cuda": (["--device", "cuda"], ["--device", "tpu", "--device-opt", "tpu.platform=cuda"]),
    "cpu": (["--device", "cpu"], ["--device", "tpu", "--device-opt", "tpu.platform=cpu"]),
}


def measured(model: Path, device: list[str], requests: int, limit: float) -> dict[str, Any]:
    """What ``zif bench`` measures on ``device``, in a process of its own."""
    command = [sys.executable, "-m", "zif.cli.main", "bench", str(model), "--load-format", "dummy", *device]
    command += ["--num-prompts", str(requests), "--input-len", "100:512", "--output-len", "128", "--json"]
    command += ["--max-running-requests", "32", "--max-total-tokens", "32768", "--context-length", "1024"]
    # of the GPU's memory JAX would otherwise take three quarters at once
    env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=limit)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    return {**json.loads(done.stdout), "wall_s": time.monotonic() - begin}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=DEVICES, default="cuda")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--layers", type=int, help="fewer layers than the model has, to try it out")
    parser.add_argument("--limit", type=float, default=150, help="seconds for each device")
    args = parser.parse_args()
    config = SHAPES[SHAPE] | {"dtype": "bfloat16"}
    if args.layers is not None:
        config = config | {"num_hidden_layers": args.layers}
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory)
        (model / "config.json").write_text(json.dumps(config))
        for device in DEVICES[args.on]:
            try:
                told = measured(model, device, args.requests, args.limit)
            except subprocess.TimeoutExpired:
                told = {"failed": [f"not done in {args.limit:.0f} s"]}
            print(
                json.dumps({"shape": SHAPE, "device": " ".join(device), "requests": args.requests, **told}), flush=True
            )


if __name__ == "__main__":
    main()
