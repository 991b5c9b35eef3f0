"""Launchers of rotary embeddings and of writing the cache."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.formats import unless_plain
from zif.contract.opspec import OpRequest
from zif.contract.step import Step
from zif.portable.triton.device import rotary as device
from zif.portable.triton.launching import FLOATS, Launch, ceil_div, floats, power_of_two
from zif.portable.triton.layers import dense_rows

Tensor = torch.Tensor
MAX_HEAD = 512
"""Longest head that a program keeps in registers."""
HEADS = 8
"""Most heads of a token that one program takes."""
PER_RADIAN = Fraction("0.15915494309189533576888376337251436203445964574046")
"""Turns to a radian, 1 / 2 pi."""


def head_fits(kernels: Any, request: OpRequest) -> str | None:
    """``when=`` of rope."""
    if request["head_dim"] > MAX_HEAD:
        return f"takes heads of up to {MAX_HEAD}, not {request['head_dim']}"
    return floats(kernels, request)


def cache_fits(kernels: Any, request: OpRequest) -> str | None:
    """``when=`` of what writes keys and values, of any float dtype, into a plain cache."""
    known = {*FLOATS, *kernels.machine.cache_dtypes}
    if (refusal := unless_plain(request, *sorted(known))) is not None:
        return refusal
    if max(request["head_dim"], request["v_head_dim"]) > MAX_HEAD:
        return f"takes heads of up to {MAX_HEAD}, not {request['head_dim']} and {request['v_head_dim']}"
    return floats(kernels, request)


def turns_of(rope: RopeSpec) -> list[int]:
    """How far a position turns each pair, in units of 2⁻⁶⁴ turns, as int64 that wrap; exact to half a unit."""
    unsigned = [round(Fraction(frequency) * PER_RADIAN * 2**64) % 2**64 for frequency in rope.inv_freq]
    return [turn - 2**64 if turn >= 2**63 else turn for turn in unsigned]


def rope_angles(launch: Launch, positions: Tensor, rope: RopeSpec, turns: Tensor) -> Tensor:
    """[T] int32 -> [T, rotary_dim] float32; ``turns`` is :func:`turns_of` on the device."""
    tokens, half = positions.shape[0], rope.rotary_dim // 2
    out = torch.empty((tokens, rope.rotary_dim), dtype=torch.float32, device=positions.device)
    block = power_of_two(half)
    constants = {"HALF": half, "TOKENS": 4, "BLOCK": block, "num_warps": 4}
    grid = (ceil_div(tokens, 4),)
    launch(device.rope_angles, grid, out, positions, turns, tokens, rope.attention_factor, **constants)
    return out


def _halves(head_dim: int, rotary: int) -> dict[str, int]:
    return {
        "HEAD_DIM": head_dim,
        "ROTARY": rotary,
        "HALF": power_of_two(max(rotary // 2, 1)),
        "REST": power_of_two(max(head_dim - rotary, 1)),
    }


def rope(launch: Launch, x: Tensor, angles: Tensor, interleaved: bool) -> Tensor:
    """Of x [T, heads, head_dim], whatever its strides; the result is contiguous."""
    tokens, heads, head_dim = x.shape
    x = dense_rows(x)
    out = torch.empty((tokens, heads, head_dim), dtype=x.dtype, device=x.device)
    block = min(power_of_two(heads), HEADS)
    constants = {**_halves(head_dim, angles.shape[-1]), "INTERLEAVED": interleaved, "HEADS": block, "num_warps": 4}
    grid = (tokens, ceil_div(heads, block))
    launch(device.rope, grid, out, x, angles.contiguous(), heads, x.stride(0), x.stride(1), **constants)
    return out


def _written(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, pages: Tensor) -> tuple[int, ...]:
    """Strides of what is written, of the cache, and of the page table."""
    return (*k.stride()[:2], *v.stride()[:2], *keys.stride()[:3], *values.stride()[:3], pages.stride(0))


def kv_write(
    launch: Launch, k: Tensor, v: Tensor, cache: Mapping[str, Tensor], layer: int, step: Step, spec: AttentionSpec
) -> None:
    """Into ``cache`` {k, v} of the plain layout, in place."""
    k, v, pages = dense_rows(k), dense_rows(v), dense_rows(step.pages[spec.group])
    keys, values = cache["k"][layer], cache["v"][layer]
    heads = min(power_of_two(spec.kv_heads), HEADS)
    launch(
        device.kv_write,
        (k.shape[0], ceil_div(spec.kv_heads, heads)),
        *(keys, values, k, v, pages, step.positions, step.seqs, step.num_tokens),
        *_written(k, v, keys, values, pages),
        KV_HEADS=spec.kv_heads,
        HEAD_DIM=spec.head_dim,
        V_HEAD_DIM=spec.v_head_dim,
        PAGE_SIZE=keys.shape[1],
        HEADS=heads,
        BLOCK=power_of_two(spec.head_dim),
        V_BLOCK=power_of_two(spec.v_head_dim),
        num_warps=4,
    )


def rope_and_cache(
    launch: Launch,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: Mapping[str, Tensor],
    layer: int,
    step: Step,
    spec: AttentionSpec,
    angles: Tensor | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
) -> Tensor:
    """Q ready for attention, contiguous; k and v are in ``cache`` {k, v} of the plain layout then."""
    normed, rotary = spec.qk_norm_eps is not None, 0
    if spec.rope is not None:
        assert angles is not None, "the spec rotates, and there are no angles"
        rotary, angles = spec.rope.rotary_dim, angles.contiguous()
    if normed:
        assert q_norm is not None and k_norm is not None, "the spec normalises q and k, and there are no weights"
    q, k, v, pages = dense_rows(q), dense_rows(k), dense_rows(v), dense_rows(step.pages[spec.group])
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    keys, values = cache["k"][layer], cache["v"][layer]
    heads = min(power_of_two(spec.kv_heads), HEADS)
    norms = (q_norm, k_norm) if normed else (q, q)
    launch(
        device.rope_and_cache,
        (q.shape[0], ceil_div(spec.q_heads, heads) + ceil_div(spec.kv_heads, heads)),
        *(out, keys, values, q, k, v, *norms, q if angles is None else angles),
        *(pages, step.positions, step.seqs, step.num_tokens, q.stride(0), q.stride(1)),
        *_written(k, v, keys, values, pages),
        spec.qk_norm_eps or 0.0,
        spec.qk_norm_offset,
        Q_HEADS=spec.q_heads,
        KV_HEADS=spec.kv_heads,
        V_HEAD_DIM=spec.v_head_dim,
        PAGE_SIZE=keys.shape[1],
        INTERLEAVED=spec.rope is not None and spec.rope.interleaved,
        NORM=normed,
        HEADS=heads,
        V_BLOCK=power_of_two(spec.v_head_dim),
        num_warps=4,
        **_halves(spec.head_dim, rotary),
    )
    return out
