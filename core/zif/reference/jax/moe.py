"""Mixture of experts in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from zif.contract.kernel import KernelSet, kernel
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.reference.jax.layers import dense, gated

Array = jax.Array


class JaxMoE(KernelSet):
    """Tokens sorted by expert, then one ragged product over all of them."""

    level = 1

    @kernel("route")
    def route(self, logits: Array, top_k: int, scoring: str, normalize: bool, scale: float) -> tuple[Array, Array]:
        logits = logits.astype(jnp.float32)
        scores = jax.nn.softmax(logits, axis=-1) if scoring == "softmax" else jax.nn.sigmoid(logits)
        experts = jax.lax.top_k(logits, top_k)[1]
        weights = jnp.take_along_axis(scores, experts, axis=-1)
        if normalize:
            weights = weights / weights.sum(-1, keepdims=True)
        return weights * scale, experts

    @kernel("moe", when=dense)
    def moe(
        self, x: Array, weights: Array, experts: Array, w: PackedWeight, kind: str, step: Step | None = None
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
        inner = gated(_ragged(x[order // top_k], w.arrays["gate_up"], sizes), kind)
        results = _ragged(inner, w.arrays["down"], sizes)[jnp.argsort(order)].reshape(tokens, top_k, -1)
        return (results.astype(jnp.float32) * weights[..., None]).sum(1).astype(x.dtype)


def _ragged(x: Array, w: Array, sizes: Array) -> Array:
    """Rows of x [m, in], ``sizes`` of them an expert, through w [experts, out, in]."""
    y: Array = jax.lax.ragged_dot(x, w.swapaxes(1, 2), sizes, precision="highest", preferred_element_type=jnp.float32)
    return y.astype(x.dtype)
