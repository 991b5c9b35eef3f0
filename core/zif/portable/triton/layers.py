"""Launchers of norms, sums and activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from zif.contract.form import Form
from zif.contract.opspec import OpRequest
from zif.portable.triton.device import layers as device
from zif.portable.triton.launching import Launch, ceil_div, floats, power_of_two, warps_for

Tensor = torch.Tensor
MAX_ROW = 32768
"""Longest row that a program keeps in registers."""


@dataclass(frozen=True, slots=True)
class SplitSum:
    """A linear's result before its last addition: ``parts`` [splits, T, size] float32, whose sum is of ``dtype``.

    What normalises it, or adds it to something, adds the parts on the way: a pass over memory less.
    """

    parts: Tensor
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return self.parts.shape[1:]


SPLIT_SUM = Form("split_sum", SplitSum)


@dataclass(frozen=True, slots=True)
class Unnormed:
    """A token's activation that its reader is to add up and normalise: what ``add_norm`` was asked for, not yet done.

    ``x`` [1, size] and ``residual`` [1, size] are summed into ``total`` [1, size] by whoever reads it first.
    """

    x: Tensor | SplitSum
    residual: Tensor
    total: Tensor
    weight: Tensor
    eps: float
    offset: float

    @property
    def shape(self) -> torch.Size:
        return self.total.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.total.dtype

    def arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(total, x in its parts, residual, weight), as kernels take them."""
        return self.total, _parts_of(self.x)[0], self.residual, self.weight

    @property
    def parts(self) -> int:
        return _parts_of(self.x)[1]["PARTS"]

    def normed(self, launch: Launch) -> Tensor:
        """The activation itself, for a reader that takes no other."""
        out = torch.empty_like(self.total)
        _add_norm(launch, out, self.total, self.x, self.residual, self.weight, self.eps, self.offset)
        return out


UNNORMED = Form("unnormed", Unnormed)


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


def _parts_of(x: Tensor | SplitSum) -> tuple[Tensor, dict[str, int]]:
    """(x [T, size], or its first part, with rows of stride 1; how many parts lie one behind the other)."""
    if isinstance(x, SplitSum):
        return x.parts[0], {"PARTS": x.parts.shape[0]}
    return dense_rows(x), {"PARTS": 1}


def rms_norm(launch: Launch, x: Tensor | SplitSum, weight: Tensor, eps: float, offset: float) -> Tensor:
    """Of x [..., size], whose rows need not be contiguous where it has three axes."""
    shape, size, dtype = x.shape, x.shape[-1], x.dtype
    read, parts = _parts_of(x.reshape(-1, size) if isinstance(x, Tensor) and x.ndim not in (2, 3) else x)
    heads, x_head = (1, 0) if read.ndim == 2 else (read.shape[1], read.stride(1))
    rows = read.shape[0] * heads
    out = torch.empty(shape, dtype=dtype, device=read.device)
    tile = _tile(rows, size) | parts
    grid = (ceil_div(rows, tile["ROWS"]),)
    launch(device.rms_norm, grid, out, read, weight, rows, heads, size, read.stride(0), x_head, eps, offset, **tile)
    return out


def add_norm(
    launch: Launch, x: Tensor | SplitSum, residual: Tensor, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor]:
    """(norm of x + residual, their sum), all [T, size]."""
    out, total = torch.empty((2, *x.shape), dtype=x.dtype, device=residual.device)
    _add_norm(launch, out, total, x, residual, weight, eps, offset)
    return out, total


def unnormed(x: Tensor | SplitSum, residual: Tensor, weight: Tensor, eps: float, offset: float) -> Unnormed:
    """As ``add_norm`` of one token, left to its reader."""
    assert residual.shape[0] == 1
    return Unnormed(x, residual, torch.empty_like(residual), weight, eps, offset)


def _add_norm(
    launch: Launch, out: Tensor, total: Tensor, x: Tensor | SplitSum, residual: Tensor, weight: Tensor, eps: float,
    offset: float,
) -> None:  # fmt: skip
    """Into ``out`` and ``total``."""
    rows, size = x.shape
    residual = dense_rows(residual)
    read, parts = _parts_of(x)
    tile = _tile(rows, size) | parts
    grid = (ceil_div(rows, tile["ROWS"]),)
    strides = (read.stride(0), residual.stride(0))
    launch(device.add_norm, grid, out, total, read, residual, weight, rows, size, *strides, eps, offset, **tile)


def add(launch: Launch, x: Tensor | SplitSum, residual: Tensor | SplitSum) -> Tensor:
    """Their sum, [T, size]."""
    if isinstance(residual, SplitSum):
        if isinstance(x, SplitSum):
            return _add_parts(launch, x, residual.parts.sum(0).to(residual.dtype))
        return _add_parts(launch, residual, x)
    return _add_parts(launch, x, residual) if isinstance(x, SplitSum) else x + residual


def _add_parts(launch: Launch, x: SplitSum, residual: Tensor) -> Tensor:
    residual = residual.contiguous()
    out = torch.empty_like(residual)
    count, block = out.numel(), 1024
    launch(
        device.add_parts, (ceil_div(count, block),), out, x.parts, residual, count, PARTS=x.parts.shape[0], BLOCK=block,
        num_warps=4,
    )  # fmt: skip
    return out


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
