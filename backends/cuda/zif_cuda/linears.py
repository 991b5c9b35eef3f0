"""Linears: of few tokens by the portable kernels or cuBLAS, whichever is faster, of many by cuBLAS.

What goes from op to op need not be a tensor (docs/contract.md, opaque values). A linear whose inputs are split leaves a
sum in parts to the norm behind it; of a single token, a norm leaves its work to the linears behind it. Each does so
only where what it goes to is known to take it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from zif.contract.kernel import KernelSet, kernel
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.portable.triton import TritonKernels
from zif.portable.triton.layers import MAX_ROW, SplitSum, Unnormed, add_norm, row_fits, unnormed
from zif.portable.triton.linear import GATES, LEAST_INPUTS, product
from zif_cuda.packing import SUMMED
from zif_cuda.tiles import FEW_BYTES, Case, Kind, bucket
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
        self._made: tuple[Ops, dict[str, Callable[..., Any]]] | None = None

    def _shared(self, op: str, ops: Ops, run: Callable[..., Any]) -> Callable[..., Any]:
        """The callable of ``op`` for all weights of a model: where it is ours alone, nothing is looked up in a call."""
        if self._made is None or self._made[0] is not ops:
            self._made = ops, {}
        return self._made[1].setdefault(op, run)

    def _serves(self, op: str, ops: Ops) -> bool:
        """Whether all calls of ``op`` come here."""
        mine = self._made[1].get(op) if self._made is not None and self._made[0] is ops else None
        return mine is not None and getattr(ops, op, None) is mine

    @kernel("linear", when=_takes, makes=True)
    def linear(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor | SplitSum]:
        in_parts: bool | None = None

        def run(x: Tensor | Unnormed, w: PackedWeight, step: Step | None = None) -> Tensor | SplitSum:
            nonlocal in_parts
            if in_parts is None:  # bound all together: the others are there only now
                in_parts = all(self._serves(op, ops) or _portable(ops, op) for op in TAKE_SUMS)
            partial = in_parts and SUMMED in w.facts and w.split is None and w.shape[0] <= MAX_ROW
            return self._product("sum" if partial else "linear", x, w, None)

        return self._shared("linear", ops, run)

    @kernel("add_norm", when=row_fits, makes=True)
    def add_norm(self, request: OpRequest, ops: Ops) -> Callable[..., tuple[Any, Tensor]]:
        left: bool | None = None

        def run(
            x: Tensor | SplitSum,
            residual: Tensor,
            weight: Tensor,
            eps: float,
            offset: float = 0.0,
            consumers: tuple[PackedWeight, ...] = (),
            step: Step | None = None,
        ) -> tuple[Tensor | Unnormed, Tensor]:
            nonlocal left
            tokens = residual.shape[0] if step is None else step.shape.tokens  # a tensor's takes three times as long
            if tokens == 1 and consumers and all(w.shape[0] * w.shape[1] * 2 <= FEW_BYTES for w in consumers):
                # larger weights have so many programs that reading the token again in each is no longer little
                if left is None:
                    left = self._serves("linear", ops) and self._serves("gated_linear", ops)
                if left and residual.is_contiguous() and (isinstance(x, SplitSum) or x.is_contiguous()):
                    later = unnormed(x, residual, weight, eps, offset)
                    return later, later.total
            return add_norm(self._launch, x, residual, weight, eps, offset)

        return self._shared("add_norm", ops, run)

    @kernel("logits", when=_takes)
    def logits(self, x: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        return self._product("logits", x, w, None)  # type: ignore[return-value]

    @kernel("gated_linear", when=_takes_gated, makes=True)
    def gated_linear(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor]:
        def run(x: Tensor | Unnormed, w: PackedWeight, kind: str, step: Step | None = None) -> Tensor:
            return self._product("gated", x, w, kind, ops)  # type: ignore[return-value]

        return self._shared("gated_linear", ops, run)

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


def _portable(ops: Ops, op: str) -> bool:
    """Whether the portable kernels serve ``op``."""
    return isinstance(getattr(getattr(ops, op), "__self__", None), TritonKernels)
