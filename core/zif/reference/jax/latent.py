"""Latent attention (MLA) in JAX, in the formats of :mod:`zif.contract.formats`."""

from __future__ import annotations

from typing import Any

import jax

from zif.contract.attention import AttentionSpec
from zif.contract.formats import unless_known
from zif.contract.kernels import KernelSet, kernel
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.reference.jax.attention import attend_pages, kept, store, write_slots
from zif.reference.jax.layers import contract, dense

Array = jax.Array


class JaxLatent(KernelSet):
    """A latent is a key that all heads share; the first ``v_head_dim`` of its entries are the value too."""

    level = 1

    @kernel("head_linear", when=dense)
    def head_linear(self, x: Array, w: PackedWeight) -> Array:
        return contract("thi,hoi->tho", x, w.arrays["w"]).astype(x.dtype)

    @kernel("latent_write", when=unless_known)
    def latent_write(self, latent: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group = cache[spec.group]
        slots = write_slots(step, spec.group, group["k"].shape[2])
        return {**cache, spec.group: store(group, "k", latent[:, None], layer, slots)}

    @kernel("absorbed_attention", when=unless_known)
    def absorbed_attention(self, q: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Array:
        latents = kept(cache[spec.group], "k", layer)
        # whole latents as values, cut afterwards: a slice of the cache would be a copy of it
        return attend_pages(q, latents, latents, step, spec)[..., : spec.v_head_dim]
