"""Linears: of few tokens by the portable kernels or cuBLAS, whichever is faster, of many by cuBLAS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from zif.contract.kernel import KernelSet, kernel
from zif.contract.ops import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.portable.triton import TritonKernels
from zif.portable.triton.layers import MAX_ROW, SplitSum
from zif.portable.triton.linear import GATES, LEAST_INPUTS, product
from zif_cuda.packing import SUMMED
from zif_cuda.tiles import Case, Kind, bucket
from zif_cuda.timing import library
from zif_cuda.tuning import Choices

if TYPE_CHECKING:
    from zif.portable.triton import Launch

Tensor = torch.Tensor
TAKE_SUMS = ("add", "add_norm", "rms_norm")
"""The ops that a linear's result goes to, if it is one that ranks would sum (docs/contract.md)."""


def _takes(_: object, request: OpRequest) -> str | None:
    if request["format"] != "dense":
        return f"reads dense weights, not {request['format']}"
    if request.dtype not in ("bfloat16", "float16"):
        return f"takes bfloat16 or float16, not {request.dtype}"
    if request["in_features"] % LEAST_INPUTS:
        return f"takes inputs in multiples of {LEAST_INPUTS}, not {request['in_features']}"
    return None


def _takes_gated(kernels: object, request: OpRequest) -> str | None:
    if request["kind"] not in GATES:
        return f"knows {' and '.join(GATES)}, not {request['kind']}"
    return _takes(kernels, request)


class CudaLinears(KernelSet):
    """``linear``, ``gated_linear`` and ``logits``, of dense weights in 16 bits."""

    provider = "cuda"

    def __init__(self, launch: Launch, choices: Choices) -> None:
        self._launch = launch
        self._choices = choices
        self._made: tuple[Ops, Callable[..., Any]] | None = None

    @kernel("linear", when=_takes, makes=True)
    def linear(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor | SplitSum]:
        if self._made is not None and self._made[0] is ops:
            return self._made[1]  # one callable serves all weights: then nothing is looked up in a call
        in_parts: bool | None = None

        def run(x: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor | SplitSum:
            nonlocal in_parts
            if in_parts is None:  # bound all together: the others are there only now
                in_parts = all(isinstance(getattr(getattr(ops, op), "__self__", 0), TritonKernels) for op in TAKE_SUMS)
            partial = in_parts and SUMMED in w.facts and w.split is None and w.shape[0] <= MAX_ROW
            return self._product("sum" if partial else "linear", x, w, None)

        self._made = ops, run
        return run

    @kernel("logits", when=_takes)
    def logits(self, x: Tensor, w: PackedWeight) -> Tensor:
        return self._product("logits", x, w, None)  # type: ignore[return-value]

    @kernel("gated_linear", when=_takes_gated, makes=True)
    def gated_linear(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor]:
        def run(x: Tensor, w: PackedWeight, kind: str, step: Step | None = None) -> Tensor:
            return self._product("gated", x, w, kind, ops)  # type: ignore[return-value]

        return run

    def _product(
        self, kind: Kind, x: Tensor, w: PackedWeight, gate: str | None, ops: Ops | None = None
    ) -> Tensor | SplitSum:
        weight, bias = w.arrays["w"], w.arrays.get("b")
        most = bucket(x.shape[0]) if len(x) else None
        if most is not None:
            case = Case(kind, weight.shape[0], weight.shape[1], str(x.dtype).removeprefix("torch."), most)
            tile = self._choices.tile(case)
            if tile is not None:
                dtype = torch.float32 if kind == "logits" else x.dtype
                return product(self._launch, tile, x, weight, bias, gate, dtype)
        y = library(kind, x, weight, bias)
        if ops is None or gate is None:
            return y
        activated: Tensor = ops.gated_activation(y, gate)  # type: ignore[assignment]
        return activated
