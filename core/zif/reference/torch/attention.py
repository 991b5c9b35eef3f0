"""Rotary embeddings, cache writes and attention in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.formats import LEVELS, unless_known
from zif.contract.kernels import KernelSet, kernel
from zif.contract.step import Step

Tensor = torch.Tensor


class TorchAttention(KernelSet):
    """Rotary embeddings, cache writes and attention in the formats of :mod:`zif.contract.formats`."""

    level = 1

    @kernel("rope_angles")
    def rope_angles(self, positions: Tensor, rope: RopeSpec) -> Tensor:
        frequencies = torch.tensor(rope.inv_freq, dtype=torch.float64, device=positions.device)
        angle = (positions.double()[:, None] * frequencies).remainder(2 * torch.pi).float()
        return torch.cat([angle.cos(), angle.sin()], dim=-1) * rope.attention_factor

    @kernel("rope")
    def rope(self, x: Tensor, angles: Tensor, interleaved: bool = False) -> Tensor:
        rotary = angles.shape[-1]
        cos, sin = angles[:, None, :].chunk(2, dim=-1)
        turned = x[..., :rotary].float()
        if interleaved:
            first, second = turned[..., 0::2], turned[..., 1::2]
        else:
            first, second = turned.chunk(2, dim=-1)
        parts = (first * cos - second * sin, second * cos + first * sin)
        out = torch.stack(parts, dim=-1).flatten(-2) if interleaved else torch.cat(parts, dim=-1)
        return torch.cat([out.to(x.dtype), x[..., rotary:]], dim=-1)

    @kernel("kv_write", when=unless_known)
    def kv_write(self, k: Tensor, v: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group = cache[spec.group]
        slots = write_slots(step, spec.group, group["k"].shape[2])
        store(group, "k", k, layer, slots)
        store(group, "v", v, layer, slots)
        return cache

    @kernel("paged_attention", capturable=False, when=unless_known)
    def paged_attention(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        group = cache[spec.group]
        page_size = group["k"].shape[2]
        return attend_pages(q, kept(group, "k", layer), kept(group, "v", layer), page_size, step, spec)


Kept = Callable[[Tensor], Tensor]
"""Page ids [n] -> what the pages hold, [n, page_size, heads, dim]."""


def store(group: Mapping[str, Tensor], name: str, rows: Tensor, layer: Any, slots: tuple[Tensor, Tensor]) -> None:
    """Write ``rows`` [T, heads, dim] of keys or values at ``slots``, in the format that the group has."""
    values = group[name]
    scales = group.get(f"{name}_scale")
    if scales is not None:
        rows, scale = scaled(rows)
        scales[(layer, *slots)] = scale
    values[(layer, *slots)] = stored(rows, values.dtype)


def scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(integers that int8 holds, scales float32): see :class:`zif.contract.formats.ScaledFormat`."""
    wide = rows.float()
    scale = wide.abs().amax(-1) * (1 / LEVELS)
    return (wide / torch.where(scale > 0, scale, 1.0)[..., None]).round(), scale


def kept(group: Mapping[str, Tensor], name: str, layer: Any) -> Kept:
    """What reads the pages of keys or values of a layer."""
    values, scales = group[name][layer], group.get(f"{name}_scale")
    if scales is None:
        return lambda pages: values[pages]
    of_layer = scales[layer]
    return lambda pages: values[pages].float() * of_layer[pages][..., None]


def stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` as a cache of ``dtype`` holds it; torch makes NaN of what is too large for a float of eight bits."""
    if dtype.itemsize == 1 and dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        x = x.clamp(-largest, largest)
    return x.to(dtype)


def write_slots(step: Step, group: str, page_size: int) -> tuple[Tensor, Tensor]:
    """(page, offset in it) of each token of a step, [T] each; (0, offset) for padding."""
    positions: Tensor = step.positions
    pages: Tensor = step.pages[group]
    page = pages[step.seqs, positions // page_size]
    real = torch.arange(positions.shape[0], device=positions.device) < step.num_tokens
    return torch.where(real, page, 0), positions % page_size


def attend_pages(q: Tensor, keys: Kept, values: Kept, page_size: int, step: Step, spec: AttentionSpec) -> Tensor:
    """Attention over pages, a sequence at a time; reads lengths on the host."""
    out = torch.zeros((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype, device=q.device)
    starts, lens = _host_ints(step.query_starts), _host_ints(step.kv_lens)
    tables: Tensor = step.pages[spec.group]
    for row, length in enumerate(lens):
        begin, end = starts[row], starts[row + 1]
        if begin == end or not length:
            continue
        pages = tables[row, : -(-length // page_size)]
        k = keys(pages).flatten(0, 1)[:length]
        v = values(pages).flatten(0, 1)[:length]
        out[begin:end] = attend(q[begin:end], k, v, length - (end - begin), spec)
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, before: int, spec: AttentionSpec) -> Tensor:
    """Causal attention of one sequence: q [Q, q_heads, d] behind ``before`` keys, k and v [before + Q, kv_heads, .]."""
    group = spec.q_heads // spec.kv_heads
    wide_q = q.float().reshape(q.shape[0], spec.kv_heads, group, spec.head_dim)
    scores = torch.einsum("qhgd,shd->hgqs", wide_q, k.float()) * spec.scale
    if spec.softcap is not None:
        scores = torch.tanh(scores / spec.softcap) * spec.softcap
    query = torch.arange(before, before + q.shape[0], device=q.device)[:, None]
    key = torch.arange(k.shape[0], device=q.device)[None, :]
    masked = key > query
    if spec.window is not None:
        masked |= key <= query - spec.window
    weights = scores.masked_fill(masked, float("-inf")).softmax(-1)
    # Slots behind every query's window may hold NaN, and 0 * NaN is NaN.
    wide_v = v.float().masked_fill(masked.all(0)[:, None, None], 0.0)
    return torch.einsum("hgqs,shd->qhgd", weights, wide_v).flatten(1, 2).to(q.dtype)


def _host_ints(array: Any) -> list[int]:
    ints: list[int] = array.tolist()
    return ints
