"""Mixture of experts in torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from zif.contract.experts import ClampedGate, RouteSpec
from zif.contract.kernels import KernelSet, kernel
from zif.contract.ops.moe import TINY
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.weights import PackedWeight
from zif.reference.torch.kernels import dense

Tensor = torch.Tensor


class TorchMoE(KernelSet):
    """Tokens sorted by expert, then an expert at a time over its own tokens."""

    level = 1

    @kernel("route")
    def route(self, logits: Tensor, spec: RouteSpec, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        scores = logits.softmax(-1) if spec.scoring == "softmax" else logits.sigmoid()
        preferred = logits if bias is None else scores + bias
        if spec.groups > 1:
            allowed = _in_top_groups(scores if bias is None else preferred, spec)
            preferred = preferred.masked_fill(~allowed, float("-inf"))
        experts = _best(preferred, spec.top_k)
        weights = scores.gather(-1, experts)
        if spec.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + TINY)
        return weights * spec.scale, experts.int()

    @kernel("moe", when=dense, makes=True, capturable=False)
    def moe(self, request: OpRequest, ops: Ops) -> Any:
        """Reads on the host how many tokens each expert has."""

        def run(
            x: Tensor,
            weights: Tensor,
            experts: Tensor,
            w: PackedWeight,
            kind: str,
            step: Any = None,
            clamped: ClampedGate | None = None,
        ) -> Tensor:
            tokens, top_k = experts.shape
            real = tokens if step is None else int(step.num_tokens[0])
            chosen = experts[:real].flatten()
            order = torch.argsort(chosen, stable=True)
            token = order // top_k
            weight = weights[:real].flatten()[order, None]
            counts = torch.bincount(chosen, minlength=w.shape[0]).tolist()
            gate_up, down = _linears(w, "gate_up"), _linears(w, "down")
            out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
            begin = 0
            for expert, count in enumerate(counts):
                if not count:
                    continue
                mine = slice(begin, begin + count)
                inner: Any = F.linear(x[token[mine]], *gate_up(expert))
                inner = ops.gated_activation(inner, kind) if clamped is None else _clamped_gate(inner, clamped)
                out.index_add_(0, token[mine], F.linear(inner, *down(expert)).float() * weight[mine])
                begin += count
            return out.to(x.dtype)

        return run


def _in_top_groups(scores: Tensor, spec: RouteSpec) -> Tensor:
    """Whether each expert [T, experts] is of a group that may be chosen from."""
    grouped = scores.reshape(len(scores), spec.groups, -1)
    worth = grouped.amax(-1) if spec.group_score == "max" else grouped.topk(2, dim=-1).values.sum(-1)
    taken = torch.zeros_like(worth, dtype=torch.bool).scatter_(-1, _best(worth, spec.top_groups), True)
    return taken.repeat_interleave(spec.experts // spec.groups, dim=-1)


def _best(values: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest; torch.topk promises no order among equals: the lower has to come first."""
    return torch.sort(values, dim=-1, descending=True, stable=True).indices[:, :count]


def _linears(w: PackedWeight, name: str) -> Any:
    """(weight, bias or None) of an expert."""
    weight, bias = w.arrays[name], w.arrays.get(f"{name}_bias")
    return lambda expert: (weight[expert], None if bias is None else bias[expert])


def _clamped_gate(x: Tensor, clamped: ClampedGate) -> Tensor:
    gate, up = x.float().chunk(2, dim=-1)
    gate, up = gate.clamp(max=clamped.limit), up.clamp(-clamped.limit, clamped.limit)
    return (gate * torch.sigmoid(clamped.alpha * gate) * (up + clamped.offset)).to(x.dtype)
