"""Cases of ops at sizes where small ones show nothing: many rows, long contexts, wide sums, large vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from zif.contract.attention import RopeSpec
from zif.contract.ops.attention import attention_case
from zif.contract.ops.draw import normal, rounded
from zif.contract.ops.sampling import clear_seeds, draw_logits
from zif.contract.opspec import OpCase, OpRequest
from zif.contract.weights import PackedWeight

Rng = np.random.Generator
Cases = Callable[[Rng, str, "Sizes"], Iterator[OpCase]]


@dataclass(frozen=True)
class Sizes:
    """Rows of a step, terms of a sum, cached tokens of a sequence, ids of a vocabulary."""

    rows: int
    width: int
    keys: int
    vocab: int


BEYOND = Sizes(515, 4096, 2100, 33_000)
"""Just beyond 512 rows, 2,048 keys and 32,767 ids, which a kernel may take for the most that there are."""
LARGE = Sizes(2048, 8192, 8192, 151_936)
"""Those of a model that is served; a device takes a minute."""


def scale_cases(op: str, dtype: str, sizes: Sizes, seed: int) -> Iterator[OpCase]:
    """Those of an op; none of one whose work does not grow."""
    if op in _CASES:
        yield from _CASES[op](np.random.default_rng([seed, 77]), dtype, sizes)


def _about_one(rng: Rng, shape: tuple[int, ...], dtype: str) -> Any:
    """Terms of one sign, whose sum grows: one that is kept in few bits stops growing."""
    return rounded(1.0 + 0.25 * rng.standard_normal(shape), dtype)


def _linear(rng: Rng, dtype: str, sizes: Sizes, *, op: str) -> Iterator[OpCase]:
    for tokens, inner, outer in ((sizes.rows, 64, 48), (3, sizes.width, 32)):
        w = PackedWeight({"w": rounded(_about_one(rng, (outer, inner), dtype) / inner, dtype)}, "dense", (outer, inner))
        facts = {"in_features": inner, "out_features": outer, "bias": False, "format": "dense"}
        arguments: dict[str, Any] = {"x": _about_one(rng, (tokens, inner), dtype), "w": w}
        if op == "gated_linear":
            facts["kind"] = arguments["kind"] = "silu"
        request = OpRequest.of(op, dtype, key=w.dispatch_key, **facts)
        yield OpCase(f"{tokens}x{inner} -> {outer}", request, arguments)


def _vocabulary(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    yield from _linear(rng, dtype, sizes, op="logits")
    w = PackedWeight({"w": normal(rng, (sizes.vocab, 16), dtype)}, "dense", (sizes.vocab, 16))
    facts = {"in_features": 16, "out_features": sizes.vocab, "bias": False, "format": "dense"}
    request = OpRequest.of("logits", dtype, key=w.dispatch_key, **facts)
    yield OpCase(f"2x16 -> {sizes.vocab}", request, {"x": normal(rng, (2, 16), dtype), "w": w})


def _embedding(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    w = PackedWeight({"w": normal(rng, (sizes.vocab, 8), dtype)}, "dense", (sizes.vocab, 8))
    ids = rng.integers(0, sizes.vocab, sizes.rows).astype(np.int32)
    ids[::2] = rng.integers(sizes.vocab - 200, sizes.vocab, len(ids[::2]))
    request = OpRequest.of("embedding", dtype, key=w.dispatch_key, vocab=sizes.vocab, hidden=8, format="dense")
    yield OpCase(f"{sizes.rows} of {sizes.vocab}x8", request, {"ids": ids, "w": w})


def _norm(rng: Rng, dtype: str, sizes: Sizes, *, op: str) -> Iterator[OpCase]:
    for tokens, size in ((sizes.rows, 64), (2, sizes.width)):
        arguments = {
            "x": _about_one(rng, (tokens, size), dtype), "residual": _about_one(rng, (tokens, size), dtype),
            "weight": normal(rng, (size,), dtype), "eps": 1e-5, "offset": 0.0,
        }  # fmt: skip
        if op == "rms_norm":
            del arguments["residual"]
        yield OpCase(f"{tokens}x{size}", OpRequest.of(op, dtype, size=size), arguments)


def _gated(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    request = OpRequest.of("gated_activation", dtype, size=48, kind="silu")
    yield OpCase(f"{sizes.rows}x48", request, {"x": normal(rng, (sizes.rows, 96), dtype), "kind": "silu"})


def _angles(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    positions = np.array([0, 3, sizes.keys], np.int32)
    for base, factor in ((1e6, 1.0), (500.0, 1.0), (1e4, 0.25)):
        spec = RopeSpec(32, tuple(factor * base ** (-np.arange(16) / 16)))
        request = OpRequest.of("rope_angles", dtype, rotary_dim=32)
        yield OpCase(f"base {base:g}, factor {factor:g}", request, {"positions": positions, "rope": spec})


def _attention(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    yield attention_case(rng, dtype, f"decode behind {sizes.keys}", {}, [sizes.keys, 5], [1, 1], 16)
    window = {"window": sizes.keys // 2 + 3}
    yield attention_case(rng, dtype, f"window of {window['window']} behind {sizes.keys}", window, [sizes.keys], [2], 16)
    yield attention_case(rng, dtype, f"prefill of {sizes.rows}", {}, [3, 40], [sizes.rows, 1], 16)


def _argmax(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    logits = draw_logits(rng, 3, sizes.vocab)
    logits[0, sizes.vocab - 5] = logits[1, 17] = logits[2, [sizes.vocab - 9, sizes.vocab - 3]] = 60.0
    yield OpCase(f"3x{sizes.vocab}", OpRequest.of("argmax", dtype, vocab=sizes.vocab), {"logits": logits})
    logits = draw_logits(rng, sizes.rows, 40)
    yield OpCase(f"{sizes.rows}x40", OpRequest.of("argmax", dtype, vocab=40), {"logits": logits})


def _sample(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    logits = draw_logits(rng, 2, sizes.vocab)
    logits[:, 32_768:] += 9.0
    temperature, position = np.array([1.0, 0.7]), np.array([9, 2_000_000], np.int32)
    seed = clear_seeds(rng, logits, temperature, position)
    arguments = {"logits": logits, "temperature": temperature, "seed": seed, "position": position}
    yield OpCase(f"2x{sizes.vocab}", OpRequest.of("sample", dtype, vocab=sizes.vocab), arguments)


def _filter(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    logits = draw_logits(rng, 2, sizes.vocab)
    arguments = {
        "logits": logits, "temperature": np.array([1.0, 0.5]), "top_k": np.array([50, sizes.vocab - 7], np.int32),
        "top_p": np.ones(2), "min_p": np.zeros(2),
    }  # fmt: skip
    yield OpCase(f"top k of {sizes.vocab}", OpRequest.of("filter_logits", dtype, vocab=sizes.vocab), arguments)


def _logprobs(rng: Rng, dtype: str, sizes: Sizes) -> Iterator[OpCase]:
    tokens = np.array([sizes.vocab - 1, 4], np.int32)
    arguments = {"logits": draw_logits(rng, 2, sizes.vocab), "tokens": tokens, "top": 5}
    yield OpCase(f"2x{sizes.vocab}", OpRequest.of("logprobs", dtype, vocab=sizes.vocab), arguments)


_CASES: dict[str, Cases] = {
    "embedding": _embedding,
    "linear": partial(_linear, op="linear"),
    "gated_linear": partial(_linear, op="gated_linear"),
    "logits": _vocabulary,
    "rms_norm": partial(_norm, op="rms_norm"),
    "add_norm": partial(_norm, op="add_norm"),
    "norm_add": partial(_norm, op="norm_add"),
    "gated_activation": _gated,
    "rope_angles": _angles,
    "paged_attention": _attention,
    "argmax": _argmax,
    "sample": _sample,
    "filter_logits": _filter,
    "logprobs": _logprobs,
}
