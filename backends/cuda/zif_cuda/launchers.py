"""Launchers of the backend's own kernels: a weight times a single token, and logits made float32."""

from __future__ import annotations

import importlib.util

import torch

MISSING = None if importlib.util.find_spec("triton") is not None else "triton is not installed"
BLOCK_K = 512
"""Least inputs that a program multiplies at a time; their number is a multiple of it."""
WIDEN_BLOCK = 2048


def vector_linear(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """X [1, in], w [out, in], bias [out] -> [1, out]."""
    from zif_cuda.device_kernels import matrix_vector

    rows, inner = w.shape
    outputs, block = _tile(inner)
    x = x.contiguous()
    out = torch.empty((1, rows), dtype=x.dtype, device=x.device)
    matrix_vector[(-(-rows // outputs),)](
        out, x, w, x if bias is None else bias, rows, inner,
        BIAS=bias is not None, BLOCK_N=outputs, BLOCK_K=block, num_warps=4,
    )  # fmt: skip
    return out


def widened(x: torch.Tensor) -> torch.Tensor:
    """x, contiguous, as float32. What torch has for it reaches less than half of the memory's speed."""
    from zif_cuda.device_kernels import widen

    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    widen[(-(-x.numel() // WIDEN_BLOCK),)](out, x, x.numel(), BLOCK=WIDEN_BLOCK, num_warps=4)
    return out


def _tile(inner: int) -> tuple[int, int]:
    """(outputs of a program, inputs at a time): few outputs, so that a small weight keeps every processor busy.

    The best, or within 4 % of it, for the linears of 0.6 and 8 billion parameters (``benchmarks/cuda_linears.py``).
    """
    if inner < 2048:
        return 8, BLOCK_K
    return 4, next(block for block in (2048, 1024, BLOCK_K) if inner % block == 0)
