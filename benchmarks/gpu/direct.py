"""Qwen3 and Llama written out by hand: the kernels that zif's cuda backend chooses, called one after the other.

No table of ops, no model file, no executable: what somebody would write who needed this one model on this one GPU. The
kernels, the weights and the cache are the same: Triton's through their launchers, the others by the callables that the
backend makes for the engine's own requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from zif.contract.attention import AttentionSpec
from zif.contract.step import HostStep, Step, StepShape
from zif.contract.weights import PackedWeight
from zif.portable.triton import layers, rotary

Tensor = torch.Tensor
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


class DirectModel:
    """A model of an engine whose backend has the portable Triton kernels."""

    def __init__(self, engine: Any) -> None:
        runner = engine.runner
        weights = runner.residents["weights"].arrays
        self.bound, self.model, self.cache = runner.bound, runner.model, runner.cache.arrays
        triton = next(kernels for kernels in runner.backend.kernels() if kernels.provider == "triton")
        self.launch = triton._launch
        self.spec: AttentionSpec = self.model.attention_specs[0]
        self.group = self.cache[self.spec.group]
        choice = self._choice("paged_attention")
        self.attention = choice.kernel.make(choice.request, self.bound.ops)
        self.plan: Callable[[HostStep], None] | None = getattr(self.attention, "plan", None)
        self.table, self.norm = weights["embed"].arrays["w"], weights["norm"]
        self.turns = torch.tensor(rotary.turns_of(self.spec.rope), dtype=torch.int64, device="cuda")
        self.head = self._logits(weights["lm_head"])
        self.layers = [
            (w["input_norm"], self._linear(w["qkv"]), w.get("q_norm"), w.get("k_norm"), self._linear(w["o"]),
             w["mlp_norm"], self._gated(w["gate_up"]), self._linear(w["down"]))
            for (w,) in weights["body"][0].layers
        ]  # fmt: skip
        self.stagings: dict[StepShape, Staging] = {}

    def _choice(self, op: str, weight: PackedWeight | None = None) -> Any:
        """How the engine's request of ``op``, for this very weight, was decided."""
        return next(
            choice
            for choice in self.bound.choices
            if choice.request.op == op and (weight is None or choice.request["key"] == weight.dispatch_key)
        )

    def _kernel(self, op: str, weight: PackedWeight) -> Any:
        """The backend's callable; None where the op is carried out by its parts."""
        choice = self._choice(op, weight)
        return None if choice.kernel.provider == "composite" else choice.kernel.make(choice.request, self.bound.ops)

    def _linear(self, w: PackedWeight) -> Callable[[Tensor], Tensor]:
        kernel = self._kernel("linear", w)
        return lambda x: kernel(x, w)

    def _gated(self, w: PackedWeight) -> Callable[[Tensor], Tensor]:
        kernel, launch, kind = self._kernel("gated_linear", w), self.launch, self.model.activation
        if kernel is not None:
            return lambda x: kernel(x, w, kind)
        linear = self._kernel("linear", w)
        return lambda x: layers.gated_activation(launch, linear(x, w), kind)

    def _logits(self, w: PackedWeight) -> Callable[[Tensor], Tensor]:
        kernel, cast = self._kernel("logits", w), self.bound.ops.cast
        if kernel is not None:
            return lambda x: kernel(x, w)
        linear = self._kernel("linear", w)
        return lambda x: cast(linear(x, w), "float32")

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]], shape: StepShape, host: HostStep) -> Tensor:
        """Logits [R, vocab] float32 of one step."""
        if self.plan is not None:
            self.plan(host)
        staging = self.stagings.get(shape)
        if staging is None:
            staging = self.stagings[shape] = Staging({name: value.shape for name, value in inputs.items()})
        sent = staging.send(inputs)
        spec, launch, eps, group, cache = self.spec, self.launch, self.model.eps, self.group, self.cache
        heads, kv_heads, size = spec.q_heads, spec.kv_heads, spec.head_dim
        q_end = heads * size
        k_end = q_end + kv_heads * size
        step = Step(**{**sent, "pages": {spec.group: sent["pages"]}}, shape=shape)
        angles = rotary.rope_angles(launch, step.positions, spec.rope, self.turns)
        x = F.embedding(step.tokens, self.table)
        residual = x * 0
        for i, (input_norm, qkv, q_norm, k_norm, o, mlp_norm, gated, down) in enumerate(self.layers):
            x, residual = layers.add_norm(launch, x, residual, input_norm, eps, 0.0)
            mixed = qkv(x)
            q = mixed[:, :q_end].reshape(-1, heads, size)
            k = mixed[:, q_end:k_end].reshape(-1, kv_heads, size)
            v = mixed[:, k_end:].reshape(-1, kv_heads, size)
            q = rotary.rope_and_cache(launch, q, k, v, group, i, step, spec, angles, q_norm, k_norm)
            x = self.attention(q, cache, i, step, spec)
            x, residual = layers.add_norm(launch, o(x.reshape(-1, q_end)), residual, mlp_norm, eps, 0.0)
            x = down(gated(x))
        x = layers.add(launch, x, residual)
        if not shape.decode:
            x = x[step.logits_at]
        return self.head(layers.rms_norm(launch, x, self.norm, eps, 0.0))
