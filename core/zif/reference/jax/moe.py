"""Mixture of experts in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from zif.contract.experts import ClampedGate, RouteSpec
from zif.contract.kernels import KernelSet, kernel
from zif.contract.ops.moe import TINY
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.reference.jax.layers import dense, gated

Array = jax.Array


class JaxMoE(KernelSet):
    """Tokens sorted by expert, then one ragged product over all of them."""

    level = 1

    @kernel("route")
    def route(self, logits: Array, spec: RouteSpec, bias: Array | None = None) -> tuple[Array, Array]:
        logits = logits.astype(jnp.float32)
        scores = jax.nn.softmax(logits, axis=-1) if spec.scoring == "softmax" else jax.nn.sigmoid(logits)
        preferred = logits if bias is None else scores + bias
        if spec.groups > 1:
            allowed = _in_top_groups(scores if bias is None else preferred, spec)
            preferred = jnp.where(allowed, preferred, -jnp.inf)
        experts = jax.lax.top_k(preferred, spec.top_k)[1]  # the lower first among equals
        weights = jnp.take_along_axis(scores, experts, axis=-1)
        if spec.normalize:
            weights = weights / (weights.sum(-1, keepdims=True) + TINY)
        return weights * spec.scale, experts

    @kernel("moe", when=dense)
    def moe(
        self,
        x: Array,
        weights: Array,
        experts: Array,
        w: PackedWeight,
        kind: str,
        step: Step | None = None,
        clamped: ClampedGate | None = None,
    ) -> Array:
        """Padding tokens are sorted behind the last expert, and belong to none."""
        count, (tokens, top_k) = w.shape[0], experts.shape
        chosen = experts
        if step is not None:
            real = jnp.arange(tokens) < step.num_tokens
            chosen = jnp.where(real[:, None], experts, count)
        flat = chosen.reshape(-1)
        order = jnp.argsort(flat, stable=True)
        sizes = (flat[:, None] == jnp.arange(count)).sum(0, dtype=jnp.int32)
        expert = jnp.minimum(flat[order], count - 1)
        inner = _ragged(x[order // top_k], w, "gate_up", sizes, expert)
        inner = gated(inner, kind) if clamped is None else _clamped_gate(inner, clamped)
        results = _ragged(inner, w, "down", sizes, expert)[jnp.argsort(order)].reshape(tokens, top_k, -1)
        return (results.astype(jnp.float32) * weights[..., None]).sum(1).astype(x.dtype)


def _in_top_groups(scores: Array, spec: RouteSpec) -> Array:
    """Whether each expert [T, experts] is of a group that may be chosen from."""
    grouped = scores.reshape(len(scores), spec.groups, -1)
    worth = grouped.max(-1) if spec.group_score == "max" else jax.lax.top_k(grouped, 2)[0].sum(-1)
    best = jax.lax.top_k(worth, spec.top_groups)[1]
    taken = (best[..., None] == jnp.arange(spec.groups)).any(1)
    return jnp.repeat(taken, spec.experts // spec.groups, axis=-1)


def _ragged(x: Array, w: PackedWeight, name: str, sizes: Array, expert: Array) -> Array:
    """Rows of x [m, in], ``sizes`` of them an expert, through w [experts, out, in] and the biases, if there are."""
    weight = w.arrays[name].swapaxes(1, 2)
    y = jax.lax.ragged_dot(x, weight, sizes, precision="highest", preferred_element_type=jnp.float32)
    bias = w.arrays.get(f"{name}_bias")
    return (y if bias is None else y + bias[expert].astype(jnp.float32)).astype(x.dtype)


def _clamped_gate(x: Array, clamped: ClampedGate) -> Array:
    gate, up = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    gate, up = jnp.minimum(gate, clamped.limit), jnp.clip(up, -clamped.limit, clamped.limit)
    return (gate * jax.nn.sigmoid(clamped.alpha * gate) * (up + clamped.offset)).astype(x.dtype)
