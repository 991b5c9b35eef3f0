"""Mixture of experts: which experts a token goes to, and what they make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zif.contract.cost import experts as experts_cost
from zif.contract.experts import ClampedGate, RouteSpec
from zif.contract.ops.attention import draw_step
from zif.contract.ops.draw import normal
from zif.contract.ops.facts import KIND, WEIGHT
from zif.contract.ops.layers import SUM_TAKERS, gated_activation
from zif.contract.ops.tolerances import REDUCTION
from zif.contract.opspec import Fact, OpCase, OpRequest, Tolerance, op
from zif.contract.step import Step
from zif.contract.weights import ExpertsSpec, PackedWeight

A = np.ndarray[Any, Any]
_EXPERTS = Fact("experts", "experts of the layer")
_TOP_K = Fact("top_k", "experts that a token goes to")
_FLOAT32 = dict.fromkeys(REDUCTION, REDUCTION["float32"])
TINY = 1e-20
"""Added to the sum that weights are divided by: sigmoids may all be zero."""


def route_request(dtype: str, spec: RouteSpec, bias: bool) -> OpRequest:
    """The request that a layer's router makes."""
    return OpRequest.of("route", dtype, spec=spec, experts=spec.experts, top_k=spec.top_k, bias=bias)


def _route_specs() -> Iterator[tuple[str, RouteSpec, bool]]:
    yield "Qwen2", RouteSpec(8, 2), False
    yield "Mixtral, gpt-oss", RouteSpec(8, 2, normalize=True), False
    yield "all experts", RouteSpec(4, 4, normalize=True), False
    yield "one expert, Llama 4", RouteSpec(16, 1, "sigmoid"), False
    yield "DeepSeek-V2", RouteSpec(16, 5, scale=16.0, groups=4, top_groups=2), False
    v3 = RouteSpec(16, 5, "sigmoid", True, 2.5, 4, 2, "top2")
    yield "DeepSeek-V3", v3, True
    yield "DeepSeek-V3's groups without a bias", v3, False
    yield "Kimi-K2", RouteSpec(24, 3, "sigmoid", True, 2.8), True
    yield "a softmax with a bias", RouteSpec(8, 3, normalize=True), True


def _route_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for label, spec, biased in _route_specs():
        logits = normal(rng, (6, spec.experts), "float32", scale=2.0)
        logits[0, [spec.experts // 2, spec.experts - 1]] = 9.0  # a tie goes to the lower expert, or to the lower group
        logits[1] = 1.0  # and so does a tie of all
        arguments = {"logits": logits, "spec": spec}
        if biased:
            # above all scores: it decides who is chosen, and would show in the weights
            bias = normal(rng, (spec.experts,), "float32")
            bias[spec.experts - 1] = bias[spec.experts // 2] = 3.0
            arguments["bias"] = bias
        yield OpCase(label, route_request(dtype, spec, biased), arguments)


@op(
    profile="moe",
    facts=(Fact("spec", "the RouteSpec"), _EXPERTS, _TOP_K, Fact("bias", "whether there is a correction bias")),
    tolerances=_FLOAT32,
    cases=_route_cases,
    static=("spec",),
)
def route(logits: A, spec: RouteSpec, bias: A | None = None) -> tuple[A, A]:
    """The ``spec.top_k`` experts of each token: (weights [T, top_k] float32, experts [T, top_k] int32).

    :class:`zif.contract.experts.RouteSpec` says how, of a router's logits [T, experts], in float32. ``bias`` [experts]
    float32 is the correction bias. Experts come in the order in which they are preferred, the best first, the lower
    number first among equals; among equal groups the lower is taken. Without a bias, preference goes by the logits
    themselves, which scores follow.
    """
    if spec.scoring == "softmax":
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores = scores / scores.sum(-1, keepdims=True)
    else:
        scores = 1.0 / (1.0 + np.exp(-logits))
    preferred = logits if bias is None else scores + bias
    if spec.groups > 1:
        preferred = np.where(_in_top_groups(preferred if bias is not None else scores, spec), preferred, -np.inf)
    experts = _best(preferred, spec.top_k)
    weights = np.take_along_axis(scores, experts, -1)
    if spec.normalize:
        weights = weights / (weights.sum(-1, keepdims=True) + TINY)
    return weights * spec.scale, experts.astype(np.int32)


def _in_top_groups(preferred: A, spec: RouteSpec) -> A:
    """Whether each expert [T, experts] is of a group that may be chosen from."""
    grouped = np.sort(preferred.reshape(len(preferred), spec.groups, -1), axis=-1)
    worth = grouped[..., -1] if spec.group_score == "max" else grouped[..., -2:].sum(-1)
    taken = np.zeros(worth.shape, bool)
    np.put_along_axis(taken, _best(worth, spec.top_groups), True, axis=-1)
    return np.repeat(taken, spec.experts // spec.groups, axis=-1)


def _best(values: A, count: int) -> A:
    """Indices of the ``count`` largest of each row, descending, the lower first among equals."""
    return np.argsort(-values, axis=-1, kind="stable")[:, :count]


def _moe_parts(request: OpRequest) -> list[OpRequest]:
    """The activation, which kernels may leave to another."""
    if request["clamped"] is not None:
        return []
    return [OpRequest.of("gated_activation", request.dtype, size=request["size"], kind=request["kind"])]


def _moe_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    hidden, size, count = 48, 32, 6
    clamped = ClampedGate(limit=0.75, alpha=1.702, offset=1.0)
    cases = (
        ([1, 1, 1], 0, 2, False, None, "draws"),
        ([9, 4], 3, 3, False, None, "draws"),
        ([7, 1], 2, 2, True, clamped, "draws"),
        ([5, 2], 1, 1, False, clamped, "one expert has all tokens"),
    )
    for new, pad, top_k, bias, gate, how in cases:
        arrays = {
            "gate_up": normal(rng, (count, 2 * size, hidden), dtype, scale=hidden**-0.5),
            "down": normal(rng, (count, hidden, size), dtype, scale=size**-0.5),
        }
        names: tuple[str, ...] = ()
        if bias:
            names = ("gate_bias", "up_bias", "down_bias")
            arrays["gate_up_bias"] = normal(rng, (count, 2 * size), dtype)
            arrays["down_bias"] = normal(rng, (count, hidden), dtype)
        w = PackedWeight(arrays, "dense", (count, size, hidden))
        step, _ = draw_step(rng, [0] * len(new), new, 4, "g", pad)
        tokens = step.shape.tokens
        experts = np.argsort(rng.random((tokens, count)), axis=-1)[:, :top_k].astype(np.int32)
        arguments = {
            "x": normal(rng, (tokens, hidden), dtype),
            "weights": normal(rng, (tokens, top_k), "float32"),
            "experts": experts if how == "draws" else np.full_like(experts, count - 1),
            "w": w,
            "kind": "silu",
            "step": step,
            "clamped": gate,
        }
        spec = ExpertsSpec("gate", "up", "down", count, hidden, size, top_k, bias=names, clamped=gate)
        (request,) = spec.read_by(w, dtype)
        told = f"{', biased' if bias else ''}{', clamped' if gate else ''}{'' if how == 'draws' else f', {how}'}"
        yield OpCase(f"{new} of {tokens}, top {top_k}{told}", request, arguments)


@op(
    profile="moe",
    facts=(
        *WEIGHT,
        _EXPERTS,
        Fact("hidden", "size of a token"),
        Fact("size", "inner units of an expert"),
        _TOP_K,
        KIND,
        Fact("clamped", "the ClampedGate, or None"),
        Fact("bias", "whether experts have biases"),
    ),
    tolerances=REDUCTION | {"bfloat16": Tolerance(4e-2, 3e-2)},
    cases=_moe_cases,
    parts=_moe_parts,
    dispatch="w",
    opaque_to=SUM_TAKERS,
    static=("kind", "clamped"),
    cost=experts_cost,
)
def moe(
    x: A,
    weights: A,
    experts: A,
    w: PackedWeight,
    kind: str,
    step: Step | None = None,
    clamped: ClampedGate | None = None,
) -> A:
    """Sum over a token's experts e of weight * down_e(activation(gate_up_e x)): [T, hidden] -> same.

    weights and experts [T, top_k] are ``route``'s; of w, gate_up is [experts, 2 size, hidden] and
    down [experts, hidden, size], with biases gate_up_bias [experts, 2 size] and down_bias [experts, hidden] where
    the model has them. The activation is ``gated_activation`` of ``kind``, or ``clamped``
    (:class:`zif.contract.experts.ClampedGate`). ``step.num_tokens`` says how many tokens count: rows of padding
    tokens are undefined, and need no work. The result may be opaque.
    """
    arrays = {name: np.asarray(array) for name, array in w.arrays.items()}
    out = np.zeros(x.shape)
    count = x.shape[0] if step is None else int(step.num_tokens[0])
    for token in range(count):
        for weight, expert in zip(weights[token], experts[token], strict=True):
            inner = arrays["gate_up"][expert] @ x[token]
            if "gate_up_bias" in arrays:
                inner = inner + arrays["gate_up_bias"][expert]
            inner = gated_activation(inner, kind) if clamped is None else clamped_gate(inner, clamped)
            y = arrays["down"][expert] @ inner
            out[token] += weight * (y + arrays["down_bias"][expert] if "down_bias" in arrays else y)
    return out


def clamped_gate(x: A, clamped: ClampedGate) -> A:
    """:class:`zif.contract.experts.ClampedGate` of x = [gate | up]: [..., 2 size] -> [..., size]."""
    gate, up = np.split(x, 2, axis=-1)
    gate, up = np.minimum(gate, clamped.limit), np.clip(up, -clamped.limit, clamped.limit)
    return gate / (1.0 + np.exp(-clamped.alpha * gate)) * (up + clamped.offset)
