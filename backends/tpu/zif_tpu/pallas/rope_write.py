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
    arrays: int


def rope_write(
    q: Array,
    k: Array,
    v: Array,
    pools: tuple[Array, ...],
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
) -> tuple[Array, tuple[Array, ...]]:
    """(q, pools): q [T, q_heads, D] normalised and turned; k likewise and v [T, kv_heads, D] stored.

    Token t's go to slot ``offsets[t]`` of page ``pages[t]`` of ``layer`` of ``pools``: keys and values [layers, pages,
    page_size, kv_heads, D], or one that holds both (:mod:`zif_tpu.layout`). They are consumed. Tokens from
    ``num_tokens`` [1] on go nowhere. The slots of a step differ. ``turns``, of :func:`turning`; ``norms``, weights [D]
    of q and of k, which ``eps`` and ``offset`` belong to.
    """
    count, q_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    fitting = max(8, BLOCK_BYTES // (q_heads * max(head_dim, 128) * 4))
    tokens = min(count, 1 << (fitting.bit_length() - 1))
    sizes = Sizes(tokens, q_heads, kv_heads, head_dim, turns is not None, eps, offset, len(pools))
    cos, sin = turns if turns is not None else (jnp.zeros((count, head_dim)),) * 2
    of_q, of_k = norms if norms is not None else (jnp.zeros(head_dim, q.dtype),) * 2

    def rows(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((tokens, width), lambda i, *_: (i, 0))

    # heads side by side, as the linear before put them out: tokens are the rows of tiles, and nothing is laid out anew
    flat = [x.reshape(count, -1) for x in (q, k, v)]
    turn = rows(head_dim)
    weight = pl.BlockSpec((1, head_dim), lambda i, *_: (0, 0))
    in_hbm = pl.BlockSpec(memory_space=pl.ANY)
    done: tuple[Array, ...] = pl.pallas_call(
        partial(_kernel, sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(pl.cdiv(count, tokens),),
            in_specs=[*(rows(x.shape[1]) for x in flat), turn, turn, weight, weight, *(in_hbm for _ in pools)],
            out_specs=[pl.BlockSpec((tokens, q_heads, head_dim), lambda i, *_: (i, 0, 0)), *(in_hbm for _ in pools)],
            scratch_shapes=[
                *(pltpu.VMEM((tokens, *pool.shape[3:]), pool.dtype) for pool in pools),
                pltpu.SemaphoreType.DMA((len(pools),)),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (q, *pools)],  # type: ignore[no-untyped-call]
        input_output_aliases={11 + i: 1 + i for i in range(len(pools))},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",), has_side_effects=True),
        cost_estimate=pl.CostEstimate(
            flops=10 * (q.size + k.size), transcendentals=0, bytes_accessed=2 * (q.nbytes + k.nbytes + v.nbytes)
        ),
        interpret=interpret,
        name="zif_rope_write",
    )(
        jnp.asarray(layer, jnp.int32).reshape(1), pages, offsets, num_tokens,
        *flat, cos, sin, of_q.reshape(1, -1), of_k.reshape(1, -1), *pools,
    )  # fmt: skip
    return done[0], tuple(done[1:])


def turning(angles: Array) -> tuple[Array, Array]:
    """[cos | cos] and [-sin | sin] of ``angles`` [T, D] = [cos | sin], so that a turn is x cos + rolled x sin."""
    cos, sin = jnp.split(angles, 2, axis=-1)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def _kernel(
    z: Sizes, layer: Ref, pages: Ref, offsets: Ref, num_tokens: Ref, q: Ref, k: Ref, v: Ref, cos: Ref, sin: Ref,
    of_q: Ref, of_k: Ref, *refs: Ref,
) -> None:  # fmt: skip
    count = z.arrays
    out, pools, buffers = refs[count], refs[count + 1 : 2 * count + 1], refs[2 * count + 1 : -1]
    semaphores = refs[-1]
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

    buffer_of_k, buffer_of_v = buffers[0], buffers[-1]
    below = 1 if z.arrays == 1 and z.kv_heads == 1 else 0
    after = z.head_dim if z.arrays == 1 and z.kv_heads > 1 else 0
    if z.arrays == 1:  # rows of heads that are not there are stored too
        buffer_of_k[...] = jnp.zeros_like(buffer_of_k)
    for head in range(z.kv_heads):
        value = v[:, head * z.head_dim : (head + 1) * z.head_dim]
        buffer_of_k[:, head, : z.head_dim] = ready(k, of_k, head).astype(buffer_of_k.dtype)
        buffer_of_v[:, head + below, after : after + z.head_dim] = value.astype(buffer_of_v.dtype)

    def copies(token: Any, act: Any) -> None:
        for kind, (buffer, pool) in enumerate(zip(buffers, pools, strict=True)):
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
