"""A tiny model of Gemma 3's shape, against the contract alone.

Two windowed layers to one full, with a rest that makes no whole block; a cache group and a rotary base
for each kind; norms of q and k, norms before and after, weighted by 1 + w; scaled embeddings; a soft-cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zif.contract.arrays import Array, Tree
from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.cache import CacheGroup
from zif.contract.model import InputSpec
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif.contract.weights import EmbeddingSpec, LinearSpec, RepeatedSpec, VectorSpec

HIDDEN, INNER, Q_HEADS, KV_HEADS, HEAD_DIM, WINDOW, EPS = 32, 48, 4, 2, 8, 6, 1e-6
LOCALS = 2
"""Windowed layers before each full one."""


def _rope(base: float) -> RopeSpec:
    return RopeSpec(HEAD_DIM, tuple(base ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)))


def _attention(group: str, window: int | None, base: float) -> AttentionSpec:
    return AttentionSpec(
        group=group,
        q_heads=Q_HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        v_head_dim=HEAD_DIM,
        scale=HEAD_DIM**-0.5,
        window=window,
        rope=_rope(base),
        qk_norm_eps=EPS,
        qk_norm_offset=1.0,
    )


LOCAL, GLOBAL = _attention("local", WINDOW, 1e4), _attention("global", None, 1e6)


@dataclass(frozen=True)
class Gemma3Shaped:
    """``inputs`` are what the step has further; the linears that use them find them there."""

    num_layers: int = 8
    inputs: Sequence[InputSpec] = ()
    vocab_size: int = 96
    context_length: int = 64
    logit_cap: float | None = 30.0
    attention_specs: Sequence[AttentionSpec] = (LOCAL, GLOBAL)

    @property
    def blocks(self) -> int:
        """Whole patterns of ``LOCALS`` windowed layers and a full one; the layers behind are windowed."""
        return self.num_layers // (LOCALS + 1)

    @property
    def rest(self) -> int:
        return self.num_layers % (LOCALS + 1)

    @property
    def cache_groups(self) -> Sequence[CacheGroup]:
        sizes = (KV_HEADS, HEAD_DIM, HEAD_DIM)
        return (
            CacheGroup("local", "window", self.num_layers - self.blocks, *sizes, WINDOW),
            CacheGroup("global", "paged", self.blocks, *sizes),
        )

    def weights(self) -> dict[str, Tree]:
        period = LOCALS + 1
        first = self.blocks * period
        return {
            "embed": EmbeddingSpec("embed", self.vocab_size, HIDDEN),
            "blocks": RepeatedSpec([[_layer(b * period + at) for at in range(period)] for b in range(self.blocks)]),
            "rest": RepeatedSpec([[_layer(i)] for i in range(first, self.num_layers)]),
            "norm": VectorSpec("norm", (HIDDEN,)),
            "lm_head": LinearSpec(("embed",), (self.vocab_size,), HIDDEN, split="vocab", tied="embed"),
        }

    def requests(self, dtype: str) -> Sequence[OpRequest]:
        return [
            OpRequest.of("rms_norm", dtype, size=HIDDEN),
            OpRequest.of("add_norm", dtype, size=HIDDEN),
            OpRequest.of("norm_add", dtype, size=HIDDEN),
            OpRequest.of("add", dtype),
            OpRequest.of("gated_activation", dtype, size=INNER, kind="gelu_tanh"),
            OpRequest.of("softcap", "float32"),
        ]

    def embed(self, ops: Ops, w: Tree, step: Step) -> Array:
        return ops.embedding(step.tokens, w["embed"], step) * HIDDEN**0.5

    def layers(
        self, ops: Ops, w: Tree, x: Array, cache: Tree, step: Step, start: int = 0, stop: int | None = None
    ) -> tuple[Array, Tree]:
        """``start`` and ``stop`` lie between blocks."""
        stop = self.num_layers if stop is None else stop
        period, first = LOCALS + 1, self.blocks * (LOCALS + 1)
        kinds = (LOCAL,) * LOCALS + (GLOBAL,)
        angles = {spec.group: ops.rope_angles(step.positions, _rope_of(spec)) for spec in (LOCAL, GLOBAL)}

        def block(w: Tree, carry: tuple[Array, Tree], i: Any) -> tuple[Array, Tree]:
            for at, spec in enumerate(kinds):
                index = i if spec is GLOBAL else i * LOCALS + at
                carry = layer(ops, w[at], *carry, index, step, spec, angles[spec.group])
            return carry

        def rest(w: Tree, carry: tuple[Array, Tree], i: Any) -> tuple[Array, Tree]:
            return layer(ops, w[0], *carry, self.blocks * LOCALS + i, step, LOCAL, angles["local"])

        ends = (min(start, first), min(stop, first))
        assert not any(end % period for end in ends), "a stage is cut between blocks"
        carry = ops.repeat(block, w["blocks"], (x, cache), ends[0] // period, ends[1] // period)
        return ops.repeat(rest, w["rest"], carry, max(start - first, 0), max(stop - first, 0))

    def head(self, ops: Ops, w: Tree, rows: Array, step: Step) -> Array:
        logits = ops.logits(ops.rms_norm(rows, w["norm"], EPS, 1.0), w["lm_head"], step)
        return logits if self.logit_cap is None else ops.softcap(logits, self.logit_cap)


def layer(
    ops: Ops, w: Tree, x: Array, cache: Tree, index: Any, step: Step, spec: AttentionSpec, angles: Array
) -> tuple[Array, Tree]:
    """One layer over x [T, hidden], layer ``index`` of its cache group."""
    qkv = ops.linear(ops.rms_norm(x, w["before_attention"], EPS, 1.0), w["qkv"], step)
    q_end, k_end = spec.q_heads * spec.head_dim, (spec.q_heads + spec.kv_heads) * spec.head_dim
    q = qkv[:, :q_end].reshape(-1, spec.q_heads, spec.head_dim)
    k = qkv[:, q_end:k_end].reshape(-1, spec.kv_heads, spec.head_dim)
    v = qkv[:, k_end:].reshape(-1, spec.kv_heads, spec.v_head_dim)
    out, cache = ops.attention(q, k, v, cache, index, step, spec, angles, w["q_norm"], w["k_norm"])
    out = ops.linear(out.reshape(-1, spec.q_heads * spec.v_head_dim), w["o"], step)
    out = ops.rms_norm(out, w["after_attention"], EPS, 1.0)
    normed, x = ops.add_norm(out, x, w["before_mlp"], EPS, 1.0, consumers=(w["gate_up"],), step=step)
    inner = ops.gated_activation(ops.linear(normed, w["gate_up"], step), "gelu_tanh")
    return ops.norm_add(ops.linear(inner, w["down"], step), x, w["after_mlp"], EPS, 1.0), cache


def _layer(i: int) -> dict[str, Tree]:
    q, kv = Q_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    norms = ("before_attention", "after_attention", "before_mlp", "after_mlp")
    heads = ("q_norm", "k_norm")
    return {
        "qkv": LinearSpec((f"{i}.q", f"{i}.k", f"{i}.v"), (q, kv, kv), HIDDEN, split="columns"),
        "o": LinearSpec((f"{i}.o",), (HIDDEN,), q, split="rows"),
        "gate_up": LinearSpec((f"{i}.gate", f"{i}.up"), (INNER, INNER), HIDDEN, split="columns"),
        "down": LinearSpec((f"{i}.down",), (HIDDEN,), INNER, split="rows"),
        **{name: VectorSpec(f"{i}.{name}", (HIDDEN,)) for name in norms},
        **{name: VectorSpec(f"{i}.{name}", (HEAD_DIM,)) for name in heads},
    }


def _rope_of(spec: AttentionSpec) -> RopeSpec:
    assert spec.rope is not None
    return spec.rope
