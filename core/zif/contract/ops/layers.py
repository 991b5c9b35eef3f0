"""Ops of a transformer's layers, attention aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from zif.contract.cost import looked_up, product
from zif.contract.ops.draw import normal
from zif.contract.ops.facts import KIND, LINEAR, SIZE, WEIGHT
from zif.contract.ops.tolerances import ELEMENTWISE, EXACT, REDUCTION
from zif.contract.opspec import Fact, OpCase, OpRequest, op
from zif.contract.weights import PackedWeight

A = np.ndarray[Any, Any]


def _embedding_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for vocab, hidden, tokens in ((32, 16, 5), (300, 64, 33)):
        w = PackedWeight({"w": normal(rng, (vocab, hidden), dtype)}, "dense", (vocab, hidden))
        ids = rng.integers(0, vocab, tokens, dtype=np.int32)
        request = OpRequest.of("embedding", dtype, key=w.dispatch_key, vocab=vocab, hidden=hidden, format="dense")
        yield OpCase(f"{tokens} of {vocab}x{hidden}", request, {"ids": ids, "w": w})


@op(
    profile="llm",
    facts=(*WEIGHT, Fact("vocab", "rows of the table"), Fact("hidden", "columns of the table")),
    tolerances=EXACT,
    cases=_embedding_cases,
    dispatch="w",
    cost=looked_up,
)
def embedding(ids: A, w: PackedWeight, step: Any = None) -> A:
    """Rows ``ids`` [T] int32 of a table [vocab, hidden] -> [T, hidden]. Ids are in range; ``step`` as in ``linear``."""
    return np.asarray(w.arrays["w"])[ids]


def _linear_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    shapes = [(1, 64, 64, True), (3, 96, 160, False), (7, 128, 48, True), (17, 256, 96, False), (130, 64, 192, False)]
    for tokens, inner, outer, bias in shapes:
        arrays = {"w": normal(rng, (outer, inner), dtype, scale=inner**-0.5)}
        if bias:
            arrays["b"] = normal(rng, (outer,), dtype)
        w = PackedWeight(arrays, "dense", (outer, inner))
        request = OpRequest.of(
            "linear", dtype, key=w.dispatch_key, in_features=inner, out_features=outer, bias=bias, format="dense"
        )
        yield OpCase(
            f"{tokens}x{inner} -> {outer}{' + bias' if bias else ''}",
            request,
            {"x": normal(rng, (tokens, inner), dtype), "w": w},
        )


SUM_TAKERS = ("rms_norm.x", "add_norm.x", "norm_add.x", "add.x", "add.residual")
"""Where a sum that is not all added up may go."""


@op(
    profile="llm",
    facts=LINEAR,
    tolerances=REDUCTION,
    cases=_linear_cases,
    dispatch="w",
    opaque_to=SUM_TAKERS,
    cost=product,
)
def linear(x: A, w: PackedWeight, step: Any = None) -> A:
    """Y = x Wᵀ + b: [T, in] -> [T, out] in x's dtype, accumulated in float32 or wider.

    The result of a weight whose spec has ``split="rows"`` may be opaque; of any other it is an Array. ``step`` lets a
    format depend on the batch (an adapter a sequence).
    """
    y = x @ np.asarray(w.arrays["w"]).T
    return y + w.arrays["b"] if "b" in w.arrays else y


def _logits_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for case in _linear_cases(rng, dtype):
        yield OpCase(
            case.label,
            OpRequest("logits", dtype, case.request.facts),
            {name: value for name, value in case.arguments.items() if name != "step"},
        )


def _logits_composite(ops: Any) -> Callable[..., Any]:
    def logits(x: Any, w: Any, step: Any = None) -> Any:
        return ops.cast(ops.linear(x, w, step), "float32")

    return logits


def _linear_part(request: OpRequest) -> Sequence[OpRequest]:
    return (request.as_of("linear"),)


@op(
    profile="llm",
    facts=LINEAR,
    tolerances=REDUCTION,
    cases=_logits_cases,
    composite=_logits_composite,
    parts=_linear_part,
    dispatch="w",
    cost=product,
)
def logits(x: A, w: PackedWeight, step: Any = None) -> A:
    """``linear`` of a head in float32, rounded to x's dtype on the way or not: [R, in] -> [R, vocab].

    Row r of x is of token ``step.logits_at[r]``.
    """
    return linear(x, w)


def _norm_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    cases = (
        ((1, 16), 0.0, 2.0),
        ((5, 256), 1.0, 2.0),
        ((3, 4, 64), 0.0, 2.0),
        ((33, 96), 0.0, 2.0),
        ((2, 48), 0.0, 1e-3),
    )
    for shape, offset, scale in cases:
        request = OpRequest.of("rms_norm", dtype, size=shape[-1])
        arguments = {
            "x": normal(rng, shape, dtype, scale=scale),
            "weight": normal(rng, shape[-1:], dtype),
            "eps": 1e-6,
            "offset": offset,
        }
        small = ", small" if scale < 1 else ""
        yield OpCase(f"{shape}{' 1 + w' if offset else ''}{small}", request, arguments)


@op(profile="llm", facts=(SIZE,), tolerances=ELEMENTWISE, cases=_norm_cases, static=("eps", "offset"))
def rms_norm(x: A, weight: A, eps: float, offset: float = 0.0) -> A:
    """Y = x / sqrt(mean(x², last axis) + eps) * (offset + weight), in x's dtype; float32 inside.

    x [..., size], weight [size]. Zhang and Sennrich 2019; ``offset`` 1 is Gemma's.
    """
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * (offset + weight)


def _add_norm_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for tokens, size, offset in ((1, 64, 0.0), (9, 256, 1.0)):
        arguments = {
            "x": normal(rng, (tokens, size), dtype),
            "residual": normal(rng, (tokens, size), dtype),
            "weight": normal(rng, (size,), dtype),
            "eps": 1e-5,
            "offset": offset,
        }
        yield OpCase(f"{tokens}x{size}", OpRequest.of("add_norm", dtype, size=size), arguments)


def _add_norm_composite(ops: Any) -> Callable[..., Any]:
    def add_norm(
        x: Any, residual: Any, weight: Any, eps: float, offset: float = 0.0, consumers: Any = (), step: Any = None
    ) -> Any:
        residual = x + residual
        return ops.rms_norm(residual, weight, eps, offset), residual

    return add_norm


def _norm_part(request: OpRequest) -> Sequence[OpRequest]:
    return (request.as_of("rms_norm"),)


@op(
    profile="llm",
    facts=(SIZE,),
    tolerances=REDUCTION,
    cases=_add_norm_cases,
    composite=_add_norm_composite,
    parts=_norm_part,
    opaque_to=("linear.x", "gated_linear.x"),
    static=("eps", "offset"),
)
def add_norm(
    x: A, residual: A, weight: A, eps: float, offset: float = 0.0, consumers: Any = (), step: Any = None
) -> tuple[A, A]:
    """(rms_norm(x + residual), x + residual), all [T, size].

    ``consumers`` are the weights whose ``linear`` or ``gated_linear`` reads the first result, which may then be opaque
    (quantised, scattered, not normalised yet) and go nowhere else; and one of them is run before the second result
    is read, which may be the one that writes it. Without consumers both results are Arrays.
    """
    total = x + residual
    return rms_norm(total, weight, eps, offset), total


def _add_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    arguments = {"x": normal(rng, (7, 48), dtype), "residual": normal(rng, (7, 48), dtype)}
    yield OpCase("7x48", OpRequest.of("add", dtype), arguments)


@op(profile="llm", tolerances=ELEMENTWISE, cases=_add_cases)
def add(x: A, residual: A) -> A:
    """Their sum, x + residual, both [T, size]. Of two partial sums it is one again.

    With a plain ``residual`` it is a plain Array: how a model leaves its last layer, whose output no
    norm of the next layer takes in.
    """
    return x + residual


def _norm_add_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for case in _add_norm_cases(rng, dtype):
        yield OpCase(case.label, case.request.as_of("norm_add"), case.arguments)


def _norm_add_composite(ops: Any) -> Callable[..., Any]:
    def norm_add(x: Any, residual: Any, weight: Any, eps: float, offset: float = 0.0) -> Any:
        return ops.add(ops.rms_norm(x, weight, eps, offset), residual)

    return norm_add


@op(
    profile="llm",
    facts=(SIZE,),
    tolerances=REDUCTION,
    cases=_norm_add_cases,
    composite=_norm_add_composite,
    parts=_norm_part,
    static=("eps", "offset"),
    passes={"x": "rms_norm.x"},
)
def norm_add(x: A, residual: A, weight: A, eps: float, offset: float = 0.0) -> A:
    """Rms_norm(x) + residual, all [T, size]: the sum behind a layer whose result is normalised (Gemma 2, OLMo 2)."""
    return rms_norm(x, weight, eps, offset) + residual


def _gated_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for kind in ("silu", "gelu_tanh"):
        for tokens, size in ((1, 32), (7, 96)):
            request = OpRequest.of("gated_activation", dtype, size=size, kind=kind)
            yield OpCase(
                f"{kind} {tokens}x{size}", request, {"x": normal(rng, (tokens, 2 * size), dtype), "kind": kind}
            )


@op(
    profile="llm",
    facts=(Fact("size", "length of a row of the result"), KIND),
    tolerances=ELEMENTWISE,
    cases=_gated_cases,
    static=("kind",),
)
def gated_activation(x: A, kind: str) -> A:
    """act(gate) * up for x = [gate | up]: [T, 2 size] -> [T, size] (Shazeer 2020).

    ``kind``: ``silu``, or ``gelu_tanh`` (the tanh approximation).
    """
    gate, up = np.split(x, 2, axis=-1)
    if kind == "silu":
        return gate / (1.0 + np.exp(-gate)) * up
    assert kind == "gelu_tanh", f"gated_activation knows silu and gelu_tanh, not {kind}"
    return 0.5 * gate * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (gate + 0.044715 * gate**3))) * up


def _gated_linear_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    shapes = [
        ("silu", 1, 64, 48, False),
        ("silu", 3, 128, 80, True),
        ("gelu_tanh", 17, 512, 96, False),
        ("silu", 130, 512, 96, True),
    ]
    for kind, tokens, inner, size, bias in shapes:
        arrays = {"w": normal(rng, (2 * size, inner), dtype, scale=inner**-0.5)}
        if bias:
            arrays["b"] = normal(rng, (2 * size,), dtype)
        w = PackedWeight(arrays, "dense", (2 * size, inner))
        facts = {"in_features": inner, "out_features": 2 * size, "bias": bias, "format": "dense"}
        request = OpRequest.of("gated_linear", dtype, key=w.dispatch_key, kind=kind, **facts)
        label = f"{kind} {tokens}x{inner} -> {size}{' + bias' if bias else ''}"
        yield OpCase(label, request, {"x": normal(rng, (tokens, inner), dtype), "w": w, "kind": kind})


def _gated_linear_composite(ops: Any) -> Callable[..., Any]:
    def gated_linear(x: Any, w: Any, kind: str, step: Any = None) -> Any:
        return ops.gated_activation(ops.linear(x, w, step), kind)

    return gated_linear


def _gated_linear_parts(request: OpRequest) -> Sequence[OpRequest]:
    size = request["out_features"] // 2
    activation = OpRequest.of("gated_activation", request.dtype, size=size, kind=request["kind"])
    return request.as_of("linear", "kind"), activation


@op(
    profile="llm",
    facts=(*LINEAR, KIND),
    tolerances=REDUCTION,
    cases=_gated_linear_cases,
    composite=_gated_linear_composite,
    parts=_gated_linear_parts,
    passes={"x": "linear.x"},
    dispatch="w",
    static=("kind",),
    cost=product,
)
def gated_linear(x: A, w: PackedWeight, kind: str, step: Any = None) -> A:
    """``gated_activation`` of ``linear``: [T, in] -> [T, size], of a weight [gate | up], 2 size rows.

    The first half of an MLP; ``out_features`` of its request is 2 size.
    """
    return gated_activation(linear(x, w, step), kind)


def _softcap_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    yield OpCase("30", OpRequest.of("softcap", dtype), {"x": normal(rng, (4, 50), dtype, scale=40.0), "cap": 30.0})


@op(profile="llm", tolerances=ELEMENTWISE, cases=_softcap_cases, static=("cap",))
def softcap(x: A, cap: float) -> A:
    """Cap * tanh(x / cap), as Gemma 2 bounds its logits."""
    return cap * np.tanh(x / cap)
