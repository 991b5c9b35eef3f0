"""Rotary embeddings, writing the cache, and attention over pages.

References use the plain layout, a group: ``{"k": [layers, pages, page_size, kv_heads, head_dim],
"v": [layers, pages, page_size, kv_heads, v_head_dim]}``. A backend's own layout is its business:
conformance fills it through the backend's ``kv_write``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.cost import attended, attended_and_cached, cached
from zif.contract.ops.draw import normal, stored, wide
from zif.contract.ops.facts import ATTENTION
from zif.contract.ops.layers import rms_norm
from zif.contract.ops.tolerances import REDUCTION
from zif.contract.opspec import Fact, OpCase, OpRequest, op
from zif.contract.step import Step, StepShape

A = np.ndarray[Any, Any]


def attention_request(
    op_name: str,
    dtype: str,
    spec: AttentionSpec,
    page_size: int,
    cache_format: str,
    cache_layout: str = "plain",
    page_factor: int = 1,
) -> OpRequest:
    """The request that a model's attention layer makes of the ops that take its spec.

    ``page_size`` is that of its group; ``cache_format`` and ``cache_layout`` are the name and the layout of the format
    that the group is stored in (:class:`zif.contract.cache.CacheFormat`).
    """
    return OpRequest.of(
        op_name,
        dtype,
        key=spec,
        q_heads=spec.q_heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        v_head_dim=spec.v_head_dim,
        window=spec.window,
        softcap=spec.softcap,
        qk_norm=spec.qk_norm_eps is not None,
        rotary_dim=spec.rope.rotary_dim if spec.rope is not None else 0,
        page_size=page_size,
        page_factor=page_factor,
        cache_format=cache_format,
        cache_layout=cache_layout,
    )


def _angle_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    spec = RopeSpec(16, tuple(10000.0 ** (-np.arange(8) / 8)), attention_factor=1.25)
    positions = np.array([0, 1, 17, 4095], np.int32)
    yield OpCase("to 4095", OpRequest.of("rope_angles", dtype, rotary_dim=16), {"positions": positions, "rope": spec})


_ROTARY = Fact("rotary_dim", "dimensions of a head that are rotated")


@op(
    profile="llm",
    facts=(_ROTARY,),
    tolerances=dict.fromkeys(REDUCTION, REDUCTION["float32"]),
    cases=_angle_cases,
    static=("rope",),
)
def rope_angles(positions: A, rope: RopeSpec) -> A:
    """[cos | sin] of position * inv_freq, times the attention factor: [T] -> [T, rotary_dim] float32.

    Computed once a step and shared by its layers. Tolerance is float32's whatever the activations.
    """
    angle = positions[:, None].astype(np.float64) * np.asarray(rope.inv_freq)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=-1) * rope.attention_factor


def _rope_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for head_dim, rotary, interleaved in ((32, 32, False), (32, 16, False), (16, 16, True)):
        angles = rope_angles(rng.integers(0, 999, 5), RopeSpec(rotary, tuple(1e4 ** (-np.arange(rotary // 2) / 8))))
        arguments = {"x": normal(rng, (5, 3, head_dim), dtype), "angles": angles, "interleaved": interleaved}
        request = OpRequest.of("rope", dtype, head_dim=head_dim, rotary_dim=rotary)
        yield OpCase(f"{rotary} of {head_dim}{' interleaved' if interleaved else ''}", request, arguments)


@op(
    profile="llm",
    facts=(Fact("head_dim", "size of a head"), _ROTARY),
    tolerances=REDUCTION,
    cases=_rope_cases,
    static=("interleaved",),
)
def rope(x: A, angles: A, interleaved: bool = False) -> A:
    """Turn the pairs of the first rotary_dim dimensions of x [T, heads, head_dim] by ``angles``
    [T, rotary_dim] (of ``rope_angles``); the rest pass. See :class:`RopeSpec` for the pairing.
    """
    rotary = angles.shape[-1]
    cos, sin = np.split(angles[:, None, :], 2, axis=-1)
    turned = x[..., :rotary]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        out = np.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(turned.shape)
    else:
        first, second = np.split(turned, 2, axis=-1)
        out = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return np.concatenate([out, x[..., rotary:]], axis=-1)


@op(profile="llm", facts=ATTENTION, dispatch="spec", static=("spec",), cost=cached)
def kv_write(k: A, v: A, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
    """Store k [T, kv_heads, head_dim] and v [T, kv_heads, v_head_dim] of a step's tokens at their
    positions in ``layer`` of group ``spec.group``; padding goes to page 0. Consumes ``cache`` and
    returns it. ``layer`` counts within the group and may be traced.

    What is read back of it is what the cache's format says (:meth:`zif.contract.cache.CacheFormat.restored`).

    Tested through ``paged_attention``, which reads what this wrote.
    """
    group = {name: array.copy() for name, array in cache[spec.group].items()}
    page_size = group["k"].shape[2]
    for token in range(int(step.num_tokens[0])):
        page, offset = divmod(int(step.positions[token]), page_size)
        page = step.pages[spec.group][step.seqs[token], page]
        group["k"][layer, page, offset] = stored(k[token], group["k"].dtype)
        group["v"][layer, page, offset] = stored(v[token], group["v"].dtype)
    return {**cache, spec.group: group}


def draw_step(
    rng: np.random.Generator, before: Sequence[int], new: Sequence[int], page_size: int, group: str, pad: int = 0
) -> tuple[Step, int]:
    """A step of sequences with ``before`` cached and ``new`` new tokens, on shuffled pages, with
    ``pad`` tokens of padding; and the number of pages that it needs, page 0 included.
    """
    seqs, tokens = len(new), sum(new)
    needed = [-(-(b + n) // page_size) for b, n in zip(before, new, strict=True)]
    width, total = max(needed) + 1, sum(needed) + 2
    order = rng.permutation(np.arange(1, total))
    pages, cursor = np.zeros((seqs, width), np.int32), 0
    for row, count in enumerate(needed):
        pages[row, :count] = order[cursor : cursor + count]
        cursor += count
    starts = np.concatenate([[0], np.cumsum(new)]).astype(np.int32)
    padded = tokens + pad
    of_token = np.full(padded, seqs - 1, np.int32)
    of_token[:tokens] = np.repeat(np.arange(seqs), new)
    positions = np.zeros(padded, np.int32)
    positions[:tokens] = np.concatenate([np.arange(b, b + n) for b, n in zip(before, new, strict=True)])
    lens = np.array([b + n for b, n in zip(before, new, strict=True)], np.int32)
    shape = StepShape(padded, seqs, width, seqs, decode=not pad and all(n == 1 for n in new))
    step = Step(
        tokens=rng.integers(0, 9, padded, dtype=np.int32),
        positions=positions,
        seqs=of_token,
        query_starts=starts,
        kv_lens=lens,
        pages={group: pages},
        num_tokens=np.array([tokens], np.int32),
        logits_at=starts[1:] - 1,
        shape=shape,
    )
    return step, total


def attention_case(
    rng: np.random.Generator, dtype: str, label: str, changes: Mapping[str, Any], before: Sequence[int],
    new: Sequence[int], page_size: int, pad: int = 0,
) -> OpCase:  # fmt: skip
    """``paged_attention`` of ``new`` tokens of sequences with ``before`` cached ones. ``changes``: of the spec."""
    facts = {"q_heads": 4, "kv_heads": 2, "head_dim": 32, "v_head_dim": 32, **changes}
    spec = AttentionSpec(group="g", scale=facts["head_dim"] ** -0.5, **facts)
    step, num_pages = draw_step(rng, before, new, page_size, "g", pad)
    shape = (2, num_pages, page_size, spec.kv_heads)
    group = {
        "k": normal(rng, (*shape, spec.head_dim), dtype),
        "v": normal(rng, (*shape, spec.v_head_dim), dtype),
    }
    arguments = {
        "q": normal(rng, (step.shape.tokens, spec.q_heads, spec.head_dim), dtype),
        "cache": {"g": group},
        "layer": 1,
        "step": step,
        "spec": spec,
    }
    return OpCase(label, attention_request("paged_attention", dtype, spec, page_size, dtype), arguments)


def _attention_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    cases: list[tuple[str, dict[str, Any], list[int], list[int], int, int]] = [
        ("decode", {}, [0, 6, 40, 17], [1, 1, 1, 1], 16, 0),
        ("decode, long, page 1", {}, [300], [1], 1, 0),
        ("prefill", {}, [0, 0], [5, 37], 16, 0),
        ("chunked prefill + decode, padded", {}, [20, 9, 0], [16, 1, 3], 4, 4),
        ("decode of many + prefill, padded", {}, [40, 70, 3, *range(30), 9, 12], [1] * 33 + [6, 1], 16, 3),
        ("window", {"window": 8}, [3, 30, 0], [1, 6, 20], 4, 0),
        ("softcap", {"softcap": 5.0}, [12, 0], [1, 7], 16, 0),
        ("multi-head", {"q_heads": 4, "kv_heads": 4}, [33, 2], [1, 1], 16, 0),
        ("multi-query, head 128", {"q_heads": 8, "kv_heads": 1, "head_dim": 128, "v_head_dim": 128}, [50], [3], 16, 0),
    ]
    for label, changes, before, new, page_size, pad in cases:
        yield attention_case(rng, dtype, label, changes, before, new, page_size, pad)


@op(
    profile="llm",
    facts=ATTENTION,
    tolerances=REDUCTION,
    cases=_attention_cases,
    dispatch="spec",
    static=("spec",),
    cost=attended,
)
def paged_attention(q: A, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> A:
    """Causal attention of a step's queries over their sequences' pages: q [T, q_heads, head_dim] ->
    [T, q_heads, v_head_dim]; the step's own keys and values are already written.

    softmax(softcap(scale q·k)) v over positions (p - window, p], a query head h reading kv head
    h // (q_heads / kv_heads). Reads nothing beyond a sequence's length: unused slots may hold NaN.
    Rows of padding tokens are undefined.
    """
    keys, values = wide(cache[spec.group]["k"][layer]), wide(cache[spec.group]["v"][layer])
    page_size, per_kv = keys.shape[1], spec.q_heads // spec.kv_heads
    out = np.zeros((q.shape[0], spec.q_heads, spec.v_head_dim))
    for token in range(int(step.num_tokens[0])):
        position = int(step.positions[token])
        first = 0 if spec.window is None else max(0, position - spec.window + 1)
        at = np.arange(first, position + 1)
        page = np.asarray(step.pages[spec.group])[step.seqs[token], at // page_size]
        k, v = keys[page, at % page_size], values[page, at % page_size]
        for head in range(spec.q_heads):
            score = k[:, head // per_kv] @ q[token, head] * spec.scale
            if spec.softcap is not None:
                score = spec.softcap * np.tanh(score / spec.softcap)
            weight = np.exp(score - score.max())
            out[token, head] = weight @ v[:, head // per_kv] / weight.sum()
    return out


def _rope_and_cache_composite(ops: Any) -> Callable[..., Any]:
    def rope_and_cache(
        q: Any, k: Any, v: Any, cache: Any, layer: Any, step: Step, spec: AttentionSpec,
        angles: Any = None, q_norm: Any = None, k_norm: Any = None,
    ) -> Any:  # fmt: skip
        if spec.qk_norm_eps is not None:
            q = ops.rms_norm(q, q_norm, spec.qk_norm_eps, spec.qk_norm_offset)
            k = ops.rms_norm(k, k_norm, spec.qk_norm_eps, spec.qk_norm_offset)
        if spec.rope is not None:
            q = ops.rope(q, angles, spec.rope.interleaved)
            k = ops.rope(k, angles, spec.rope.interleaved)
        return q, ops.kv_write(k, v, cache, layer, step, spec)

    return rope_and_cache


def _rope_and_cache_parts(request: OpRequest) -> Sequence[OpRequest]:
    dtype, head_dim, rotary_dim = request.dtype, request["head_dim"], request["rotary_dim"]
    norm = [OpRequest.of("rms_norm", dtype, size=head_dim)] if request["qk_norm"] else []
    rotation = [OpRequest.of("rope", dtype, head_dim=head_dim, rotary_dim=rotary_dim)] if rotary_dim else []
    return [request.as_of("kv_write"), *norm, *rotation]


@op(
    profile="llm",
    facts=ATTENTION,
    tolerances=REDUCTION,
    composite=_rope_and_cache_composite,
    parts=_rope_and_cache_parts,
    dispatch="spec",
    static=("spec",),
    cost=cached,
)
def rope_and_cache(
    q: A, k: A, v: A, cache: Any, layer: Any, step: Step, spec: AttentionSpec,
    angles: A | None = None, q_norm: A | None = None, k_norm: A | None = None,
) -> tuple[A, Any]:  # fmt: skip
    """Normalise q and k a head (if the spec says so), rotate both (likewise), write k and v.

    Returns (q ready for ``paged_attention``, cache). One kernel can do it in a single pass.
    """
    if spec.qk_norm_eps is not None:
        assert q_norm is not None and k_norm is not None, "the spec normalises q and k, and there are no weights"
        q = rms_norm(q, q_norm, spec.qk_norm_eps, spec.qk_norm_offset)
        k = rms_norm(k, k_norm, spec.qk_norm_eps, spec.qk_norm_offset)
    if spec.rope is not None:
        assert angles is not None, "the spec rotates, and there are no angles"
        q, k = rope(q, angles, spec.rope.interleaved), rope(k, angles, spec.rope.interleaved)
    return q, kv_write(k, v, cache, layer, step, spec)


def _full_attention_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    frequencies = tuple(10000.0 ** (-np.arange(16) / 16))
    whole, part = RopeSpec(32, frequencies), RopeSpec(16, frequencies[::2], interleaved=True)
    plain = {"q_heads": 4, "kv_heads": 2, "head_dim": 32, "v_head_dim": 32}
    mixed, decode = ([18, 0, 5], [1, 9, 1], 1), ([18, 0, 150, 7, 31], [1, 1, 1, 1, 1], 0)
    for label, facts, rope_spec, eps, (before, new, pad) in (
        ("rope", plain, whole, None, mixed),
        ("qk-norm + rope", plain, whole, 1e-6, mixed),
        ("no rope", plain, None, None, mixed),
        ("decode, rope", plain, whole, None, decode),
        ("decode, qk-norm + rope of a part", plain, part, 1e-6, decode),
        ("decode, no rope, window", plain | {"window": 8}, None, None, decode),
    ):
        spec = AttentionSpec(group="g", scale=32**-0.5, rope=rope_spec, qk_norm_eps=eps, **facts)
        step, num_pages = draw_step(rng, before, new, 8, "g", pad)
        tokens, shape = step.shape.tokens, (2, num_pages, 8, spec.kv_heads)
        arguments = {
            "q": normal(rng, (tokens, 4, 32), dtype),
            "k": normal(rng, (tokens, 2, 32), dtype),
            "v": normal(rng, (tokens, 2, 32), dtype),
            "cache": {"g": {name: normal(rng, (*shape, 32), dtype) for name in ("k", "v")}},
            "layer": 0,
            "step": step,
            "spec": spec,
            "angles": rope_angles(np.asarray(step.positions), rope_spec) if rope_spec else None,
            "q_norm": normal(rng, (32,), dtype) if eps else None,
            "k_norm": normal(rng, (32,), dtype) if eps else None,
        }
        yield OpCase(label, attention_request("attention", dtype, spec, 8, dtype), arguments)


def _attention_composite(ops: Any) -> Callable[..., Any]:
    def attention(
        q: Any, k: Any, v: Any, cache: Any, layer: Any, step: Step, spec: AttentionSpec,
        angles: Any = None, q_norm: Any = None, k_norm: Any = None,
    ) -> Any:  # fmt: skip
        q, cache = ops.rope_and_cache(q, k, v, cache, layer, step, spec, angles, q_norm, k_norm)
        return ops.paged_attention(q, cache, layer, step, spec), cache

    return attention


def _attention_parts(request: OpRequest) -> Sequence[OpRequest]:
    return request.as_of("rope_and_cache"), request.as_of("paged_attention")


@op(
    profile="llm",
    facts=ATTENTION,
    tolerances=REDUCTION,
    cases=_full_attention_cases,
    composite=_attention_composite,
    parts=_attention_parts,
    dispatch="spec",
    static=("spec",),
    cost=attended_and_cached,
)
def attention(
    q: A, k: A, v: A, cache: Any, layer: Any, step: Step, spec: AttentionSpec,
    angles: A | None = None, q_norm: A | None = None, k_norm: A | None = None,
) -> tuple[A, Any]:  # fmt: skip
    """``rope_and_cache``, then ``paged_attention``: ([T, q_heads, v_head_dim], cache)."""
    q, cache = rope_and_cache(q, k, v, cache, layer, step, spec, angles, q_norm, k_norm)
    return paged_attention(q, cache, layer, step, spec), cache
