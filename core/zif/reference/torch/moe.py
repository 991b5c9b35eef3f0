"""Mixture of experts in torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from zif.contract.kernel import KernelSet, kernel
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.weights import PackedWeight
from zif.reference.torch.kernels import dense

Tensor = torch.Tensor


class TorchMoE(KernelSet):
    """Tokens sorted by expert, then an expert at a time over its own tokens."""

    level = 1

    @kernel("route")
    def route(self, logits: Tensor, top_k: int, scoring: str, normalize: bool, scale: float) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        scores = logits.softmax(-1) if scoring == "softmax" else logits.sigmoid()
        # torch.topk promises no order among equals: the lower expert has to come first
        experts = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :top_k]
        weights = scores.gather(-1, experts)
        if normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights * scale, experts.int()

    @kernel("moe", when=dense, makes=True, capturable=False)
    def moe(self, request: OpRequest, ops: Ops) -> Any:
        """Reads on the host how many tokens each expert has."""

        def run(x: Tensor, weights: Tensor, experts: Tensor, w: PackedWeight, kind: str, step: Any = None) -> Tensor:
            tokens, top_k = experts.shape
            real = tokens if step is None else int(step.num_tokens[0])
            chosen = experts[:real].flatten()
            order = torch.argsort(chosen, stable=True)
            token = order // top_k
            weight = weights[:real].flatten()[order, None]
            counts = torch.bincount(chosen, minlength=w.shape[0]).tolist()
            out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
            begin = 0
            for expert, count in enumerate(counts):
                if not count:
                    continue
                mine = slice(begin, begin + count)
                inner: Any = ops.gated_activation(F.linear(x[token[mine]], w.arrays["gate_up"][expert]), kind)
                out.index_add_(0, token[mine], F.linear(inner, w.arrays["down"][expert]).float() * weight[mine])
                begin += count
            return out.to(x.dtype)

        return run
