"""Array ops and layers in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from zif.contract.kernels import KernelSet, kernel
from zif.contract.opspec import OpRequest
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.reference.torch.runtime import torch_dtype

Tensor = torch.Tensor


class TorchArrays(KernelSet):
    """Array ops. ``put`` and ``add_at`` write in place: a consumed target is the result's memory."""

    level = 1

    @kernel("where")
    def where(self, condition: Tensor, x: Any, y: Any) -> Tensor:
        return torch.where(condition, x, y)

    @kernel("arange")
    def arange(self, size: int, like: Tensor) -> Tensor:
        return torch.arange(size, dtype=torch.int32, device=like.device)

    @kernel("cast")
    def cast(self, x: Tensor, dtype: str) -> Tensor:
        return x.to(torch_dtype(dtype))

    @kernel("put")
    def put(self, target: Tensor, index: tuple[Tensor, ...], values: Any) -> Tensor:
        target[index] = values
        return target

    @kernel("add_at")
    def add_at(self, target: Tensor, index: tuple[Tensor, ...], values: Any) -> Tensor:
        values = torch.as_tensor(values, dtype=target.dtype, device=target.device)
        return target.index_put_(index, values, accumulate=True)

    @kernel("concat")
    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=-1)

    @kernel("repeat")
    def repeat(self, block: Callable[[Any, Any, Any], Any], stacked: Any, carry: Any, start: int, stop: int) -> Any:
        for i in range(start, stop):
            carry = block(stacked.layers[i], carry, i)
        return carry


def dense(_: Any, request: OpRequest) -> str | None:
    """``when=`` for kernels of weights as the reference packs them."""
    return None if request["format"] == "dense" else f"reads dense weights, not {request['format']}"


class TorchLayers(KernelSet):
    """Norms, linears, activations; float32 inside."""

    level = 1

    @kernel("embedding", when=dense)
    def embedding(self, ids: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        return F.embedding(ids, w.arrays["w"])

    @kernel("linear", when=dense)
    def linear(self, x: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        return F.linear(x, w.arrays["w"], w.arrays.get("b"))

    @kernel("rms_norm")
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return (wide * (weight.float() + offset)).to(x.dtype)

    @kernel("add")
    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return x + residual

    @kernel("gated_activation")
    def gated_activation(self, x: Tensor, kind: str) -> Tensor:
        gate, up = x.float().chunk(2, dim=-1)
        gate = F.silu(gate) if kind == "silu" else F.gelu(gate, approximate="tanh")
        return (gate * up).to(x.dtype)

    @kernel("softcap")
    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return (torch.tanh(x.float() / cap) * cap).to(x.dtype)
