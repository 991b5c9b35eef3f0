"""Multi-head latent attention (MLA, DeepSeek-V2, 2024): a token's history is one low-rank vector.

A latent is [compressed (rank) | rotated key part (rope)]. A head's key is ``k_up`` of the compressed
part beside the rotated part, which all heads share; its value is ``v_up`` of the compressed part. So
scores can be had from the latents alone ("absorbed": queries go through ``k_up`` instead), or keys and
values can be made from them ("expanded"): ``latent_attention`` leaves the choice to the backend.

A spec of a latent group has ``head_dim`` = rank + rope, ``v_head_dim`` = rank, ``kv_heads`` = 1.
References use the plain layout, a group: ``{"k": [layers, pages, page_size, 1, rank + rope]}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from zif.contract.attention import AttentionSpec
from zif.contract.cost import attended, cached, product
from zif.contract.ops.attention import attention_request, draw_step
from zif.contract.ops.draw import normal, stored
from zif.contract.ops.facts import ATTENTION, WEIGHT
from zif.contract.ops.tolerances import REDUCTION
from zif.contract.opspec import Fact, OpCase, OpRequest, op
from zif.contract.step import Step
from zif.contract.weights import PackedWeight, head_linear_request

A = np.ndarray[Any, Any]


def _head_weight(rng: np.random.Generator, shape: tuple[int, int, int], dtype: str) -> PackedWeight:
    return PackedWeight({"w": normal(rng, shape, dtype, scale=shape[-1] ** -0.5)}, "dense", shape)


def _head_linear_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for tokens, shape in ((1, (4, 32, 16)), (9, (3, 24, 48))):
        w = _head_weight(rng, shape, dtype)
        arguments = {"x": normal(rng, (tokens, shape[0], shape[2]), dtype), "w": w}
        yield OpCase(f"{tokens}x{shape}", head_linear_request(dtype, w), arguments)


_HEADS = (Fact("heads", "heads"), Fact("in_features", "columns of a head"), Fact("out_features", "rows of a head"))


@op(profile="mla", facts=(*WEIGHT, *_HEADS), tolerances=REDUCTION, cases=_head_linear_cases, dispatch="w", cost=product)
def head_linear(x: A, w: PackedWeight) -> A:
    """A linear of each head's own: x [T, heads, in], W [heads, out, in] -> [T, heads, out]."""
    return np.einsum("thi,hoi->tho", x, np.asarray(w.arrays["w"]))


@op(profile="mla", facts=ATTENTION, dispatch="spec", static=("spec",), cost=cached)
def latent_write(latent: A, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
    """Store the latents [T, rank + rope] of a step's tokens at their positions in ``layer`` of group
    ``spec.group``; padding goes to page 0. Consumes ``cache`` and returns it; ``layer`` may be traced.

    Tested through ``absorbed_attention``, which reads what this wrote.
    """
    group = {"k": cache[spec.group]["k"].copy()}
    page_size = group["k"].shape[2]
    for token in range(int(step.num_tokens[0])):
        page, offset = divmod(int(step.positions[token]), page_size)
        page = step.pages[spec.group][step.seqs[token], page]
        group["k"][layer, page, offset, 0] = stored(latent[token], group["k"].dtype)
    return {**cache, spec.group: group}


def _draws() -> Iterator[tuple[str, list[int], list[int], int, int]]:
    yield "decode", [0, 21, 8], [1, 1, 1], 8, 0
    yield "chunked prefill + decode, padded", [11, 5, 0], [7, 1, 3], 4, 2


def _spec(heads: int, rank: int, rope: int, scale: float) -> AttentionSpec:
    return AttentionSpec(group="g", q_heads=heads, kv_heads=1, head_dim=rank + rope, v_head_dim=rank, scale=scale)


def _absorbed_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for label, before, new, page_size, pad in _draws():
        spec = _spec(4, 24, 8, 32**-0.5)
        step, num_pages = draw_step(rng, before, new, page_size, "g", pad)
        arguments = {
            "q": normal(rng, (step.shape.tokens, spec.q_heads, spec.head_dim), dtype),
            "cache": {"g": {"k": normal(rng, (2, num_pages, page_size, 1, spec.head_dim), dtype)}},
            "layer": 1,
            "step": step,
            "spec": spec,
        }
        yield OpCase(label, attention_request("absorbed_attention", dtype, spec, page_size, dtype), arguments)


@op(
    profile="mla",
    facts=ATTENTION,
    tolerances=REDUCTION,
    cases=_absorbed_cases,
    dispatch="spec",
    static=("spec",),
    cost=attended,
)
def absorbed_attention(q: A, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> A:
    """Causal attention in the space of latents: q [T, q_heads, rank + rope] -> [T, q_heads, rank].

    softmax(scale q·latent) compressed, over positions up to the query's own, which are already
    written. Reads nothing beyond a sequence's length: unused slots may hold NaN. Rows of padding
    tokens are undefined.
    """
    latents = cache[spec.group]["k"][layer][:, :, 0]
    page_size = latents.shape[1]
    out = np.zeros((q.shape[0], spec.q_heads, spec.v_head_dim))
    for token in range(int(step.num_tokens[0])):
        at = np.arange(int(step.positions[token]) + 1)
        page = np.asarray(step.pages[spec.group])[step.seqs[token], at // page_size]
        history = latents[page, at % page_size]
        score = q[token] @ history.T * spec.scale
        weight = np.exp(score - score.max(-1, keepdims=True))
        out[token] = weight @ history[:, : spec.v_head_dim] / weight.sum(-1, keepdims=True)
    return out


def _latent_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for label, before, new, page_size, pad in _draws():
        heads, rank, rope, nope, v_dim = 4, 24, 8, 16, 20
        spec = _spec(heads, rank, rope, (nope + rope) ** -0.5)
        step, num_pages = draw_step(rng, before, new, page_size, "g", pad)
        arguments = {
            "q": normal(rng, (step.shape.tokens, heads, nope + rope), dtype),
            "cache": {"g": {"k": normal(rng, (2, num_pages, page_size, 1, spec.head_dim), dtype)}},
            "layer": 0,
            "step": step,
            "spec": spec,
            "k_up": _head_weight(rng, (heads, rank, nope), dtype),
            "v_up": _head_weight(rng, (heads, v_dim, rank), dtype),
        }
        yield OpCase(label, attention_request("latent_attention", dtype, spec, page_size, dtype), arguments)


def _latent_attention_composite(ops: Any) -> Callable[..., Any]:
    def latent_attention(
        q: Any, cache: Any, layer: Any, step: Step, spec: AttentionSpec, k_up: PackedWeight, v_up: PackedWeight
    ) -> Any:
        nope = k_up.shape[-1]
        absorbed = ops.concat([ops.head_linear(q[..., :nope], k_up), q[..., nope:]])
        return ops.head_linear(ops.absorbed_attention(absorbed, cache, layer, step, spec), v_up)

    return latent_attention


def _latent_attention_parts(request: OpRequest) -> Sequence[OpRequest]:
    return (request.as_of("absorbed_attention"),)  # those of the up-projections come from their weights


@op(
    profile="mla",
    facts=ATTENTION,
    tolerances=REDUCTION,
    cases=_latent_cases,
    composite=_latent_attention_composite,
    parts=_latent_attention_parts,
    dispatch="spec",
    static=("spec",),
    cost=attended,
)
def latent_attention(
    q: A, cache: Any, layer: Any, step: Step, spec: AttentionSpec, k_up: PackedWeight, v_up: PackedWeight
) -> A:
    """Attention of q [T, q_heads, nope + rope], rotated, over latents: -> [T, q_heads, v].

    k_up: W [q_heads, rank, nope], so that q·key = (k_up q_nope)·compressed + q_rope·rotated.
    v_up: W [q_heads, v, rank], so that value = v_up compressed. The step's latents are already written.
    """
    nope = k_up.shape[-1]
    absorbed = np.concatenate([head_linear(q[..., :nope], k_up), q[..., nope:]], axis=-1)
    return head_linear(absorbed_attention(absorbed, cache, layer, step, spec), v_up)
