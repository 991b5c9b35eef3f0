"""How the cache is laid out on a TPU, and the reference's kernels for what is not plain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from zif.contract.arrays import ArraySpec
from zif.contract.attention import AttentionSpec
from zif.contract.cache import CacheGroup
from zif.contract.formats import PlainFormat, unless_known
from zif.contract.kernel import kernel
from zif.contract.opspec import OpRequest
from zif.contract.step import Step
from zif.reference.jax import JaxReference
from zif.reference.jax.attention import attend_pages, kept, write_slots

Array = jax.Array


@dataclass(frozen=True)
class PairedFormat(PlainFormat):
    """Of a single kv head, keys and values in one array: ``kv`` [layers, pages, page_size, 2, head_dim].

    A TPU keeps rows of 16 bits in pairs: one head alone would take twice its bytes, and no kernel could write one
    token of it. Single heads are what ranks are left with where they are as many as a model's kv heads.
    """

    layout = "paired"

    def refusal(self, group: CacheGroup, page_size: int) -> str | None:
        if group.kind == "latent" or group.kv_heads != 1 or group.head_dim != group.v_head_dim:
            return "pairs the keys and values of a single head, of one size"
        return None

    def arrays(self, group: CacheGroup, page_size: int, num_pages: int) -> Mapping[str, ArraySpec]:
        return {"kv": ArraySpec((group.layers, num_pages, page_size, 2, group.head_dim), self.dtype)}


def known_layout(kernels: Any, request: OpRequest) -> str | None:
    """``when=`` of the reference: paired, or what JAX's reads."""
    return None if request["cache_layout"] == PairedFormat.layout else unless_known(kernels, request)


def pools_of(group: Any) -> tuple[Array, ...]:
    """The arrays of a group: keys and values, or both in one."""
    return tuple(group[name] for name in sorted(group))


def page_size(group: Any) -> int:
    """Tokens of a page."""
    size: int = pools_of(group)[0].shape[2]
    return size


class TpuReference(JaxReference):
    """The JAX reference, in the paired layout too."""

    level = 1

    @kernel("kv_write", when=known_layout)
    def kv_write(self, k: Array, v: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group = cache[spec.group]
        if "kv" not in group:
            return super().kv_write(k, v, cache, layer, step, spec)
        pool = group["kv"]
        page, offset = write_slots(step, spec.group, pool.shape[2])
        written = pool.at[layer, page, offset].set(jnp.concatenate([k, v], axis=1).astype(pool.dtype))
        return {**cache, spec.group: {"kv": written}}

    @kernel("paged_attention", when=known_layout)
    def paged_attention(self, q: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Array:
        group = cache[spec.group]
        if "kv" not in group:
            return super().paged_attention(q, cache, layer, step, spec)
        keys, values = jnp.split(group["kv"], 2, axis=3)
        pairs = {"k": keys, "v": values}
        return attend_pages(q, kept(pairs, "k", layer), kept(pairs, "v", layer), step, spec)
