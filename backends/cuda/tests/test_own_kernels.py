"""The backend's own kernels in Triton's interpreter, and what its linears refuse."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zif.contract.opspec import OpRequest

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_agrees_with_float64() -> None:
    script = Path(__file__).with_name("interpret_own_kernels.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "agrees", done.stderr


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "facts", "reason"),
    [
        ("float32", {"format": "dense", "in_features": 1024}, "bfloat16 or float16"),
        ("bfloat16", {"format": "packed", "in_features": 1024}, "dense"),
        ("bfloat16", {"format": "dense", "in_features": 1000}, "multiples of 64"),
    ],
)
@pytest.mark.parametrize("op", ["linear", "logits", "gated_linear"])
def test_refusals(op: str, dtype: str, facts: dict[str, object], reason: str) -> None:
    from zif.portable.triton import Machine, launch
    from zif_cuda.linears import CudaLinears
    from zif_cuda.tuning import Choices

    kernel = next(one for one in CudaLinears(launch, Choices(Machine(132, 232448))).kernels() if one.op == op)
    kind = {"kind": "silu"} if op == "gated_linear" else {}
    assert reason in (kernel.supports(OpRequest.of(op, dtype, **kind, **facts)) or "")  # type: ignore[arg-type]
