"""How the cache is laid out on a TPU, and the reference's kernels for what is not plain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from zif.contract import ArraySpec, AttentionSpec, CacheGroup, OpRequest, PlainFormat, Step, kernel, unless_known
from zif.reference.jax import JaxReference
from zif.reference.jax.attention import Kept, attend_pages, write_slots

Array = jax.Array


LANES = 128
"""Lanes of a vector register. An array whose rows are no multiple of them is stored padded, or copied for a kernel."""


@dataclass(frozen=True)
class JoinedFormat(PlainFormat):
    """Keys and values in one array ``kv`` whose rows are whole registers, so that no step copies the cache.

    XLA and the kernels agree on a layout where rows are whole registers and their number is a power of two. Groups
    that are like that by themselves are stored plain, others so:

    * several kv heads [layers, pages, page_size, rows, lanes]: a row a head, its key, then its value, then zeros.
    * a single one [layers, pages, page_size, 2, lanes]: its key, and the value below it. (A TPU keeps rows of 16 bits
      in pairs: one row alone would take twice its bytes, and no kernel could write one token of it.)
    """

    layout = "joined"

    def refusal(self, group: CacheGroup, page_size: int) -> str | None:
        if group.kind == "latent" or group.head_dim != group.v_head_dim:
            return "joins keys and values of one size"
        if group.head_dim % LANES == 0 and _rows(group) == group.kv_heads > 1:
            return "heads of whole registers, a power of two of them, are stored plain"
        return None

    def arrays(self, group: CacheGroup, page_size: int, num_pages: int) -> Mapping[str, ArraySpec]:
        rows, numbers = (2, group.head_dim) if group.kv_heads == 1 else (_rows(group), 2 * group.head_dim)
        lanes = -(-numbers // LANES) * LANES
        return {"kv": ArraySpec((group.layers, num_pages, page_size, rows, lanes), self.dtype)}


def _rows(group: CacheGroup) -> int:
    return 1 << (group.kv_heads - 1).bit_length()


def known_layout(kernels: Any, request: OpRequest) -> str | None:
    """``when=`` of the reference: joined, or what JAX's reads."""
    return None if request["cache_layout"] == JoinedFormat.layout else unless_known(kernels, request)


def joined(k: Array, v: Array, pool: Array) -> Array:
    """Keys and values [T, kv_heads, head_dim] as rows of ``pool``, which holds both: [T, rows, lanes] in its dtype."""
    both = jnp.concatenate([k, v], axis=1 if k.shape[1] == 1 else 2)
    _, rows, lanes = both.shape
    return jnp.pad(both, ((0, 0), (0, pool.shape[-2] - rows), (0, pool.shape[-1] - lanes))).astype(pool.dtype)


def parted(pool: Array, layer: Any, spec: AttentionSpec) -> tuple[Kept, Kept]:
    """What reads the keys and the values of pages of ``layer``: the contrary of :func:`joined`."""
    heads, head = spec.kv_heads, spec.head_dim
    if heads == 1:
        return lambda pages: pool[layer, pages][..., :1, :head], lambda pages: pool[layer, pages][..., 1:, :head]
    return (
        lambda pages: pool[layer, pages][..., :heads, :head],
        lambda pages: pool[layer, pages][..., :heads, head : 2 * head],
    )


def pools_of(group: Any) -> tuple[Array, ...]:
    """The arrays of a group: keys and values, or both in one."""
    return tuple(group[name] for name in sorted(group))


def page_size(group: Any) -> int:
    """Tokens of a page."""
    size: int = pools_of(group)[0].shape[2]
    return size


class TpuReference(JaxReference):
    """The JAX reference, in the layouts of one array too."""

    level = 1

    @kernel("kv_write", when=known_layout)
    def kv_write(self, k: Array, v: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group = cache[spec.group]
        if "kv" not in group:
            return super().kv_write(k, v, cache, layer, step, spec)
        pool = group["kv"]
        page, offset = write_slots(step, spec.group, pool.shape[2])
        return {**cache, spec.group: {"kv": pool.at[layer, page, offset].set(joined(k, v, pool))}}

    @kernel("paged_attention", when=known_layout)
    def paged_attention(self, q: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Array:
        group = cache[spec.group]
        if "kv" not in group:
            return super().paged_attention(q, cache, layer, step, spec)
        return attend_pages(q, *parted(group["kv"], layer, spec), step, spec)
