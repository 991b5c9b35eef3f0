"""Norms, linears and activations; float32 inside."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from zif.contract.kernels import KernelSet, kernel
from zif.contract.opspec import OpRequest
from zif.contract.step import Step
from zif.contract.weights import PackedWeight

Array = jax.Array


def dense(_: Any, request: OpRequest) -> str | None:
    """``when=`` for kernels of weights as the reference packs them."""
    return None if request["format"] == "dense" else f"reads dense weights, not {request['format']}"


def contract(subscripts: str, *operands: Array) -> Array:
    """An einsum accumulated in float32, whose float32 operands are not rounded on the way."""
    out: Array = jnp.einsum(subscripts, *operands, precision="highest", preferred_element_type=jnp.float32)
    return out


def gated(x: Array, kind: str) -> Array:
    """``gated_activation``."""
    gate, up = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    gate = jax.nn.silu(gate) if kind == "silu" else jax.nn.gelu(gate, approximate=True)
    return (gate * up).astype(x.dtype)


class JaxLayers(KernelSet):
    """Ops of a transformer's layers, attention aside."""

    level = 1

    @kernel("embedding", when=dense)
    def embedding(self, ids: Array, w: PackedWeight, step: Step | None = None) -> Array:
        table: Array = w.arrays["w"]
        return table[ids]

    @kernel("linear", when=dense)
    def linear(self, x: Array, w: PackedWeight, step: Step | None = None) -> Array:
        y = contract("ti,oi->to", x, w.arrays["w"])
        bias = w.arrays.get("b")
        return (y if bias is None else y + bias.astype(jnp.float32)).astype(x.dtype)

    @kernel("rms_norm")
    def rms_norm(self, x: Array, weight: Array, eps: float, offset: float = 0.0) -> Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + eps)
        return (wide * (weight.astype(jnp.float32) + offset)).astype(x.dtype)

    @kernel("add")
    def add(self, x: Array, residual: Array) -> Array:
        return x + residual

    @kernel("gated_activation")
    def gated_activation(self, x: Array, kind: str) -> Array:
        return gated(x, kind)

    @kernel("softcap")
    def softcap(self, x: Array, cap: float) -> Array:
        return (jnp.tanh(x.astype(jnp.float32) / cap) * cap).astype(x.dtype)
