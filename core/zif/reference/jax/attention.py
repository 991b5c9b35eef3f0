"""Rotary embeddings, cache writes and attention in the formats of :mod:`zif.contract.formats`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.formats import LEVELS, unless_known
from zif.contract.kernels import KernelSet, kernel
from zif.contract.step import Step
from zif.reference.jax.layers import contract

Array = jax.Array

AT_ONCE = 64
"""Tokens whose histories are gathered together; more go a batch of these after the other."""


class JaxAttention(KernelSet):
    """Attention by gathering the pages of each token's sequence."""

    level = 1

    @kernel("rope_angles")
    def rope_angles(self, positions: Array, rope: RopeSpec) -> Array:
        """Turns as 32-bit fractions, which wrap: exact at any position, with no 64-bit float."""
        turns = np.asarray(rope.inv_freq) / (2 * math.pi) * 2.0**32
        whole = np.floor(turns)
        at = positions[:, None]
        rest = at.astype(jnp.float32) * (turns - whole).astype(np.float32)
        fraction = at.astype(jnp.uint32) * (whole % 2.0**32).astype(np.uint32) + rest.astype(jnp.uint32)
        signed = jax.lax.bitcast_convert_type(fraction, jnp.int32)
        angle = signed.astype(jnp.float32) * (2 * math.pi / 2.0**32)
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1) * rope.attention_factor

    @kernel("rope")
    def rope(self, x: Array, angles: Array, interleaved: bool = False) -> Array:
        rotary = angles.shape[-1]
        cos, sin = jnp.split(angles[:, None, :], 2, axis=-1)
        turned = x[..., :rotary].astype(jnp.float32)
        if interleaved:
            first, second = turned[..., 0::2], turned[..., 1::2]
        else:
            first, second = jnp.split(turned, 2, axis=-1)
        parts = (first * cos - second * sin, second * cos + first * sin)
        out = jnp.stack(parts, axis=-1).reshape(turned.shape) if interleaved else jnp.concatenate(parts, axis=-1)
        return jnp.concatenate([out.astype(x.dtype), x[..., rotary:]], axis=-1)

    @kernel("kv_write", when=unless_known)
    def kv_write(self, k: Array, v: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group = cache[spec.group]
        slots = write_slots(step, spec.group, group["k"].shape[2])
        return {**cache, spec.group: store(group, "k", k, layer, slots) | store(group, "v", v, layer, slots)}

    @kernel("paged_attention", when=unless_known)
    def paged_attention(self, q: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Array:
        group = cache[spec.group]
        return attend_pages(q, kept(group, "k", layer), kept(group, "v", layer), step, spec)


Kept = Callable[[Array], Array]
"""Page ids [n] -> what the pages of a layer hold, [n, page_size, heads, dim]."""


def store(
    group: Mapping[str, Array], name: str, rows: Array, layer: Any, slots: tuple[Array, Array]
) -> dict[str, Array]:
    """The arrays of keys or values with ``rows`` [T, heads, dim] at ``slots``, in the format that the group has."""
    values, written = group[name], {}
    if (scales := group.get(f"{name}_scale")) is not None:
        rows, scale = scaled(rows)
        written[f"{name}_scale"] = scales.at[layer, *slots].set(scale)
    return written | {name: values.at[layer, *slots].set(stored(rows, values.dtype))}


def scaled(rows: Array) -> tuple[Array, Array]:
    """(integers that int8 holds, scales float32): see :class:`zif.contract.formats.ScaledFormat`."""
    wide = rows.astype(jnp.float32)
    scale = jnp.abs(wide).max(-1) * np.float32(1 / LEVELS)
    return jnp.rint(wide / jnp.where(scale > 0, scale, 1.0)[..., None]), scale


def kept(group: Mapping[str, Array], name: str, layer: Any) -> Kept:
    """What reads the pages of keys or values of a layer; the layer is not cut out, which would be a copy."""
    values, scales = group[name], group.get(f"{name}_scale")
    if scales is None:
        return lambda pages: values[layer, pages]
    return lambda pages: values[layer, pages].astype(jnp.float32) * scales[layer, pages][..., None]


def stored(x: Array, dtype: Any) -> Array:
    """``x`` as a cache of ``dtype`` holds it: in a float of eight bits no further than the largest that it has."""
    if dtype.itemsize == 1 and jnp.issubdtype(dtype, jnp.floating):
        largest = float(jnp.finfo(dtype).max)  # type: ignore[no-untyped-call]
        x = jnp.clip(x, -largest, largest)
    return x.astype(dtype)


def write_slots(step: Step, group: str, page_size: int) -> tuple[Array, Array]:
    """(page, offset in it) of each token of a step, [T] each; (0, offset) for padding."""
    positions: Any = step.positions
    page = step.pages[group][step.seqs, positions // page_size]
    real = jnp.arange(positions.shape[0]) < step.num_tokens
    return jnp.where(real, page, 0), positions % page_size


def attend_pages(q: Array, keys: Kept, values: Kept, step: Step, spec: AttentionSpec) -> Array:
    """Attention of q [T, q_heads, head_dim] over pages of a layer."""
    tables: Any = step.pages[spec.group]

    def one(token: tuple[Array, Array, Array]) -> Array:
        query, seq, position = token
        k, v = keys(tables[seq]), values(tables[seq])
        return _attend(query, k.reshape(-1, *k.shape[2:]), v.reshape(-1, *v.shape[2:]), position, spec)

    tokens: Any = (q, step.seqs, step.positions)
    if q.shape[0] <= AT_ONCE:
        return jax.vmap(one)(tokens)
    out: Array = jax.lax.map(one, tokens, batch_size=AT_ONCE)
    return out


def _attend(q: Array, k: Array, v: Array, position: Array, spec: AttentionSpec) -> Array:
    """One query [q_heads, head_dim] at ``position``; k and v [S, kv_heads, .], whatever is beyond it unread.

    Products are of q's dtype, accumulated in float32: a history that is stored in it is widened nowhere.
    """
    k, v = k.astype(q.dtype), v.astype(q.dtype)
    scores = contract("hgd,shd->hgs", q.reshape(spec.kv_heads, -1, spec.head_dim), k) * spec.scale
    if spec.softcap is not None:
        scores = jnp.tanh(scores / spec.softcap) * spec.softcap
    at = jnp.arange(k.shape[0])
    seen = at <= position
    if spec.window is not None:
        seen &= at > position - spec.window
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    # a slot that is not seen may hold NaN, and 0 * NaN is NaN
    read = jnp.where(seen[:, None, None], v, jnp.zeros((), v.dtype))
    return contract("hgs,shd->hgd", weights.astype(v.dtype), read).reshape(spec.q_heads, -1).astype(q.dtype)
