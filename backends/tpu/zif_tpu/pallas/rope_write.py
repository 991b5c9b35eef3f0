"""What comes before attention in one launch: norms of q and k a head, their rotation, and the writing of k and v.

XLA makes a dozen small fusions of it, with q and k in float32 between them, and a scatter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Array = jax.Array
Ref = Any

BLOCK_BYTES = 1 << 20
"""VMEM for the q of a block of tokens in float32, which bounds how many tokens it has."""


@dataclass(frozen=True)
class Sizes:
    """What a launch is specialised for. ``tokens`` a block; ``eps`` None for no norm."""

    tokens: int
    q_heads: int
    kv_heads: int
    head_dim: int
    rotary: bool
    eps: float | None
    offset: float


def rope_write(
    q: Array,
    k: Array,
    v: Array,
    keys: Array,
    values: Array,
    layer: Any,
    pages: Array,
    offsets: Array,
    num_tokens: Array,
    turns: tuple[Array, Array] | None = None,
    norms: tuple[Array, Array] | None = None,
    *,
    eps: float | None = None,
    offset: float = 0.0,
    interpret: Any = False,
) -> tuple[Array, Array, Array]:
    """(q, keys, values): q [T, q_heads, D] normalised and turned; k likewise and v [T, kv_heads, D] stored.

    Token t's go to slot ``offsets[t]`` of page ``pages[t]`` of ``layer`` of ``keys`` and ``values`` [layers,
    pages, page_size, kv_heads, D], which are consumed; those from ``num_tokens`` [1] on go nowhere. The slots of
    a step differ. ``turns``, of :func:`turning`; ``norms``, weights [D] of q and of k, which ``eps`` and
    ``offset`` belong to.
    """
    count, q_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    fitting = max(8, BLOCK_BYTES // (q_heads * max(head_dim, 128) * 4))
    tokens = min(count, 1 << (fitting.bit_length() - 1))
    sizes = Sizes(tokens, q_heads, kv_heads, head_dim, turns is not None, eps, offset)
    cos, sin = turns if turns is not None else (jnp.zeros((count, head_dim)),) * 2
    of_q, of_k = norms if norms is not None else (jnp.zeros(head_dim, q.dtype),) * 2

    def rows(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((tokens, width), lambda i, *_: (i, 0))

    # heads side by side, as the linear before put them out: tokens are the rows of tiles, and nothing is laid out anew
    flat = [x.reshape(count, -1) for x in (q, k, v)]
    turn = rows(head_dim)
    weight = pl.BlockSpec((1, head_dim), lambda i, *_: (0, 0))
    in_hbm = pl.BlockSpec(memory_space=pl.ANY)
    done: tuple[Array, Array, Array] = pl.pallas_call(
        partial(_kernel, sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(pl.cdiv(count, tokens),),
            in_specs=[*(rows(x.shape[1]) for x in flat), turn, turn, weight, weight, in_hbm, in_hbm],
            out_specs=[pl.BlockSpec((tokens, q_heads, head_dim), lambda i, *_: (i, 0, 0)), in_hbm, in_hbm],
            scratch_shapes=[pltpu.VMEM((tokens, kv_heads, head_dim), keys.dtype)] * 2
            + [pltpu.SemaphoreType.DMA((2,))],
        ),
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (q, keys, values)],  # type: ignore[no-untyped-call]
        input_output_aliases={11: 1, 12: 2},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",), has_side_effects=True),
        cost_estimate=pl.CostEstimate(
            flops=10 * (q.size + k.size), transcendentals=0, bytes_accessed=2 * (q.nbytes + k.nbytes + v.nbytes)
        ),
        interpret=interpret,
        name="zif_rope_write",
    )(
        jnp.asarray(layer, jnp.int32).reshape(1), pages, offsets, num_tokens,
        *flat, cos, sin, of_q.reshape(1, -1), of_k.reshape(1, -1), keys, values,
    )  # fmt: skip
    return done[0], done[1], done[2]


def turning(angles: Array) -> tuple[Array, Array]:
    """[cos | cos] and [-sin | sin] of ``angles`` [T, D] = [cos | sin], so that a turn is x cos + rolled x sin."""
    cos, sin = jnp.split(angles, 2, axis=-1)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def _kernel(
    z: Sizes, layer: Ref, pages: Ref, offsets: Ref, num_tokens: Ref, q: Ref, k: Ref, v: Ref, cos: Ref, sin: Ref,
    of_q: Ref, of_k: Ref, _keys: Ref, _values: Ref, out: Ref, keys: Ref, values: Ref, k_buffer: Ref, v_buffer: Ref,
    semaphores: Ref,
) -> None:  # fmt: skip
    first = pl.program_id(0) * z.tokens

    def ready(x: Ref, weight: Ref, head: int) -> Array:
        """One head of a block, [tokens, D] float32."""
        turned = x[:, head * z.head_dim : (head + 1) * z.head_dim].astype(jnp.float32)
        if z.eps is not None:
            turned = turned * jax.lax.rsqrt(jnp.mean(turned * turned, axis=-1, keepdims=True) + z.eps)
            turned = turned * (weight[...].astype(jnp.float32) + z.offset)
        if z.rotary:
            turned = turned * cos[...] + pltpu.roll(turned, z.head_dim // 2, axis=1) * sin[...]
        return turned

    for head in range(z.kv_heads):
        k_buffer[:, head] = ready(k, of_k, head).astype(k_buffer.dtype)
        v_buffer[:, head] = v[:, head * z.head_dim : (head + 1) * z.head_dim].astype(v_buffer.dtype)

    def copies(token: Any, act: Any) -> None:
        for kind, (buffer, pool) in enumerate(((k_buffer, keys), (v_buffer, values))):
            into = pool.at[layer[0], pages[first + token], offsets[first + token]]
            act(pltpu.make_async_copy(buffer.at[token], into, semaphores.at[kind]))

    def begin(token: Any, carry: Any) -> Any:
        copies(token, lambda copy: copy.start())
        return carry

    def finish(token: Any, carry: Any) -> Any:
        copies(token, lambda copy: copy.wait())
        return carry

    real = jnp.clip(num_tokens[0] - first, 0, z.tokens)
    jax.lax.fori_loop(0, real, begin, jnp.int32(0))
    for head in range(z.q_heads):  # while the copies are on their way
        out[:, head] = ready(q, of_q, head).astype(out.dtype)
    jax.lax.fori_loop(0, real, finish, jnp.int32(0))
