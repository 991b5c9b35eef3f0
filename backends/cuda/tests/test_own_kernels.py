"""The matrix-vector kernel in Triton's interpreter, and compiled for the GPUs it is meant for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zif.contract.ops import OpRequest
from zif_cuda.kernels import CudaKernels

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_agrees_with_float64() -> None:
    script = Path(__file__).with_name("interpret_own_kernels.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "agrees", done.stderr


@needs_triton
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles(capability: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from zif_cuda.device_kernels import matrix_vector

    signature = {"out": "*bf16", "x": "*bf16", "w": "*bf16", "bias": "*bf16", "rows": "i32", "inner": "i32"}
    constants = {"BIAS": True, "BLOCK_N": 4, "BLOCK_K": 512}
    source = ASTSource(matrix_vector, signature | dict.fromkeys(constants, "constexpr"), constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in compiled.asm["ptx"]


@pytest.mark.parametrize(
    ("dtype", "facts", "reason"),
    [
        ("float32", {"format": "dense", "in_features": 1024}, "bfloat16 or float16"),
        ("bfloat16", {"format": "packed", "in_features": 1024}, "dense"),
        ("bfloat16", {"format": "dense", "in_features": 1000}, "multiples of 512"),
    ],
)
def test_refusals(dtype: str, facts: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zif_cuda.kernels.MISSING", None)
    linear = next(one for one in CudaKernels().kernels() if one.op == "linear")
    assert reason in (linear.supports(OpRequest.of("linear", dtype, **facts)) or "")  # type: ignore[arg-type]
