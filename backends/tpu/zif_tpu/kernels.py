"""The Pallas kernels as kernels of the contract: what each serves, and why it refuses the rest."""

from __future__ import annotations

from typing import Any

import jax
from jax.experimental.pallas import tpu as pltpu

from zif.contract import AttentionSpec, KernelSet, OpRequest, Step, kernel, unless_plain
from zif.reference.jax.attention import write_slots
from zif_tpu.layout import LANES, JoinedFormat, joined, page_size, pools_of
from zif_tpu.pallas.kv_write import kv_write
from zif_tpu.pallas.ragged_attention import ragged_attention
from zif_tpu.pallas.rope_write import rope_write, turning

Array = jax.Array

HEAD = 16
"""Head sizes are multiples of this."""
PAGE = 8
"""Page sizes are multiples of this on a TPU: a page is whole tiles."""
KV_HEADS = 64
"""Most kv heads: the kernel's loop over them is unrolled."""


def _fits(kernels: PallasKernels, request: OpRequest) -> str | None:
    """``when=`` of every kernel: what a launch can hold, and a TPU's tiles."""
    if request["cache_layout"] != JoinedFormat.layout and (refusal := unless_plain(request, request.dtype)) is not None:
        return refusal
    if request["cache_format"] != request.dtype:
        return f"reads a cache of the activations' dtype {request.dtype}, not {request['cache_format']}"
    if request["head_dim"] != request["v_head_dim"]:
        return f"takes keys and values of one size, not {request['head_dim']} and {request['v_head_dim']}"
    if request["kv_heads"] > KV_HEADS:
        return f"takes up to {KV_HEADS} kv heads, not {request['kv_heads']}"
    if kernels.interpreted:
        return None
    if request["head_dim"] % HEAD:
        return f"takes heads of a multiple of {HEAD}, not {request['head_dim']}"
    if request["page_size"] % PAGE:
        return f"takes pages of a multiple of {PAGE} tokens, not {request['page_size']}: give another --page-size"
    return None


def _turns(kernels: PallasKernels, request: OpRequest) -> str | None:
    """``when=`` of the kernel that turns q and k as well."""
    if request["rotary_dim"] not in (0, request["head_dim"]):
        return f"turns whole heads, not {request['rotary_dim']} of {request['head_dim']}"
    spec: AttentionSpec = request["key"]
    if spec.rope is not None and spec.rope.interleaved:
        return "turns pairs of (i, i + half), not neighbours"
    if request["head_dim"] % LANES and not kernels.interpreted:
        return f"turns heads of a multiple of {LANES}, not {request['head_dim']}"
    return _fits(kernels, request)


class PallasKernels(KernelSet):
    """In every layout of :mod:`zif_tpu.layout`, as the reference too: either can serve a model's layers.

    ``interpret`` simulates a TPU on the host: buffers start as NaN, and races between copies are looked for.
    """

    provider = "pallas"
    level = 1

    def __init__(self, interpret: bool = False) -> None:
        self.interpreted = interpret
        params = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
        self._interpret: Any = params if interpret else False

    @kernel("rope_and_cache", when=_turns)
    def rope_and_cache(
        self, q: Array, k: Array, v: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec,
        angles: Array | None = None, q_norm: Array | None = None, k_norm: Array | None = None,
    ) -> tuple[Array, Any]:  # fmt: skip
        group = cache[spec.group]
        q, pools = rope_write(
            q, k, v, pools_of(group), layer, *write_slots(step, spec.group, page_size(group)), step.num_tokens,
            None if angles is None else turning(angles),
            None if q_norm is None or k_norm is None else (q_norm, k_norm),
            eps=spec.qk_norm_eps, offset=spec.qk_norm_offset, interpret=self._interpret,
        )  # fmt: skip
        return q, {**cache, spec.group: dict(zip(sorted(group), pools, strict=True))}

    @kernel("kv_write", when=_fits)
    def kv_write(self, k: Array, v: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group = cache[spec.group]
        pools = pools_of(group)
        if len(pools) == 1:
            sources: tuple[Array, ...] = (joined(k, v, pools[0]),)
        else:
            sources = tuple(x.astype(pool.dtype) for x, pool in zip((k, v), pools, strict=True))
        slots = write_slots(step, spec.group, page_size(group))
        written = kv_write(sources, pools, layer, *slots, step.num_tokens, interpret=self._interpret)
        return {**cache, spec.group: dict(zip(sorted(group), written, strict=True))}

    @kernel("paged_attention", when=_fits)
    def paged_attention(self, q: Array, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Array:
        return ragged_attention(
            q, pools_of(cache[spec.group]), layer, step.pages[spec.group], step.query_starts, step.kv_lens,
            step.num_tokens, kv_heads=spec.kv_heads, scale=spec.scale, window=spec.window, softcap=spec.softcap,
            decode=step.shape.decode, interpret=self._interpret,
        )  # fmt: skip
