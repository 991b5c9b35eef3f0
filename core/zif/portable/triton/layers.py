"""Launchers of norms and activations."""

from __future__ import annotations

from typing import Any

import torch

from zif.contract.ops import OpRequest
from zif.portable.triton.device import layers as device
from zif.portable.triton.launching import Launch, ceil_div, floats, power_of_two, warps_for

Tensor = torch.Tensor
MAX_ROW = 32768
"""Longest row that a program keeps in registers."""


def row_fits(kernels: Any, request: OpRequest) -> str | None:
    """``when=`` of norms."""
    if request["size"] > MAX_ROW:
        return f"keeps a row of up to {MAX_ROW} in registers, not {request['size']}"
    return floats(kernels, request)


def kind_known(kernels: Any, request: OpRequest) -> str | None:
    """``when=`` of gated_activation."""
    if request["kind"] not in ("silu", "gelu_tanh"):
        return f"knows silu and gelu_tanh, not {request['kind']}"
    return floats(kernels, request)


def dense_rows(x: Tensor) -> Tensor:
    """``x`` with its last axis of stride 1."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _tile(rows: int, size: int) -> dict[str, int]:
    block = power_of_two(size)
    per_program = max(1, min(2048 // block, power_of_two(rows)))
    return {"ROWS": per_program, "BLOCK": block, "num_warps": warps_for(per_program * block)}


def rms_norm(launch: Launch, x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    """Of x [..., size], whose rows need not be contiguous where it has three axes."""
    shape, size = x.shape, x.shape[-1]
    x = dense_rows(x if x.ndim in (2, 3) else x.reshape(-1, size))
    heads, x_head = (1, 0) if x.ndim == 2 else (x.shape[1], x.stride(1))
    rows = x.shape[0] * heads
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    tile = _tile(rows, size)
    grid = (ceil_div(rows, tile["ROWS"]),)
    launch(device.rms_norm, grid, out, x, weight, rows, heads, size, x.stride(0), x_head, eps, offset, **tile)
    return out


def add_norm(
    launch: Launch, x: Tensor, residual: Tensor, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor]:
    """(norm of x + residual, their sum), all [T, size]."""
    rows, size = x.shape
    x, residual = dense_rows(x), dense_rows(residual)
    out, total = torch.empty((2, rows, size), dtype=x.dtype, device=x.device)
    tile = _tile(rows, size)
    grid = (ceil_div(rows, tile["ROWS"]),)
    strides = (x.stride(0), residual.stride(0))
    launch(device.add_norm, grid, out, total, x, residual, weight, rows, size, *strides, eps, offset, **tile)
    return out, total


def gated_activation(launch: Launch, x: Tensor, kind: str) -> Tensor:
    """[T, 2 size] -> [T, size]."""
    rows, size = x.shape[0], x.shape[1] // 2
    x = dense_rows(x)
    out = torch.empty((rows, size), dtype=x.dtype, device=x.device)
    block = min(power_of_two(size), 1024)
    constants = {"GELU": kind == "gelu_tanh", "BLOCK": block, "num_warps": warps_for(2 * block)}
    launch(device.gated_activation, (rows, ceil_div(size, block)), out, x, size, x.stride(0), **constants)
    return out


def softcap(launch: Launch, x: Tensor, cap: float) -> Tensor:
    """Any shape."""
    x = x.contiguous()
    out = torch.empty_like(x)
    block = min(power_of_two(x.numel()), 2048)
    launch(device.softcap, (ceil_div(x.numel(), block),), out, x, x.numel(), cap, BLOCK=block, num_warps=4)
    return out
