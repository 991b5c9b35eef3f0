"""The cuda backend on one GPU: is it right, and how far is it from what the memory and the matrix units allow?

    python benchmarks/cuda_gpu.py ceilings parity kernels offline:qwen3-0.6b single:qwen3-0.6b trace:qwen3-0.6b:256

Each part prints lines of JSON. Models have random weights in the shape named (qwen3-0.6b or llama-3.1-8b); ``parity``
runs the bundled model. ``peers.py`` runs the same workloads on other engines, and compares.
"""

from __future__ import annotations

import argparse
import importlib
import time
import traceback
from collections.abc import Callable

from gpu.workloads import say

PARTS = {
    "ceilings": "measuring",
    "parity": "kernels",
    "kernels": "kernels",
    "offline": "throughput",
    "single": "throughput",
    "prefill": "throughput",
    "shared": "throughput",
    "joining": "joining",
    "online": "serving",
    "seam": "seam",
    "trace": "tracing",
}
"""Each part is a function of that name in ``gpu/``; what follows it after colons are its arguments."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_purposes()
    )
    parser.add_argument("parts", nargs="+", metavar="PART[:ARGUMENT...]")
    chosen = [part.split(":") for part in parser.parse_args().parts]
    for kind, *_ in chosen:
        if kind not in PARTS:
            parser.error(f"no part {kind!r}: there are {', '.join(PARTS)}")
    import torch
    from gpu.measuring import let_go

    say("machine", gpu=torch.cuda.get_device_name(), torch=torch.__version__, cuda=torch.version.cuda)
    for kind, *arguments in chosen:
        begin = time.monotonic()
        try:
            _part(kind)(*arguments)
        except Exception as error:  # the other parts are measured all the same, and the failure is shown
            traceback.print_exc()
            say("failed", which=kind, arguments=arguments, error=f"{type(error).__name__}: {str(error)[:300]}")
        say("took", which=kind, arguments=arguments, seconds=time.monotonic() - begin)
        let_go()


def _part(kind: str) -> Callable[..., None]:
    return getattr(importlib.import_module(f"gpu.{PARTS[kind]}"), kind)


def _purposes() -> str:
    """A line a part, where what they need is installed."""
    try:
        lines = [f"  {kind:<10} {_part(kind).__doc__.splitlines()[0]}" for kind in PARTS]
    except ImportError as error:
        return f"parts: {', '.join(PARTS)} ({error})"
    return "\n".join(["parts:", *lines])


if __name__ == "__main__":
    main()
