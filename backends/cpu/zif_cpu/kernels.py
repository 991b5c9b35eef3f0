"""The cpu backend's kernels: what each serves, and the native function behind it."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import addressof, c_int64
from typing import Any

import torch

from zif.contract import (
    AttentionSpec,
    KernelSet,
    OpRequest,
    Ops,
    PackedWeight,
    RopeSpec,
    Step,
    When,
    kernel,
    unless_plain,
)
from zif.reference.torch.runtime import torch_dtype
from zif_cpu.native import DTYPES, LONG_ROWS, Native
from zif_cpu.packing import FORMAT

Tensor = torch.Tensor

MAX_GROUP = 128
"""Most query heads of a kv head that a tile takes (kTileRows in native/attention_tile.h)."""
MAX_HEAD = 1024
"""Largest head that rope_and_cache keeps on its stack (native/elementwise.cpp)."""


def _native(*conditions: Callable[[OpRequest], str | None]) -> When:
    """``when=`` of a native kernel: compiled, a dtype it knows, and whatever else it asks for."""

    def when(kernels: NativeKernels, request: OpRequest) -> str | None:
        if kernels.missing is not None:
            return kernels.missing
        if request.dtype not in DTYPES:
            return f"takes {' or '.join(DTYPES)}, not {request.dtype}"
        return next((refusal for condition in conditions if (refusal := condition(request)) is not None), None)

    return when


def _panels(request: OpRequest) -> str | None:
    return None if request["format"] == FORMAT else f"reads weights packed as {FORMAT}, not {request['format']}"


def _plain_heads(request: OpRequest) -> str | None:
    if (refusal := unless_plain(request, request.dtype)) is not None:
        return refusal
    if request["head_dim"] != request["v_head_dim"]:
        return f"takes keys and values of one size, not {request['head_dim']} and {request['v_head_dim']}"
    if request["q_heads"] > MAX_GROUP * request["kv_heads"]:
        return f"takes up to {MAX_GROUP} query heads a kv head, not {request['q_heads'] // request['kv_heads']}"
    if request["head_dim"] % 2 or request["head_dim"] > MAX_HEAD:
        return f"takes an even head size up to {MAX_HEAD}, not {request['head_dim']}"
    return None


class NativeKernels(KernelSet):
    """Kernels compiled on this machine; ``missing`` says why there are none."""

    provider = "cpu"
    level = 1

    def __init__(self, native: Native | None, missing: str | None) -> None:
        assert (native is None) == (missing is not None)
        self._native = native
        self.missing = missing
        self._frequencies: dict[RopeSpec, Tensor] = {}

    @property
    def native(self) -> Native:
        assert self._native is not None, "a kernel that refuses everything was called"
        return self._native

    @kernel("embedding", when=_native(_panels))
    def embedding(self, ids: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        return self.native.embedding(ids, w.arrays["w"], w.shape[1])

    @kernel("linear", when=_native(_panels))
    def linear(self, x: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        arrays = w.arrays
        return self.native.linear(x, arrays["w"], arrays.get("b"), w.shape[0])

    @kernel("rms_norm", when=_native())
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        out = torch.empty(x.shape, dtype=x.dtype)
        rows = _rows(x)
        self._norm(out, None, rows, None, weight, eps, offset)
        return out

    @kernel("add_norm", when=_native())
    def add_norm(
        self,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        eps: float,
        offset: float = 0.0,
        consumers: tuple[PackedWeight, ...] = (),
        step: Step | None = None,
    ) -> tuple[Tensor, Tensor]:
        out, total = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
        self._norm(out, total, _rows(x), residual.contiguous(), weight, eps, offset)
        return out, total

    def _norm(
        self, out: Tensor, total: Tensor | None, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float,
        offset: float,
    ) -> None:  # fmt: skip
        rows, size = x.shape
        kind = (x.dtype is torch.bfloat16) + 2 * (weight.dtype is torch.bfloat16)
        self.native.norm(
            out.data_ptr(), None if total is None else total.data_ptr(), x.data_ptr(),
            None if residual is None else residual.data_ptr(), weight.data_ptr(), rows, size, x.stride(0), eps, offset,
            kind, self.native.threads,
        )  # fmt: skip

    @kernel("gated_activation", when=_native())
    def gated_activation(self, x: Tensor, kind: str) -> Tensor:
        if x.stride(1) != 1:
            x = x.contiguous()
        rows, size = x.shape[0], x.shape[1] // 2
        out = torch.empty((rows, size), dtype=x.dtype)
        self.native.gated(
            out.data_ptr(), x.data_ptr(), rows, size, x.stride(0), kind == "silu", x.dtype is torch.bfloat16,
            self.native.threads,
        )  # fmt: skip
        return out

    @kernel("cast", when=_native())
    def cast(self, x: Tensor, dtype: str) -> Tensor:
        if x.dtype is not torch.bfloat16 or dtype != "float32" or not x.is_contiguous():
            return x.to(torch_dtype(dtype))
        out = torch.empty(x.shape, dtype=torch.float32)  # logits: torch's own threads would be in the way of ours
        self.native.widen(out.data_ptr(), x.data_ptr(), x.numel(), self.native.threads)
        return out

    @kernel("rope_angles", when=_native())
    def rope_angles(self, positions: Tensor, rope: RopeSpec) -> Tensor:
        frequencies = self._frequencies.get(rope)
        if frequencies is None:
            frequencies = self._frequencies[rope] = torch.tensor(rope.inv_freq, dtype=torch.float64)
        tokens = positions.shape[0]
        out = torch.empty((tokens, rope.rotary_dim), dtype=torch.float32)
        self.native.angles(
            out.data_ptr(), positions.data_ptr(), frequencies.data_ptr(), tokens, rope.rotary_dim // 2,
            rope.attention_factor, self.native.threads,
        )  # fmt: skip
        return out

    @kernel("rope_and_cache", makes=True, when=_native(_plain_heads))
    def rope_and_cache(self, request: OpRequest, ops: Ops) -> Callable[..., tuple[Tensor, Any]]:
        spec: AttentionSpec = request["key"]
        native, is_bf16 = self.native, DTYPES[request.dtype]
        rotary = spec.rope.rotary_dim if spec.rope is not None else 0
        interleaved = spec.rope is not None and spec.rope.interleaved
        eps = spec.qk_norm_eps or 0.0
        heads, kv_heads, dim = spec.q_heads, spec.kv_heads, spec.head_dim
        pointers, dims = (c_int64 * 13)(), (c_int64 * 18)()
        pointers_at, dims_at = addressof(pointers), addressof(dims)

        def run(
            q: Tensor, k: Tensor, v: Tensor, cache: Any, layer: int, step: Step, spec: AttentionSpec,
            angles: Tensor | None = None, q_norm: Tensor | None = None, k_norm: Tensor | None = None,
        ) -> tuple[Tensor, Any]:  # fmt: skip
            q, k, v = _heads(q, dim), _heads(k, dim), _heads(v, dim)
            keys, values = cache[spec.group]["k"], cache[spec.group]["v"]
            pages: Any = step.pages[spec.group]
            step_any: Any = step
            tokens, size = q.shape[0], keys.element_size()
            out = torch.empty((tokens, heads, dim), dtype=q.dtype)
            _, page, slot, head, _ = keys.stride()
            pointers[:] = [
                out.data_ptr(), keys.data_ptr() + layer * keys.stride(0) * size,
                values.data_ptr() + layer * values.stride(0) * size, q.data_ptr(), k.data_ptr(), v.data_ptr(),
                0 if angles is None else angles.data_ptr(), 0 if q_norm is None else q_norm.data_ptr(),
                0 if k_norm is None else k_norm.data_ptr(), step_any.positions.data_ptr(), step_any.seqs.data_ptr(),
                pages.data_ptr(), step_any.num_tokens.data_ptr(),
            ]  # fmt: skip
            dims[:] = [
                tokens, heads, kv_heads, dim, dim, rotary, interleaved, q.stride(0), k.stride(0), v.stride(0),
                pages.stride(0), keys.shape[2], page, head, slot, page, head, slot,
            ]  # fmt: skip
            native.rope_and_cache(pointers_at, dims_at, eps, spec.qk_norm_offset, is_bf16, native.threads)
            return out, cache

        return run

    @kernel("paged_attention", makes=True, when=_native(_plain_heads))
    def paged_attention(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor]:
        spec: AttentionSpec = request["key"]
        native, is_bf16 = self.native, DTYPES[request.dtype]
        heads, kv_heads, dim = spec.q_heads, spec.kv_heads, spec.head_dim
        scale, softcap, window = spec.scale, spec.softcap or 0.0, spec.window or 0
        dims = (c_int64 * 12)()
        dims_at = addressof(dims)

        def run(q: Tensor, cache: Any, layer: int, step: Step, spec: AttentionSpec) -> Tensor:
            q = _heads(q, dim)
            keys, values = cache[spec.group]["k"], cache[spec.group]["v"]
            pages: Any = step.pages[spec.group]
            step_any: Any = step
            tokens = q.shape[0]
            offset = layer * keys.stride(0) * keys.element_size()
            out = torch.empty((tokens, heads, dim), dtype=q.dtype)
            _, page, slot, head, _ = keys.stride()
            dims[:] = [
                pages.shape[0], pages.stride(0), keys.shape[2], heads, kv_heads, dim, q.stride(0), page, head, slot,
                window, tokens,
            ]  # fmt: skip
            call = native.attention if tokens < LONG_ROWS else native.attention_released
            call(
                out.data_ptr(), q.data_ptr(), keys.data_ptr() + offset, values.data_ptr() + offset,
                step_any.query_starts.data_ptr(), step_any.kv_lens.data_ptr(), pages.data_ptr(), dims_at, scale,
                softcap, is_bf16, native.threads,
            )  # fmt: skip
            return out

        return run

    @kernel("argmax", when=_native())
    def argmax(self, logits: Tensor) -> Tensor:
        return self._draw(logits, None, None, None)

    @kernel("sample", when=_native())
    def sample(self, logits: Tensor, temperature: Tensor, seed: Tensor, position: Tensor) -> Tensor:
        return self._draw(logits, temperature.contiguous(), seed.contiguous(), position.contiguous())

    @kernel("penalize", when=_native())
    def penalize(
        self,
        logits: Tensor,
        output_counts: Tensor,
        in_prompt: Tensor,
        repetition: Tensor,
        presence: Tensor,
        frequency: Tensor,
    ) -> Tensor:
        out = torch.empty(logits.shape, dtype=torch.float32)
        arguments = [x.contiguous() for x in (logits, output_counts, in_prompt, repetition, presence, frequency)]
        self.native.penalize(out.data_ptr(), *(x.data_ptr() for x in arguments), *out.shape, self.native.threads)
        return out

    @kernel("filter_logits", when=_native())
    def filter_logits(self, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
        logits = _rows(logits)
        out = torch.empty(logits.shape, dtype=torch.float32)
        limits = [x.contiguous() for x in (temperature, top_k, top_p, min_p)]
        self.native.filter_released(
            out.data_ptr(), logits.data_ptr(), *(x.data_ptr() for x in limits), *logits.shape, logits.stride(0),
            self.native.threads,
        )  # fmt: skip
        return out

    def _draw(self, logits: Tensor, temperature: Tensor | None, seed: Tensor | None, position: Tensor | None) -> Tensor:
        logits = _rows(logits)
        out = torch.empty(logits.shape[0], dtype=torch.int32)
        self.native.draw(
            out.data_ptr(), logits.data_ptr(),
            *(0 if x is None else x.data_ptr() for x in (temperature, seed, position)),
            logits.shape[0], logits.shape[1], logits.stride(0), self.native.threads,
        )  # fmt: skip
        return out


def _rows(x: Tensor) -> Tensor:
    """Give x [..., size] as [rows, size] with rows one after the other, however far apart."""
    if x.ndim == 2 and x.stride(1) == 1:
        return x
    return x.reshape(-1, x.shape[-1]).contiguous()


def _heads(x: Tensor, dim: int) -> Tensor:
    """Give x [T, heads, dim] with the heads of a token one after the other."""
    return x if x.stride(1) == dim and x.stride(2) == 1 else x.contiguous()
