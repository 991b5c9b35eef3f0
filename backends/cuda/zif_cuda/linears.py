"""Linears: of few tokens by the portable kernels or cuBLAS, whichever is faster, of many by cuBLAS.

What goes from op to op need not be a tensor (docs/contract.md, forms). A linear whose inputs are split leaves a sum in
parts to the norm behind it; of a single token, a norm leaves its work to the linears behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from zif.contract import Form, KernelSet, OpRequest, Ops, PackedWeight, Step, kernel
from zif.portable.triton.layers import (
    MAX_ROW,
    SPLIT_SUM,
    UNNORMED,
    SplitSum,
    Unnormed,
    add_norm,
    row_fits,
    unnormed,
)
from zif.portable.triton.linear import GATES, LEAST_INPUTS, product
from zif_cuda.packing import SUMMED
from zif_cuda.tiles import FEW_BYTES, Case, Kind, bucket
from zif_cuda.timing import library
from zif_cuda.tuning import Choices

if TYPE_CHECKING:
    from zif.portable.triton import Launch

Tensor = torch.Tensor


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
    """``linear``, ``gated_linear`` and ``logits``, of dense weights in 16 bits; and ``add_norm`` in front of them.

    As one of several ``ranks``, a weight that all of them hold whole is multiplied as the rule has it, not as was
    measured here: a router's result has to have the same bits on each.
    """

    provider = "cuda"
    level = 1

    def __init__(self, launch: Launch, choices: Choices, ranks: int = 1) -> None:
        self._launch = launch
        self._choices = choices
        self._ranks = ranks

    @kernel("linear", when=_takes, makes=True, shared=True, gives=(SPLIT_SUM,), takes={"x": (UNNORMED,)})
    def linear(self, request: OpRequest, ops: Ops, form: Form | None) -> Callable[..., Tensor | SplitSum]:
        in_parts = form is SPLIT_SUM

        def run(x: Tensor | Unnormed, w: PackedWeight, step: Step | None = None) -> Tensor | SplitSum:
            partial = in_parts and SUMMED in w.facts and w.split is None and w.shape[0] <= MAX_ROW
            return self._product("sum" if partial else "linear", x, w, None)

        return run

    @kernel("add_norm", when=row_fits, makes=True, shared=True, gives=(UNNORMED,), takes={"x": (SPLIT_SUM,)})
    def add_norm(self, request: OpRequest, ops: Ops, form: Form | None) -> Callable[..., tuple[Any, Tensor]]:
        left = form is UNNORMED

        def run(
            x: Tensor | SplitSum,
            residual: Tensor,
            weight: Tensor,
            eps: float,
            offset: float = 0.0,
            consumers: tuple[PackedWeight, ...] = (),
            step: Step | None = None,
        ) -> tuple[Tensor | Unnormed, Tensor]:
            tokens = residual.shape[0] if step is None else step.shape.tokens  # a tensor's takes three times as long
            # larger weights have so many programs that reading the token again in each is no longer little
            if (
                left
                and tokens == 1
                and consumers
                and all(w.shape[0] * w.shape[1] * 2 <= FEW_BYTES for w in consumers)
                and residual.is_contiguous()
                and (isinstance(x, SplitSum) or x.is_contiguous())
            ):
                later = unnormed(x, residual, weight, eps, offset)
                return later, later.total
            return add_norm(self._launch, x, residual, weight, eps, offset)

        return run

    @kernel("logits", when=_takes)
    def logits(self, x: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        return self._product("logits", x, w, None)  # type: ignore[return-value]

    @kernel("gated_linear", when=_takes_gated, makes=True, shared=True, takes={"x": (UNNORMED,)})
    def gated_linear(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor]:
        def run(x: Tensor | Unnormed, w: PackedWeight, kind: str, step: Step | None = None) -> Tensor:
            return self._product("gated", x, w, kind, ops)  # type: ignore[return-value]

        return run

    def _product(
        self, kind: Kind, x: Tensor | Unnormed, w: PackedWeight, gate: str | None, ops: Ops | None = None
    ) -> Tensor | SplitSum:
        weight, bias = w.arrays["w"], w.arrays.get("b")
        tokens = x.shape[0]  # len() of a tensor takes ten times as long
        most = bucket(tokens) if tokens else None
        if most is not None:
            case = Case(kind, weight.shape[0], weight.shape[1], str(x.dtype).removeprefix("torch."), most)
            alike = w.split is None and self._ranks > 1
            tile = self._choices.rule(case) if alike else self._choices.tile(case)
            if tile is not None:
                dtype = torch.float32 if kind == "logits" else x.dtype
                return product(self._launch, tile, x, weight, bias, gate, dtype)
        y = library(kind, x.normed(self._launch) if isinstance(x, Unnormed) else x, weight, bias)
        if ops is None or gate is None:
            return y
        activated: Tensor = ops.gated_activation(y, gate)  # type: ignore[assignment]
        return activated
