"""Writing keys and values into pages: a copy a token, from HBM to HBM, with several on their way at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Array = jax.Array
Ref = Any

IN_FLIGHT = 16
"""Tokens whose copies are on their way at once."""


def kv_write(
    sources: tuple[Array, ...],
    pools: tuple[Array, ...],
    layer: Any,
    pages: Array,
    offsets: Array,
    num_tokens: Array,
    *,
    interpret: Any = False,
) -> tuple[Array, ...]:
    """``pools`` [layers, pages, page_size, heads, D] each, with the ``sources`` [T, heads, D] in them.

    Token t goes to slot ``offsets[t]`` of page ``pages[t]`` of ``layer``; those from ``num_tokens`` [1]
    on go nowhere. The slots of a step differ. Consumes ``pools``.
    """
    in_hbm = pl.BlockSpec(memory_space=pl.ANY)
    count = len(pools)
    written: tuple[Array, ...] = pl.pallas_call(
        partial(_kernel, count),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(1,),
            in_specs=[in_hbm] * 2 * count,
            out_specs=[in_hbm] * count,
            scratch_shapes=[pltpu.SemaphoreType.DMA((count,))],
        ),
        out_shape=[jax.ShapeDtypeStruct(pool.shape, pool.dtype) for pool in pools],  # type: ignore[no-untyped-call]
        input_output_aliases={4 + count + i: i for i in range(count)},
        compiler_params=pltpu.CompilerParams(has_side_effects=True),
        cost_estimate=pl.CostEstimate(
            flops=0, transcendentals=0, bytes_accessed=2 * sum(source.nbytes for source in sources)
        ),
        interpret=interpret,
        name="zif_kv_write",
    )(jnp.asarray(layer, jnp.int32).reshape(1), pages, offsets, num_tokens, *sources, *pools)
    return tuple(written)


def _kernel(count: int, layer: Ref, pages: Ref, offsets: Ref, num_tokens: Ref, *refs: Ref) -> None:
    sources, pools, semaphores = refs[:count], refs[2 * count : 3 * count], refs[3 * count]

    def copies(token: Any, act: Any) -> None:
        for kind, (source, pool) in enumerate(zip(sources, pools, strict=True)):
            into = pool.at[layer[0], pages[token], offsets[token]]
            act(pltpu.make_async_copy(source.at[token], into, semaphores.at[kind]))

    def begin(token: Any, carry: Any) -> Any:
        @pl.when(token >= IN_FLIGHT)
        def _() -> None:
            copies(token - IN_FLIGHT, lambda copy: copy.wait())

        copies(token, lambda copy: copy.start())
        return carry

    real = num_tokens[0]
    jax.lax.fori_loop(0, real, begin, jnp.int32(0))
    finish = partial(_each, copies)
    jax.lax.fori_loop(jnp.maximum(real - IN_FLIGHT, 0), real, finish, jnp.int32(0))


def _each(copies: Any, token: Any, carry: Any) -> Any:
    copies(token, lambda copy: copy.wait())
    return carry
