"""Mixture of experts: which experts a token goes to, and what they make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

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


def _route_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for scoring, top_k, normalize, scale in (("softmax", 2, False, 1.0), ("sigmoid", 3, True, 2.5)):
        logits = normal(rng, (6, 8), "float32", scale=2.0)
        logits[0, [2, 5]] = 9.0  # a tie goes to the lower expert
        arguments = {"logits": logits, "top_k": top_k, "scoring": scoring, "normalize": normalize, "scale": scale}
        request = OpRequest.of("route", dtype, experts=8, top_k=top_k, scoring=scoring)
        yield OpCase(f"{scoring} top {top_k}", request, arguments)


@op(
    profile="moe",
    facts=(_EXPERTS, _TOP_K, Fact("scoring", "what makes scores of logits", values={"softmax": 1, "sigmoid": 1})),
    tolerances=_FLOAT32,
    cases=_route_cases,
    static=("top_k", "scoring", "normalize", "scale"),
)
def route(logits: A, top_k: int, scoring: str, normalize: bool, scale: float) -> tuple[A, A]:
    """The ``top_k`` experts of each token: (weights [T, top_k] float32, experts [T, top_k] int32).

    Scores are ``softmax`` or ``sigmoid`` of the router's logits [T, experts], in float32; the largest
    are taken, descending, the lower expert first among equals. Their weights are divided by their sum
    if ``normalize``, then multiplied by ``scale``.
    """
    if scoring == "softmax":
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores = scores / scores.sum(-1, keepdims=True)
    else:
        assert scoring == "sigmoid", f"route knows softmax and sigmoid, not {scoring}"
        scores = 1.0 / (1.0 + np.exp(-logits))
    experts = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(scores, experts, -1)
    if normalize:
        weights = weights / weights.sum(-1, keepdims=True)
    return weights * scale, experts.astype(np.int32)


def _moe_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    hidden, size, count = 48, 32, 6
    for new, pad, top_k in (([1, 1, 1], 0, 2), ([9, 4], 3, 3)):
        arrays = {
            "gate_up": normal(rng, (count, 2 * size, hidden), dtype, scale=hidden**-0.5),
            "down": normal(rng, (count, hidden, size), dtype, scale=size**-0.5),
        }
        w = PackedWeight(arrays, "dense", (count, size, hidden))
        step, _ = draw_step(rng, [0] * len(new), new, 4, "g", pad)
        tokens = step.shape.tokens
        arguments = {
            "x": normal(rng, (tokens, hidden), dtype),
            "weights": normal(rng, (tokens, top_k), "float32"),
            "experts": np.argsort(rng.random((tokens, count)), axis=-1)[:, :top_k].astype(np.int32),
            "w": w,
            "kind": "silu",
            "step": step,
        }
        spec = ExpertsSpec("gate", "up", "down", count, hidden, size, top_k)
        (request,) = spec.read_by(w, dtype)
        yield OpCase(f"{new} of {tokens}, top {top_k}", request, arguments)


@op(
    profile="moe",
    facts=(
        *WEIGHT,
        _EXPERTS,
        Fact("hidden", "size of a token"),
        Fact("size", "inner units of an expert"),
        _TOP_K,
        KIND,
    ),
    tolerances=REDUCTION | {"bfloat16": Tolerance(4e-2, 3e-2)},
    cases=_moe_cases,
    dispatch="w",
    unseen=SUM_TAKERS,
    static=("kind",),
)
def moe(x: A, weights: A, experts: A, w: PackedWeight, kind: str, step: Step | None = None) -> A:
    """Sum over a token's experts e of weight * down_e(gated_activation(gate_up_e x)): [T, hidden] -> same.

    weights and experts [T, top_k] are ``route``'s; of w, gate_up is [experts, 2 size, hidden] and
    down [experts, hidden, size]. ``step.num_tokens`` says how many tokens count: rows of padding
    tokens are undefined, and need no work. The result may be opaque.
    """
    out = np.zeros(x.shape)
    count = x.shape[0] if step is None else int(step.num_tokens[0])
    for token in range(count):
        for weight, expert in zip(weights[token], experts[token], strict=True):
            inner = gated_activation(np.asarray(w.arrays["gate_up"])[expert] @ x[token], kind)
            out[token] += weight * (np.asarray(w.arrays["down"])[expert] @ inner)
    return out
