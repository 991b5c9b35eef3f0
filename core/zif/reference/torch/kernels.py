"""Array ops, layers and attention in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.kernel import KernelSet, kernel
from zif.contract.opspec import OpRequest
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.reference.torch.runtime import torch_dtype

Tensor = torch.Tensor


class TorchArrays(KernelSet):
    """Array ops. ``put`` and ``add_at`` write in place: a consumed target is the result's memory."""

    level = 1

    @kernel("where")
    def where(self, condition: Tensor, x: Any, y: Any) -> Tensor:
        return torch.where(condition, x, y)

    @kernel("arange")
    def arange(self, size: int, like: Tensor) -> Tensor:
        return torch.arange(size, dtype=torch.int32, device=like.device)

    @kernel("cast")
    def cast(self, x: Tensor, dtype: str) -> Tensor:
        return x.to(torch_dtype(dtype))

    @kernel("put")
    def put(self, target: Tensor, index: tuple[Tensor, ...], values: Any) -> Tensor:
        target[index] = values
        return target

    @kernel("add_at")
    def add_at(self, target: Tensor, index: tuple[Tensor, ...], values: Any) -> Tensor:
        values = torch.as_tensor(values, dtype=target.dtype, device=target.device)
        return target.index_put_(index, values, accumulate=True)

    @kernel("concat")
    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=-1)

    @kernel("repeat")
    def repeat(self, block: Callable[[Any, Any, Any], Any], stacked: Any, carry: Any, start: int, stop: int) -> Any:
        for i in range(start, stop):
            carry = block(stacked.layers[i], carry, i)
        return carry


def dense(_: Any, request: OpRequest) -> str | None:
    """``when=`` for kernels of weights as the reference packs them."""
    return None if request["format"] == "dense" else f"reads dense weights, not {request['format']}"


class TorchLayers(KernelSet):
    """Norms, linears, activations; float32 inside."""

    level = 1

    @kernel("embedding", when=dense)
    def embedding(self, ids: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        return F.embedding(ids, w.arrays["w"])

    @kernel("linear", when=dense)
    def linear(self, x: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        return F.linear(x, w.arrays["w"], w.arrays.get("b"))

    @kernel("rms_norm")
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return (wide * (weight.float() + offset)).to(x.dtype)

    @kernel("add")
    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return x + residual

    @kernel("gated_activation")
    def gated_activation(self, x: Tensor, kind: str) -> Tensor:
        gate, up = x.float().chunk(2, dim=-1)
        gate = F.silu(gate) if kind == "silu" else F.gelu(gate, approximate="tanh")
        return (gate * up).to(x.dtype)

    @kernel("softcap")
    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return (torch.tanh(x.float() / cap) * cap).to(x.dtype)


class TorchAttention(KernelSet):
    """Rotary embeddings, cache writes and attention in the plain cache layout."""

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

    @kernel("kv_write")
    def kv_write(self, k: Tensor, v: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group = cache[spec.group]
        page, offset = write_slots(step, spec.group, group["k"].shape[2])
        group["k"][layer, page, offset] = stored(k, group["k"].dtype)
        group["v"][layer, page, offset] = stored(v, group["v"].dtype)
        return cache

    @kernel("paged_attention", capturable=False)
    def paged_attention(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        group = cache[spec.group]
        return attend_pages(q, group["k"][layer], group["v"][layer], step, spec)


def stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` as a cache of ``dtype`` holds it; torch makes NaN of what is too large for eight bits."""
    if dtype.itemsize == 1:
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


def attend_pages(q: Tensor, keys: Tensor, values: Tensor, step: Step, spec: AttentionSpec) -> Tensor:
    """Attention over pages [pages, page_size, kv_heads, .], a sequence at a time; reads lengths on the host."""
    page_size = keys.shape[1]
    out = torch.zeros((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype, device=q.device)
    starts, lens = _host_ints(step.query_starts), _host_ints(step.kv_lens)
    tables: Tensor = step.pages[spec.group]
    for row, length in enumerate(lens):
        begin, end = starts[row], starts[row + 1]
        if begin == end or not length:
            continue
        pages = tables[row, : -(-length // page_size)]
        k = keys[pages].flatten(0, 1)[:length]
        v = values[pages].flatten(0, 1)[:length]
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
