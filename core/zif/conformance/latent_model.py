"""A tiny model of DeepSeek-V2's shape, against the contract alone.

Latent attention (MLA) with a cache group of latents; a dense layer, then layers of routed and shared
experts. The residual goes from layer to layer unadded, so that each sum is one with the next norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zif.contract.arrays import Array, Tree
from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.cache import CacheGroup
from zif.contract.experts import RouteSpec
from zif.contract.model import InputSpec, local_attention
from zif.contract.ops.moe import route_request
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif.contract.weights import EmbeddingSpec, ExpertsSpec, HeadsSpec, LinearSpec, RepeatedSpec, VectorSpec

ARCHITECTURE = "DeepSeek2Shaped"
HIDDEN, HEADS, NOPE, ROPE, V_DIM, RANK, Q_RANK, EPS = 32, 4, 8, 4, 6, 12, 20, 1e-6
DENSE, EXPERTS, SIZE, TOP_K, SHARED = 40, 6, 16, 2, 24
ROUTE = RouteSpec(EXPERTS, TOP_K, groups=3, top_groups=2, scale=1.5)
SPEC = AttentionSpec(
    group="latent",
    q_heads=HEADS,
    kv_heads=1,
    head_dim=RANK + ROPE,
    v_head_dim=RANK,
    scale=(NOPE + ROPE) ** -0.5,
    rope=RopeSpec(ROPE, tuple(1e4 ** (-2 * i / ROPE) for i in range(ROPE // 2)), interleaved=True),
)

Carry = tuple[Array, Array | None, Tree]
"""x [T, hidden] still to be added, residual (None before the first layer), cache."""


@dataclass(frozen=True)
class DeepSeek2Shaped:
    """One dense layer, then layers of experts. ``ranks`` share the heads and the inner units."""

    ranks: int = 1
    num_layers: int = 4
    inputs: Sequence[InputSpec] = ()
    vocab_size: int = 96
    context_length: int = 64

    @property
    def spec(self) -> AttentionSpec:
        return local_attention(SPEC, self.ranks)

    @property
    def attention_specs(self) -> Sequence[AttentionSpec]:
        return (self.spec,)

    def local(self, size: int) -> DeepSeek2Shaped:
        return replace(self, ranks=size)

    @property
    def cache_groups(self) -> Sequence[CacheGroup]:
        return (CacheGroup("latent", "latent", self.num_layers, 1, RANK + ROPE, 0),)

    def weights(self) -> dict[str, Tree]:
        ranks = self.ranks
        return {
            "embed": EmbeddingSpec("embed", self.vocab_size, HIDDEN),
            "dense": RepeatedSpec([{**_attention_weights(0, ranks), **_mlp("0.mlp", DENSE // ranks)}]),
            "sparse": RepeatedSpec(
                [{**_attention_weights(i, ranks), **_experts(i, ranks)} for i in range(1, self.num_layers)]
            ),
            "norm": VectorSpec("norm", (HIDDEN,)),
            "lm_head": LinearSpec(("lm_head",), (self.vocab_size,), HIDDEN, split="vocab"),
        }

    def requests(self, dtype: str) -> Sequence[OpRequest]:
        sizes = (HIDDEN, Q_RANK, RANK)
        return [
            *(OpRequest.of("rms_norm", dtype, size=size) for size in sizes),
            OpRequest.of("add_norm", dtype, size=HIDDEN),
            OpRequest.of("add", dtype),
            *(
                OpRequest.of("gated_activation", dtype, size=size // self.ranks, kind="silu")
                for size in (DENSE, SHARED, SIZE)
            ),
            OpRequest.of("rope", dtype, head_dim=ROPE, rotary_dim=ROPE),
            route_request(dtype, ROUTE, bias=False),
        ]

    def embed(self, ops: Ops, w: Tree, step: Step) -> Array:
        return ops.embedding(step.tokens, w["embed"], step)

    def layers(
        self, ops: Ops, w: Tree, x: Array, cache: Tree, step: Step, start: int = 0, stop: int | None = None
    ) -> tuple[Array, Tree]:
        stop = self.num_layers if stop is None else stop
        assert SPEC.rope is not None
        angles = ops.rope_angles(step.positions, SPEC.rope)

        def dense(w: Tree, carry: Carry, i: Any) -> Carry:
            x, residual, cache = _attend(ops, w, carry, i, step, self.spec, angles, consumers=(w["gate_up"],))
            return mlp(ops, w, x, step), residual, cache

        def sparse(w: Tree, carry: Carry, i: Any) -> Carry:
            x, residual, cache = _attend(ops, w, carry, 1 + i, step, self.spec, angles, consumers=())
            weights, experts = ops.route(ops.linear(x, w["router"], step), ROUTE)
            routed = ops.moe(x, weights, experts, w["experts"], "silu", step)
            return ops.add(routed, mlp(ops, w["shared"], x, step)), residual, cache

        carry: Carry = (x, None, cache)
        carry = ops.repeat(dense, w["dense"], carry, min(start, 1), min(stop, 1))
        x, residual, cache = ops.repeat(sparse, w["sparse"], carry, max(start - 1, 0), max(stop - 1, 0))
        return (x if residual is None else ops.add(x, residual)), cache

    def head(self, ops: Ops, w: Tree, rows: Array, step: Step) -> Array:
        return ops.logits(ops.rms_norm(rows, w["norm"], EPS), w["lm_head"], step)


def build(_: Mapping[str, Any]) -> DeepSeek2Shaped:
    """The model; a config has nothing to say of it."""
    return DeepSeek2Shaped()


def mlp(ops: Ops, w: Tree, x: Array, step: Step) -> Array:
    """A gated MLP, [T, hidden] to the same."""
    return ops.linear(ops.gated_activation(ops.linear(x, w["gate_up"], step), "silu"), w["down"], step)


def _attend(
    ops: Ops,
    w: Tree,
    carry: Carry,
    index: Any,
    step: Step,
    spec: AttentionSpec,
    angles: Array,
    consumers: tuple[Any, ...],
) -> tuple[Array, Array, Tree]:
    """(normed for the MLP, residual, cache) after layer ``index``'s attention."""
    x, residual, cache = carry
    if residual is None:
        x, residual = ops.rms_norm(x, w["input_norm"], EPS), x
    else:
        x, residual = ops.add_norm(x, residual, w["input_norm"], EPS, consumers=(w["q_a"], w["kv_a"]), step=step)
    q = ops.linear(ops.rms_norm(ops.linear(x, w["q_a"], step), w["q_norm"], EPS), w["q_b"], step)
    q = q.reshape(-1, spec.q_heads, NOPE + ROPE)
    q = ops.concat([q[..., :NOPE], ops.rope(q[..., NOPE:], angles, interleaved=True)])
    kv = ops.linear(x, w["kv_a"], step)
    turned = ops.rope(kv[:, RANK:].reshape(-1, 1, ROPE), angles, interleaved=True).reshape(-1, ROPE)
    latent = ops.concat([ops.rms_norm(kv[:, :RANK], w["kv_norm"], EPS), turned])
    cache = ops.latent_write(latent, cache, index, step, spec)
    out = ops.latent_attention(q, cache, index, step, spec, w["k_up"], w["v_up"])
    out = ops.linear(out.reshape(-1, spec.q_heads * V_DIM), w["o"], step)
    x, residual = ops.add_norm(out, residual, w["mlp_norm"], EPS, consumers=consumers, step=step)
    return x, residual, cache


def _attention_weights(i: int, ranks: int) -> dict[str, Tree]:
    rows, heads = NOPE + V_DIM, HEADS // ranks
    return {
        "input_norm": VectorSpec(f"{i}.input_norm", (HIDDEN,)),
        "q_a": LinearSpec((f"{i}.q_a",), (Q_RANK,), HIDDEN),
        "q_norm": VectorSpec(f"{i}.q_norm", (Q_RANK,)),
        "q_b": LinearSpec((f"{i}.q_b",), (heads * (NOPE + ROPE),), Q_RANK, split="columns"),
        "kv_a": LinearSpec((f"{i}.kv_a",), (RANK + ROPE,), HIDDEN),
        "kv_norm": VectorSpec(f"{i}.kv_norm", (RANK,)),
        "k_up": HeadsSpec(f"{i}.kv_b", heads, rows, RANK, 0, NOPE, transposed=True),
        "v_up": HeadsSpec(f"{i}.kv_b", heads, rows, RANK, NOPE, rows),
        "o": LinearSpec((f"{i}.o",), (HIDDEN,), heads * V_DIM, split="rows"),
        "mlp_norm": VectorSpec(f"{i}.mlp_norm", (HIDDEN,)),
    }


def _mlp(name: str, inner: int) -> dict[str, Tree]:
    return {
        "gate_up": LinearSpec((f"{name}.gate", f"{name}.up"), (inner, inner), HIDDEN, split="columns"),
        "down": LinearSpec((f"{name}.down",), (HIDDEN,), inner, split="rows"),
    }


def _experts(i: int, ranks: int) -> dict[str, Tree]:
    names = (f"{i}.{{e}}.gate", f"{i}.{{e}}.up", f"{i}.{{e}}.down")
    return {
        "router": LinearSpec((f"{i}.router",), (EXPERTS,), HIDDEN),
        "experts": ExpertsSpec(*names, experts=EXPERTS, hidden=HIDDEN, size=SIZE // ranks, top_k=TOP_K),
        "shared": _mlp(f"{i}.shared", SHARED // ranks),
    }
