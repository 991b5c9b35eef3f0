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
    k: Array,
    v: Array,
    keys: Array,
    values: Array,
    layer: Any,
    pages: Array,
    offsets: Array,
    num_tokens: Array,
    *,
    interpret: Any = False,
) -> tuple[Array, Array]:
    """``keys`` and ``values`` [layers, pages, page_size, kv_heads, D] with k and v [T, kv_heads, D] in them.

    Token t goes to slot ``offsets[t]`` of page ``pages[t]`` of ``layer``; those from ``num_tokens`` [1]
    on go nowhere. The slots of a step differ. Consumes ``keys`` and ``values``.
    """
    in_hbm = pl.BlockSpec(memory_space=pl.ANY)
    written: tuple[Array, Array] = pl.pallas_call(
        _kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(1,),
            in_specs=[in_hbm] * 4,
            out_specs=[in_hbm] * 2,
            scratch_shapes=[pltpu.SemaphoreType.DMA((2,))],
        ),
        out_shape=[jax.ShapeDtypeStruct(pool.shape, pool.dtype) for pool in (keys, values)],  # type: ignore[no-untyped-call]
        input_output_aliases={6: 0, 7: 1},
        compiler_params=pltpu.CompilerParams(has_side_effects=True),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=2 * (k.nbytes + v.nbytes)),
        interpret=interpret,
        name="zif_kv_write",
    )(jnp.asarray(layer, jnp.int32).reshape(1), pages, offsets, num_tokens, k, v, keys, values)
    return written[0], written[1]


def _kernel(
    layer: Ref, pages: Ref, offsets: Ref, num_tokens: Ref, k: Ref, v: Ref, _keys: Ref, _values: Ref,
    keys: Ref, values: Ref, semaphores: Ref,
) -> None:  # fmt: skip
    def copies(token: Any, act: Any) -> None:
        for kind, (source, pool) in enumerate(((k, keys), (v, values))):
            into = pool.at[layer[0], pages[token], offsets[token]]
            act(pltpu.make_async_copy(source.at[token], into, semaphores.at[kind]))

    def begin(token: Any, carry: Any) -> Any:
        @pl.when(token >= IN_FLIGHT)
        def _() -> None:
            copies(token - IN_FLIGHT, lambda copy: copy.wait())

        copies(token, lambda copy: copy.start())
        return carry

    count = num_tokens[0]
    jax.lax.fori_loop(0, count, begin, jnp.int32(0))
    finish = partial(_each, copies)
    jax.lax.fori_loop(jnp.maximum(count - IN_FLIGHT, 0), count, finish, jnp.int32(0))


def _each(copies: Any, token: Any, carry: Any) -> Any:
    copies(token, lambda copy: copy.wait())
    return carry
