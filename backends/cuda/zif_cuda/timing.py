"""The time of a linear on this GPU, as a decode step sees it: replayed, its weight in no cache."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from zif.portable.triton.layers import gated_activation
from zif.portable.triton.linear import Tile, product
from zif.reference.torch.runtime import torch_dtype
from zif_cuda.device import CudaDevice
from zif_cuda.tiles import Case

if TYPE_CHECKING:
    from zif.portable.triton import Launch

Tensor = torch.Tensor
COLD_BYTES = 150 << 20
"""Of weights that are read in turn: three times the largest L2 cache."""
MOST_CALLS = 64
TURNS = 5
PART_SPEED = 3e6
"""Bytes a microsecond at which whatever takes a sum in parts reads them, besides what the product itself takes."""


def library(kind: str, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """By cuBLAS. x [T, in], w [out, in] -> [T, out], of ``logits`` in float32; an activation is left to do."""
    if kind == "logits":
        y = torch.mm(x, w.t(), out_dtype=torch.float32) if x.is_cuda else x.float() @ w.float().t()
        return y if bias is None else y + bias
    return F.linear(x, w, bias)


class LinearTimer:
    """A :data:`zif_cuda.tuning.Timer`."""

    def __init__(self, launch: Launch, device: CudaDevice) -> None:
        self._launch = launch
        self._device = device

    def __call__(self, case: Case, tile: Tile | None) -> float:
        """Microseconds; infinite for what this GPU cannot run, or has no memory to try."""
        from triton.runtime.errors import OutOfResources

        try:
            return self._time(case, tile)
        except (OutOfResources, torch.OutOfMemoryError):
            return math.inf

    def _time(self, case: Case, tile: Tile | None) -> float:
        dtype = torch_dtype(case.dtype)
        copies = min(max(math.ceil(COLD_BYTES / case.weight_bytes), 1), MOST_CALLS)
        weights = self._drawn((copies, case.rows, case.inner), dtype)
        x = self._drawn((case.tokens, case.inner), dtype)
        gate = "silu" if case.kind == "gated" else None
        result = torch.float32 if case.kind == "logits" else dtype

        def call(w: Tensor) -> None:
            if tile is not None:
                product(self._launch, tile, x, w, None, gate, result)
            else:
                y = library(case.kind, x, w, None)
                if gate is not None:
                    gated_activation(self._launch, y, gate)

        call(weights[0])  # compiles, which a capture cannot
        graph, _ = self._device.capture(lambda: list(map(call, weights)))
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        graph.replay()
        begin.record()
        for _ in range(TURNS):
            graph.replay()
        end.record()
        end.synchronize()
        parts = tile.splits if tile is not None else 1
        us = float(begin.elapsed_time(end)) * 1e3 / (TURNS * copies)
        return us + (parts - 1) * case.tokens * case.outputs * 4 / PART_SPEED

    def _drawn(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Numbers, not zeros: those take less power, and are multiplied faster."""
        generator = torch.Generator(self._device.torch).manual_seed(0)
        return torch.empty(shape, dtype=dtype, device=self._device.torch).uniform_(-1, 1, generator=generator)
