"""The kernel sets: what serves which request of the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.kernels import KernelSet, kernel
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.portable.triton import layers, rotary, sampling, table
from zif.portable.triton.attention import PagedAttention, attention_fits
from zif.portable.triton.launching import Launch, Machine, floats, launch
from zif.portable.triton.layers import SPLIT_SUM, SplitSum, kind_known, row_fits
from zif.portable.triton.rotary import cache_fits, head_fits, turns_of

Tensor = torch.Tensor


class TritonKernels(KernelSet):
    """Triton's kernels over torch tensors, in the plain cache layout; ``machine`` is what they are tuned by.

    Deterministic and free of host synchronisation. The first call of a kind compiles: call each once
    before capturing.
    """

    provider = "triton"
    level = 1

    def __init__(self, machine: Machine | None = None, launch: Launch = launch) -> None:
        self.machine = machine or Machine()
        self._launch = launch
        self._turns: dict[tuple[RopeSpec, torch.device], Tensor] = {}

    @kernel("rms_norm", when=row_fits, takes={"x": (SPLIT_SUM,)})
    def rms_norm(self, x: Tensor | SplitSum, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        return layers.rms_norm(self._launch, x, weight, eps, offset)

    @kernel("add_norm", when=row_fits, takes={"x": (SPLIT_SUM,)})
    def add_norm(
        self,
        x: Tensor | SplitSum,
        residual: Tensor,
        weight: Tensor,
        eps: float,
        offset: float = 0.0,
        consumers: tuple[PackedWeight, ...] = (),
        step: Step | None = None,
    ) -> tuple[Tensor, Tensor]:
        return layers.add_norm(self._launch, x, residual, weight, eps, offset)

    @kernel("add", takes={"x": (SPLIT_SUM,), "residual": (SPLIT_SUM,)})
    def add(self, x: Tensor | SplitSum, residual: Tensor | SplitSum) -> Tensor:
        return layers.add(self._launch, x, residual)

    @kernel("gated_activation", when=kind_known)
    def gated_activation(self, x: Tensor, kind: str) -> Tensor:
        return layers.gated_activation(self._launch, x, kind)

    @kernel("softcap", when=floats)
    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return layers.softcap(self._launch, x, cap)

    @kernel("rope_angles")
    def rope_angles(self, positions: Tensor, rope: RopeSpec) -> Tensor:
        key = (rope, positions.device)
        turns = self._turns.get(key)
        if turns is None:
            turns = torch.tensor(turns_of(rope), dtype=torch.int64, device=positions.device)
            self._turns[key] = turns
        return rotary.rope_angles(self._launch, positions, rope, turns)

    @kernel("rope", when=head_fits)
    def rope(self, x: Tensor, angles: Tensor, interleaved: bool = False) -> Tensor:
        return rotary.rope(self._launch, x, angles, interleaved)

    @kernel("kv_write", when=cache_fits)
    def kv_write(self, k: Tensor, v: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        rotary.kv_write(self._launch, k, v, cache[spec.group], layer, step, spec)
        return cache

    @kernel("rope_and_cache", when=cache_fits)
    def rope_and_cache(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Any,
        layer: Any,
        step: Step,
        spec: AttentionSpec,
        angles: Tensor | None = None,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        group = cache[spec.group]
        q = rotary.rope_and_cache(self._launch, q, k, v, group, layer, step, spec, angles, q_norm, k_norm)
        return q, cache

    @kernel("paged_attention", when=attention_fits, makes=True)
    def paged_attention(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor]:
        return PagedAttention.of(request, self.machine, self._launch)

    @kernel("argmax")
    def argmax(self, logits: Tensor) -> Tensor:
        return sampling.choose(self._launch, logits)

    @kernel("sample")
    def sample(self, logits: Tensor, temperature: Tensor, seed: Tensor, position: Tensor) -> Tensor:
        return sampling.choose(self._launch, logits, (temperature, seed, position))

    @kernel("sample_rows")
    def sample_rows(
        self,
        logits: Tensor,
        rows: Tensor,
        temperature: Tensor,
        seed: Tensor,
        kv_len: Tensor,
        last_token: Tensor,
        random: bool,
    ) -> tuple[Tensor, Tensor]:
        draws = (temperature, seed, kv_len) if random else None
        return sampling.choose(self._launch, logits, draws, (rows, last_token)), last_token

    @kernel("decode_inputs")
    def decode_inputs(
        self,
        rows: Tensor,
        tokens: Tensor,
        last_token: Tensor,
        kv_len: Tensor,
        pages: Mapping[str, Tensor],
        page_rows: Tensor,
        page_indices: Tensor,
        page_ids: Mapping[str, Tensor],
        width: int,
        factors: Mapping[str, int],
    ) -> tuple[Any, ...]:
        given = (rows, tokens, last_token, kv_len, pages, page_rows, page_indices, page_ids, width, factors)
        return table.decode_inputs(self._launch, *given)

    @kernel("mixed_inputs")
    def mixed_inputs(
        self,
        rows: Tensor,
        tokens: Tensor,
        seqs: Tensor,
        query_starts: Tensor,
        num_tokens: Tensor,
        last_token: Tensor,
        kv_len: Tensor,
        pages: Mapping[str, Tensor],
        width: int,
        factors: Mapping[str, int],
    ) -> tuple[Any, ...]:
        given = (rows, tokens, query_starts, num_tokens, last_token, kv_len, pages, width, factors)
        return table.mixed_inputs(self._launch, *given)

    @kernel("filter_logits")
    def filter_logits(self, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
        return sampling.filter_logits(self._launch, logits, temperature, top_k, top_p, min_p)

    @kernel("penalize")
    def penalize(
        self,
        logits: Tensor,
        output_counts: Tensor,
        in_prompt: Tensor,
        repetition: Tensor,
        presence: Tensor,
        frequency: Tensor,
    ) -> Tensor:
        return sampling.penalize(self._launch, logits, output_counts, in_prompt, repetition, presence, frequency)

    @kernel("logprobs")
    def logprobs(self, logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return sampling.logprobs(self._launch, logits, tokens, top)
