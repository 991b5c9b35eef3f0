"""Qwen3 written out by hand: the kernels that zif's cuda backend chooses, called one after the other.

No table of ops, no model file, no executable: what somebody would write who needed this one model on this one GPU. The
kernels, their launchers, the weights and the cache are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from zif_cuda.launchers import widened

from zif.contract.attention import AttentionSpec
from zif.contract.step import HostStep, Step, StepShape
from zif.portable.triton import layers, rotary

Tensor = torch.Tensor
Attention = Callable[[Tensor, Any, int, Step, AttentionSpec], Tensor]
FIELDS = ("tokens", "positions", "seqs", "query_starts", "kv_lens", "pages", "num_tokens", "logits_at")


class Staging:
    """Inputs of a step in one block of pinned memory, sent in one transfer."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.at: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        end = 0
        for name, shape in shapes.items():
            count = int(np.prod(shape))
            self.at[name] = (end, end + count, shape)
            end += -(-count // 64) * 64
        self.pinned = [torch.empty(end, dtype=torch.int32, pin_memory=True) for _ in range(4)]
        self.events = [torch.cuda.Event() for _ in self.pinned]
        self.views = [
            {name: block.numpy()[low:high].reshape(shape) for name, (low, high, shape) in self.at.items()}
            for block in self.pinned
        ]
        self.turn = 0

    def send(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
        turn = self.turn = (self.turn + 1) % len(self.pinned)
        self.events[turn].synchronize()
        views = self.views[turn]
        for name, value in inputs.items():
            views[name][...] = value
        block = torch.empty_like(self.pinned[turn], device="cuda")
        block.copy_(self.pinned[turn], non_blocking=True)
        self.events[turn].record()
        return {name: block[low:high].view(shape) for name, (low, high, shape) in self.at.items()}


class DirectQwen3:
    """``weights`` and ``cache`` of an engine; ``attention`` as its backend makes it, ``plan`` what that needs first."""

    def __init__(self, engine: Any, attention: Attention, plan: Callable[[HostStep], None] | None) -> None:
        runner = engine.runner
        weights = runner._holders["weights"].arrays
        self.model = runner.model
        self.launch = next(kernels for kernels in runner.backend.kernels() if kernels.provider == "triton")._launch
        self.spec: AttentionSpec = self.model.attention_specs[0]
        self.cache = runner.cache.arrays
        self.group = self.cache[self.spec.group]
        self.attention, self.plan = attention, plan
        self.table = weights["embed"].arrays["w"]
        self.head = weights["lm_head"].arrays["w"]
        self.norm = weights["norm"]
        self.turns = torch.tensor(rotary.turns_of(self.spec.rope), dtype=torch.int64, device="cuda")
        self.layers = [
            (w["input_norm"], w["qkv"].arrays["w"], w["q_norm"], w["k_norm"], w["o"].arrays["w"], w["mlp_norm"],
             w["gate_up"].arrays["w"], w["down"].arrays["w"])
            for (w,) in weights["body"][0].layers
        ]  # fmt: skip
        self.stagings: dict[StepShape, Staging] = {}

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]], shape: StepShape, host: HostStep) -> Tensor:
        """Logits [R, vocab] float32 of one step."""
        if self.plan is not None:
            self.plan(host)
        staging = self.stagings.get(shape)
        if staging is None:
            staging = self.stagings[shape] = Staging({name: value.shape for name, value in inputs.items()})
        sent = staging.send(inputs)
        spec, launch, eps, group = self.spec, self.launch, self.model.eps, self.group
        q_end = spec.q_heads * spec.head_dim
        k_end = q_end + spec.kv_heads * spec.head_dim
        step = Step(**{**sent, "pages": {spec.group: sent["pages"]}}, shape=shape)
        angles = rotary.rope_angles(launch, step.positions, spec.rope, self.turns)
        x = F.embedding(step.tokens, self.table)
        residual = x * 0
        for i, (input_norm, qkv, q_norm, k_norm, o, mlp_norm, gate_up, down) in enumerate(self.layers):
            x, residual = layers.add_norm(launch, x, residual, input_norm, eps, 0.0)
            mixed = F.linear(x, qkv)
            q = mixed[:, :q_end].reshape(-1, spec.q_heads, spec.head_dim)
            k = mixed[:, q_end:k_end].reshape(-1, spec.kv_heads, spec.head_dim)
            v = mixed[:, k_end:].reshape(-1, spec.kv_heads, spec.head_dim)
            q = rotary.rope_and_cache(launch, q, k, v, group, i, step, spec, angles, q_norm, k_norm)
            x = self.attention(q, self.cache, i, step, spec)
            x = F.linear(x.reshape(-1, q_end), o)
            x, residual = layers.add_norm(launch, x, residual, mlp_norm, eps, 0.0)
            x = F.linear(layers.gated_activation(launch, F.linear(x, gate_up), "silu"), down)
        x = x + residual
        if not shape.decode:
            x = x[step.logits_at]
        return widened(F.linear(layers.rms_norm(launch, x, self.norm, eps, 0.0), self.head))
