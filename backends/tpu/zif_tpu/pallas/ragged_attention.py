"""Ragged paged attention: prefill chunks and decodes of many sequences in one launch.

Online softmax over blocks of pages (Dao et al. 2022; over ragged batches as in vLLM's TPU kernel).
The grid runs over blocks of queries, in order; each visits the sequences that have queries in it.
Pages are copied from HBM by the kernel itself into two buffers in turn: while one block is computed
on, the next one is on its way, of the next sequence or query block too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Array = jax.Array
Ref = Any

LANES = 128
MASKED = -1e30
"""A score that is not seen; finite, since -inf - -inf is NaN."""

BLOCK_TOKENS = 256
"""Keys of a block, in whole pages: enough that a copy is long, few enough for two buffers in VMEM."""

BUFFER_BYTES = 8 << 20
"""VMEM for the buffers, which bounds the keys of a block where there are many kv heads."""

ACCUMULATOR_BYTES = 1 << 20
"""VMEM for the accumulators of a block of queries, which bounds how many queries it has."""


@dataclass(frozen=True)
class Sizes:
    """What a launch is specialised for. ``queries`` tokens a block, ``pages`` pages a block of keys.

    Keys and values are in ``arrays`` arrays, whose rows have ``lanes`` numbers. A head's value is
    ``below`` rows below its key.
    """

    q_heads: int
    kv_heads: int
    lanes: int
    page_size: int
    width: int
    queries: int
    pages: int
    scale: float
    window: int | None
    softcap: float | None
    arrays: int
    below: int

    @property
    def per_kv(self) -> int:
        """Query heads of a kv head."""
        return self.q_heads // self.kv_heads

    @property
    def rows(self) -> int:
        """Rows of a block of queries, a kv head."""
        return self.queries * self.per_kv

    @property
    def keys(self) -> int:
        """Keys of a block."""
        return self.pages * self.page_size


def ragged_attention(
    q: Array,
    pools: tuple[Array, ...],
    layer: Any,
    tables: Array,
    query_starts: Array,
    kv_lens: Array,
    num_tokens: Array,
    *,
    kv_heads: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    decode: bool = False,
    interpret: Any = False,
) -> Array:
    """Causal attention of q [T, q_heads, D] over pages of ``layer``, in q's dtype.

    ``pools`` are keys and values [layers, pages, page_size, kv_heads, D], or one that holds both: of a single kv head
    [.., 2, lanes], the key and below it the value; of several [.., rows, lanes], a head's key, then its value.
    What is left of the lanes is finite. A query is zero behind its end, so of such a row it sees the key alone; of
    the rows' weighted sum the value's part is the result. Nothing is moved between lanes.
    Sequence b has tokens [query_starts[b], query_starts[b + 1]) of T and pages tables[b] of kv_lens[b]
    keys, the last of them its own tokens'. ``decode``: one token a sequence. Tokens from
    ``num_tokens`` [1] on are padding; their rows are zero or unspecified.
    """
    tokens, q_heads, head_dim = q.shape
    page_size, lanes = pools[0].shape[2], pools[0].shape[-1]
    joined = len(pools) == 1
    sizes = Sizes(
        q_heads, kv_heads, lanes, page_size, tables.shape[1], 1 if decode else _queries(tokens, q_heads, lanes),
        _pages(pools, tables.shape[1]), scale, window, softcap,
        len(pools), 1 if joined and kv_heads == 1 else 0,
    )  # fmt: skip
    blocks = -(-tokens // sizes.queries)
    padded = jnp.pad(q, ((0, blocks * sizes.queries - tokens), (0, 0), (0, lanes - head_dim)))
    grouped = padded.reshape(blocks, sizes.queries, kv_heads, sizes.per_kv, lanes).swapaxes(1, 2)
    grouped = grouped.reshape(blocks, kv_heads, sizes.rows, lanes)
    # counted, not searched: a search is a loop, which the compiler leaves inside the scan over layers
    at = jnp.arange(blocks, dtype=jnp.int32) * sizes.queries
    first = (query_starts[1:] <= at[:, None]).sum(1, dtype=jnp.int32)
    last = (query_starts[:-1] < jnp.minimum(at + sizes.queries, num_tokens)[:, None]).sum(1, dtype=jnp.int32)
    block = pl.BlockSpec((1, kv_heads, sizes.rows, lanes), lambda i, *_: (i, 0, 0, 0))
    in_hbm = pl.BlockSpec(memory_space=pl.ANY)
    buffers = [pltpu.VMEM((2, sizes.pages, *pool.shape[2:]), pool.dtype) for pool in pools]
    statistics = pltpu.VMEM((kv_heads, sizes.rows, LANES), jnp.float32)
    out = pl.pallas_call(
        partial(_kernel, sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=6,
            grid=(blocks,),
            in_specs=[block, *(in_hbm for _ in pools)],
            out_specs=block,
            scratch_shapes=[
                *buffers, pltpu.SemaphoreType.DMA((len(pools), 2)), pltpu.SMEM((2,), jnp.int32),
                statistics, statistics, pltpu.VMEM((kv_heads, sizes.rows, lanes), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(grouped.shape, q.dtype),  # type: ignore[no-untyped-call]
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        cost_estimate=_cost(sizes, head_dim, pools, tokens, tables.shape[0], q.dtype.itemsize, decode),
        interpret=interpret,
        name="zif_ragged_attention",
    )(
        jnp.asarray(layer, jnp.int32).reshape(1), first, last, query_starts, kv_lens, tables.reshape(-1),
        grouped, *pools,
    )  # fmt: skip
    out = out.reshape(blocks, kv_heads, sizes.queries, sizes.per_kv, lanes).swapaxes(1, 2)
    value = head_dim if joined and kv_heads > 1 else 0
    return out.reshape(blocks * sizes.queries, q_heads, lanes)[:tokens, :, value : value + head_dim]


def _pages(pools: tuple[Array, ...], width: int) -> int:
    """Pages of a block of keys."""
    page_bytes = sum(math.prod(pool.shape[2:]) * pool.dtype.itemsize for pool in pools)
    return max(1, min(width, BLOCK_TOKENS // pools[0].shape[2], BUFFER_BYTES // (2 * page_bytes)))


def _queries(tokens: int, q_heads: int, head_dim: int) -> int:
    """Tokens of a query block: a power of two whose accumulators fit."""
    fitting = ACCUMULATOR_BYTES // (q_heads * max(head_dim, LANES) * 4)
    return max(8, min(64, 1 << (fitting.bit_length() - 1), 1 << (tokens - 1).bit_length()))


def _cost(
    sizes: Sizes, head_dim: int, pools: tuple[Array, ...], tokens: int, seqs: int, itemsize: int, decode: bool
) -> pl.CostEstimate:
    """With every page table full: an upper bound, and what a report on a bucket means by its width."""
    keys = sizes.width * sizes.page_size
    keys = keys if sizes.window is None else min(keys, sizes.window + sizes.keys)
    scores = tokens * sizes.q_heads * keys
    row = sum(pool.shape[3] * pool.shape[4] for pool in pools)
    reads = (seqs if decode else -(-tokens // sizes.queries)) * keys * row
    through = 2 * tokens * sizes.q_heads * head_dim
    return pl.CostEstimate(
        flops=4 * scores * head_dim, transcendentals=scores, bytes_accessed=(reads + through) * itemsize
    )


def _kernel(z: Sizes, layer: Ref, firsts: Ref, lasts: Ref, starts: Ref, lens: Ref, tables: Ref, *refs: Ref) -> None:
    """``state``: [0] the buffer that comes next, [1] whether the copy into it has begun."""
    count = z.arrays
    q, pools, out, buffers = refs[0], refs[1 : 1 + count], refs[1 + count], refs[2 + count : 2 + 2 * count]
    semaphores, state, highest, total, accumulator = refs[2 + 2 * count :]
    block, blocks = pl.program_id(0), pl.num_programs(0)

    @pl.when(block == 0)
    def _() -> None:
        state[0] = 0
        state[1] = 0

    highest[...] = jnp.full_like(highest, MASKED)
    total[...] = jnp.zeros_like(total)
    accumulator[...] = jnp.zeros_like(accumulator)

    def reach(block: Any, seq: Any) -> tuple[Any, Any]:
        """[low, high): the positions that the block's queries of a sequence see; empty if it has none."""
        begin = jnp.maximum(starts[seq], block * z.queries)
        end = jnp.minimum(starts[seq + 1], (block + 1) * z.queries)
        ahead = lens[seq] - starts[seq + 1]
        high = jnp.where(end > begin, jnp.maximum(ahead + end, 0), 0)
        low = 0 if z.window is None else jnp.maximum(ahead + begin - z.window + 1, 0)
        return jnp.minimum(low, high), high

    def copies(seq: Any, at: Any, low: Any, high: Any, slot: Any, act: Any) -> None:
        """``act`` on the copy of each page of key block ``at`` that anyone sees."""
        for i in range(z.pages):
            page = at * z.pages + i

            @pl.when((page * z.page_size < high) & ((page + 1) * z.page_size > low))
            def _(page: Any = page, i: int = i) -> None:
                number = tables[seq * z.width + page]
                for kind, (source, buffer) in enumerate(zip(pools, buffers, strict=True)):
                    into = buffer.at[slot, i]
                    act(pltpu.make_async_copy(source.at[layer[0], number], into, semaphores.at[kind, slot]))

    def begin(block: Any, seq: Any, at: Any, low: Any, high: Any, slot: Any) -> None:
        copies(seq, at, low, high, slot, lambda copy: copy.start())

    def attend(seq: Any, at: Any, low: Any, high: Any, slot: Any) -> None:
        first_key = at * z.keys
        row_token = block * z.queries + jax.lax.broadcasted_iota(jnp.int32, (z.rows, z.keys), 0) // z.per_kv
        own = (row_token >= starts[seq]) & (row_token < starts[seq + 1])
        position = lens[seq] - starts[seq + 1] + row_token
        key = first_key + jax.lax.broadcasted_iota(jnp.int32, (z.rows, z.keys), 1)
        seen = own & (key <= position)
        if z.window is not None:
            seen &= key > position - z.window
        there = first_key + jax.lax.broadcasted_iota(jnp.int32, (z.keys, z.lanes), 0)
        there = (there >= low) & (there < high)
        precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
        for head in range(z.kv_heads):
            k = buffers[0][slot, :, :, head].reshape(z.keys, z.lanes)
            v = buffers[-1][slot, :, :, head + z.below].reshape(z.keys, z.lanes)
            v = jnp.where(there, v, jnp.zeros_like(v))  # a slot that is not seen may hold NaN, and 0 * NaN is NaN
            scores = jax.lax.dot_general(
                q[0, head], k, (((1,), (1,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
            )
            scores *= z.scale
            if z.softcap is not None:
                scores = jnp.tanh(scores / z.softcap) * z.softcap
            scores = jnp.where(seen, scores, MASKED)
            before = highest[head, :, :1]
            now = jnp.maximum(before, scores.max(-1, keepdims=True))
            weights = jnp.where(seen, jnp.exp(scores - now), 0.0)
            shrink = jnp.exp(before - now)
            mass = total[head, :, :1] * shrink + weights.sum(-1, keepdims=True)
            total[head] = jnp.broadcast_to(mass, (z.rows, LANES))
            update = jax.lax.dot_general(
                weights.astype(v.dtype), v, (((1,), (0,)), ((), ())), precision=precision,
                preferred_element_type=jnp.float32,
            )  # fmt: skip
            accumulator[head] = accumulator[head] * shrink + update
            highest[head] = jnp.broadcast_to(now, (z.rows, LANES))

    def sequence(seq: Any, carry: Any) -> Any:
        low, high = reach(block, seq)
        low_block, high_block = low // z.keys, pl.cdiv(high, z.keys)

        @pl.when((high_block > low_block) & (state[1] == 0))
        def _() -> None:
            begin(block, seq, low_block, low, high, state[0])

        def step(at: Any, carry: Any) -> Any:
            slot = state[0]
            last_of_block = seq + 1 >= lasts[block]
            next_block = jnp.where(last_of_block, jnp.minimum(block + 1, blocks - 1), block)
            over = last_of_block & (block + 1 >= blocks)
            next_seq = jnp.minimum(jnp.where(last_of_block, firsts[next_block], seq + 1), lens.shape[0] - 1)
            next_low, next_high = reach(next_block, next_seq)
            within = at + 1 < high_block
            more = within | (~over & (next_high > next_low))
            state[0] = 1 - slot
            state[1] = more.astype(jnp.int32)

            @pl.when(within)
            def _() -> None:
                begin(block, seq, at + 1, low, high, 1 - slot)

            @pl.when(more & ~within)
            def _() -> None:
                begin(next_block, next_seq, next_low // z.keys, next_low, next_high, 1 - slot)

            copies(seq, at, low, high, slot, lambda copy: copy.wait())
            attend(seq, at, low, high, slot)
            return carry

        return jax.lax.fori_loop(low_block, high_block, step, carry)

    jax.lax.fori_loop(firsts[block], lasts[block], sequence, jnp.int32(0))
    # a row that saw nothing is padding: 0
    out[0] = (accumulator[...] / jnp.maximum(total[...][:, :, :1], 1e-30)).astype(out.dtype)
