"""Ops with a bug planted, and which op each of them pretends to be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from core.mutants import ORIGINAL, expect, result, spec
from zif.contract.ops import op_specs
from zif.contract.ops.sampling import scores, sound
from zif.contract.ops.threefry import BLOCK, FIRST_BLOCK, HALF, threefry2x32
from zif.reference.torch.attention import write_slots

# --- attention -----------------------------------------------------------------------------------------


def reads_beyond_the_length(q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Masks by multiplying with zero, so that what stands in unused slots comes through if it is NaN."""
    keys, values = cache[spec.group]["k"][layer], cache[spec.group]["v"][layer]
    out = torch.zeros((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype)
    group = spec.q_heads // spec.kv_heads
    for token in range(int(step.num_tokens)):
        row, position = int(step.seqs[token]), int(step.positions[token])
        pages = step.pages[spec.group][row]
        k, v = keys[pages].flatten(0, 1), values[pages].flatten(0, 1)
        at = torch.arange(len(k))
        seen = at <= position
        if spec.window is not None:
            seen &= at > position - spec.window
        k, v = k.repeat_interleave(group, 1).nan_to_num(), v.repeat_interleave(group, 1)
        score = torch.einsum("hd,shd->hs", q[token], k) * spec.scale
        if spec.softcap is not None:
            score = torch.tanh(score / spec.softcap) * spec.softcap
        weight = score.masked_fill(~seen, float("-inf")).softmax(-1)
        out[token] = torch.einsum("hs,shd->hd", weight, v)
    return out


def wrong_heads(q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Query head h reads kv head h % kv_heads."""
    order = torch.arange(spec.q_heads).reshape(-1, spec.kv_heads).T.flatten()
    back = torch.argsort(order)
    return ORIGINAL["paged_attention"](q[:, order], cache, layer, step, spec)[:, back]


def not_causal(q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Each query of a step sees the whole step."""
    out = ORIGINAL["paged_attention"](q, cache, layer, step, spec)
    starts = step.query_starts.tolist()
    for first, last in itertools.pairwise(starts):
        for token in range(first, last - 1):
            probe = q.clone()
            probe[last - 1] = q[token]
            out[token] = ORIGINAL["paged_attention"](probe, cache, layer, step, spec)[last - 1]
    return out


def one_short(q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Does not see its own token."""
    shorter = replace(step, kv_lens=torch.where(step.kv_lens > 1, step.kv_lens - 1, step.kv_lens))
    return ORIGINAL["paged_attention"](q, cache, layer, shorter, spec)


def pages_in_order(q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Takes pages to be contiguous from the first on."""
    tables = step.pages[spec.group]
    width = torch.arange(tables.shape[1], dtype=tables.dtype)
    contiguous = torch.where(tables > 0, (tables[:, :1] + width) % cache[spec.group]["k"].shape[1], tables)
    return ORIGINAL["paged_attention"](q, cache, layer, replace(step, pages={spec.group: contiguous}), spec)


def sums_of_the_padding(q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """A reduction over all rows, with those of padding."""
    return ORIGINAL["paged_attention"](q + 0 * q.sum(), cache, layer, step, spec)


ATTENTION = {
    "window one too wide": expect("paged_attention", spec=spec(window=lambda s: s.window and s.window + 1)),
    "window one too narrow": expect("paged_attention", spec=spec(window=lambda s: s.window and s.window - 1)),
    "window ignored": expect("paged_attention", spec=lambda s: replace(s, window=None)),
    "wrong scale": expect("paged_attention", spec=spec(scale=lambda s: s.scale * s.head_dim**-0.5)),
    "scale ignored": expect("paged_attention", spec=spec(scale=1.0)),
    "softcap missing": expect("paged_attention", spec=lambda s: replace(s, softcap=None)),
    "layer ignored": expect("paged_attention", layer=lambda _: 0),
    "reads beyond the length": reads_beyond_the_length,
    "wrong grouping of heads": wrong_heads,
    "not causal": not_causal,
    "own token unseen": one_short,
    "pages taken to be contiguous": pages_in_order,
    "rows of padding summed in": sums_of_the_padding,
}

# --- writing the cache ---------------------------------------------------------------------------------


def padding_is_written(k: Any, v: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Tokens of padding go where their position and sequence say."""
    everything = replace(step, num_tokens=torch.full_like(step.num_tokens, k.shape[0]))
    seqs = torch.minimum(step.seqs, (step.kv_lens > 0).sum() - 1)
    return ORIGINAL["kv_write"](k, v, cache, layer, replace(everything, seqs=seqs), spec)


def a_page_is_cleared(k: Any, v: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Writes whole pages, zeros in the slots behind the token."""
    page, offset = write_slots(step, spec.group, cache[spec.group]["k"].shape[2])
    for p, o in zip(page[: int(step.num_tokens)].tolist(), offset.tolist(), strict=False):
        cache[spec.group]["k"][layer, p, :o] = 0.0
    return ORIGINAL["kv_write"](k, v, cache, layer, step, spec)


def all_layers(k: Any, v: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Writes every layer."""
    for each in range(cache[spec.group]["k"].shape[0]):
        cache = ORIGINAL["kv_write"](k, v, cache, each, step, spec)
    return cache


def neighbour_page(k: Any, v: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Also writes the page before the right one."""
    tables = step.pages[spec.group]
    astray = replace(step, pages={spec.group: torch.where(tables > 0, tables - 1, 0)})
    ORIGINAL["kv_write"](k, v, cache, layer, astray, spec)
    return ORIGINAL["kv_write"](k, v, cache, layer, step, spec)


WRITES = {
    "padding hits a live page": padding_is_written,
    "the rest of a page is cleared": a_page_is_cleared,
    "every layer is written": all_layers,
    "a neighbour's page is written": neighbour_page,
    "k and v swapped": lambda k, v, *rest: ORIGINAL["kv_write"](v, k, *rest),
    "nothing is written": lambda k, v, cache, *rest: cache,
    "layer ignored": expect("kv_write", layer=lambda _: 0),
}

# --- the other ops -------------------------------------------------------------------------------------


def biasless(x: Any, w: Any, step: Any) -> Any:
    return torch.nn.functional.linear(x, w.arrays["w"])


def doubled_rope_and_cache(
    q: Any, k: Any, v: Any, cache: Any, layer: Any, step: Any, s: Any, a: Any, qn: Any, kn: Any
) -> Any:
    """Rotates q as it should, and forgets k."""
    turned = ORIGINAL["rope"](q, a, s.rope.interleaved) if s.rope else q
    return turned, ORIGINAL["kv_write"](k, v, cache, layer, step, s)


def top_p_one_more(logits: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any) -> Any:
    """Keeps the token after the one that reaches top_p."""
    kept = ORIGINAL["filter_logits"](logits, temperature, top_k, top_p, min_p)
    for row in torch.nonzero(top_p < 1).flatten().tolist():
        left = logits[row].masked_fill(~kept[row].isinf(), float("-inf"))
        kept[row, left.argmax()] = logits[row, left.argmax()]
    return kept


def noisy(x: Any, weight: Any, eps: Any, offset: Any) -> Any:
    """Within tolerance, and different each time."""
    return ORIGINAL["rms_norm"](x, weight, eps, offset) * (1 + 1e-6 * torch.rand(()))


def min_p_of_one(logits: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any) -> Any:
    """min_p as a probability of its own, not as a share of the highest."""
    kept = ORIGINAL["filter_logits"](logits, temperature, top_k, top_p, torch.zeros_like(min_p))
    p = (logits / temperature.clamp(min=1e-3)[:, None]).softmax(-1)
    return kept.masked_fill((p < min_p[:, None]) & (p < p.amax(-1, keepdim=True)), float("-inf"))


def composed(op: str) -> Any:
    """A composite over the reference's kernels."""
    composite = op_specs()[op].composite
    assert composite is not None
    return composite(SimpleNamespace(**ORIGINAL))


def given(op: str, **changes: Any) -> Any:
    """A composite, given changed arguments."""
    names = op_specs()[op].parameters

    def mutant(*values: Any) -> Any:
        return composed(op)(**{name: changes.get(name, lambda v: v)(v) for name, v in zip(names, values, strict=True)})

    return mutant


def assigned_in_the_step_alone(rows: Any, tokens: Any, last: Any, kv_len: Any, pages: Any, *rest: Any) -> Any:
    """Page assignments of rows that are not in the step are lost."""
    *results, updated = composed("decode_inputs")(
        rows, tokens, last, kv_len, {group: table.clone() for group, table in pages.items()}, *rest
    )
    return *results, {group: ORIGINAL["put"](pages[group], (rows,), updated[group][rows]) for group in pages}


def words_of_ids(ids: Any) -> tuple[Any, Any]:
    return ids & ~np.uint32(HALF), ids & HALF


def words_of_blocks(blocks: Any) -> tuple[Any, Any]:
    return blocks | np.uint32(FIRST_BLOCK), 0


def draws(ids: Any = words_of_ids, blocks: Any = words_of_blocks, scored: Any = scores) -> Callable[..., Any]:
    """Draws that take for each id and each block the counter and the word that these tell, and scores by ``scored``."""

    def sample(logits: Any, temperature: Any, seed: Any, position: Any) -> Any:
        key = seed.numpy().view(np.uint32)

        def u(words: Any, count: int) -> Any:
            counter, second = words(np.arange(count, dtype=np.uint32))
            both = threefry2x32(key[:, :1], key[:, 1:], position.numpy().astype(np.uint32)[:, None], counter[None, :])
            return ((np.where(second, *both[::-1]) >> 9) + 0.5) / 2**23

        vocab = logits.shape[-1]
        given = (
            logits.double().nan_to_num(posinf=0, neginf=-np.inf).numpy(),
            temperature.double().numpy(),
            u(blocks, -(-vocab // BLOCK)),
            u(ids, vocab),
        )
        of_blocks, of_ids = scored(*given)
        block = of_blocks.argmax(-1)
        drawn = block * BLOCK + of_ids[np.arange(len(of_ids)), block].argmax(-1)
        return torch.from_numpy(np.where(sound(logits.numpy()), drawn, -1)).int()

    return sample


def halves(ids: Any) -> tuple[Any, Any]:
    second, counter = np.divmod(ids, len(ids) // 2)
    return counter, second


def largest(logits: Any, temperature: Any, block_u: Any, u: Any) -> tuple[Any, Any]:
    """Blocks in proportion to their largest exp(z), not to the sum."""
    of_blocks, of_ids = scores(logits, temperature, block_u, u)
    z = logits / np.where(temperature == 0, 1.0, temperature)[:, None]
    highest, _ = scores(z, 0 * temperature, block_u, u)
    return np.where(temperature[:, None] == 0, of_blocks, highest - np.log(-np.log(block_u))), of_ids


def careless(logits: Any, temperature: Any, block_u: Any, u: Any) -> tuple[Any, Any]:
    """A block of -inf alone has a score of -inf less -inf."""
    of_blocks, of_ids = scores(logits, temperature, block_u, u)
    return np.where(np.isneginf(of_blocks), np.nan, of_blocks), of_ids


def blocks_for_certain(logits: Any, temperature: Any, block_u: Any, u: Any) -> tuple[Any, Any]:
    """No noise of blocks."""
    return scores(logits, temperature, 0 * block_u + np.exp(-1), u)


def with_infinities(op: str) -> Callable[..., Any]:
    """The op, for which +inf is the largest of numbers, and a row of -inf one of equals."""
    return expect(op, logits=lambda x: torch.where(x.isnan(), x, x.clamp(-3e38, 3e38)))


def last_of_equals(logits: Any) -> Any:
    return (logits.shape[-1] - 1 - logits.flip(-1).argmax(-1)).int()


def biased_weights(logits: Any, spec: Any, bias: Any = None) -> Any:
    """Weighs with what it chooses by."""
    weights, experts = ORIGINAL["route"](logits, replace(spec, normalize=False, scale=1.0), bias)
    if bias is not None:
        weights = weights + bias[experts.long()]
    if spec.normalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * spec.scale, experts


def without_biases(w: Any) -> Any:
    return replace(w, arrays={name: array for name, array in w.arrays.items() if "bias" not in name})


def higher_among_equals(logits: Any, spec: Any, bias: Any = None) -> Any:
    """Sees the experts in the opposite order."""
    weights, experts = ORIGINAL["route"](logits.flip(-1), spec, None if bias is None else bias.flip(-1))
    return weights, spec.experts - 1 - experts


OPS: dict[str, dict[str, Any]] = {
    "paged_attention": ATTENTION,
    "kv_write": WRITES,
    "rope_and_cache": {"k is not rotated": doubled_rope_and_cache},
    "rms_norm": {
        "offset ignored": expect("rms_norm", offset=lambda _: 0.0),
        "eps forgotten": lambda x, weight, eps, offset: ORIGINAL["rms_norm"](x, weight, 0.0, offset),
        "eps outside the root": lambda x, w, eps, o: x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * (o + w),
        "mean over all rows": lambda x, w, eps, o: x * torch.rsqrt(x.square().mean() + eps) * (o + w),
        "not deterministic": noisy,
        "a wider result": result("rms_norm", lambda y: y.double()),
    },
    "linear": {
        "bias dropped": biasless,
        "last output lost": result("linear", lambda y: torch.cat([y[:, :-1], y[:, :1]], -1)),
    },
    "embedding": {"one row off": expect("embedding", ids=lambda ids: (ids - 1).clamp(min=0))},
    "add_norm": {
        "residual before the sum": lambda x, r, w, eps, o, c, s: (ORIGINAL["rms_norm"](x + r, w, eps, o), r),
        "norm of x alone": lambda x, r, w, eps, o, c, s: (ORIGINAL["rms_norm"](x, w, eps, o), x + r),
    },
    "gated_activation": {
        "gate and up swapped": expect("gated_activation", x=lambda x: torch.cat(x.chunk(2, -1)[::-1], -1)),
        "kind ignored": expect("gated_activation", kind=lambda _: "silu"),
    },
    "softcap": {"no cap": lambda x, cap: x, "clipped": lambda x, cap: x.clamp(-cap, cap)},
    "rope_angles": {
        "attention factor ignored": expect("rope_angles", rope=lambda rope: replace(rope, attention_factor=1.0)),
        "positions from one": expect("rope_angles", positions=lambda p: p + 1),
        "sin before cos": result("rope_angles", lambda a: torch.cat(a.chunk(2, -1)[::-1], -1)),
    },
    "rope": {
        "sign": expect("rope", angles=lambda a: torch.cat([a.chunk(2, -1)[0], -a.chunk(2, -1)[1]], -1)),
        "interleave swapped": expect("rope", interleaved=lambda flag: not flag),
        "the rest is lost": lambda x, a, i: torch.cat(
            [ORIGINAL["rope"](x, a, i)[..., : a.shape[-1]], 0 * x[..., a.shape[-1] :]], -1
        ),
    },
    "penalize": {
        "prompt ignored": expect("penalize", in_prompt=torch.zeros_like),
        "presence of the prompt": lambda lo, c, p, r, pr, f: ORIGINAL["penalize"](lo, c, p, r, pr, f)
        - pr[:, None] * (p & (c == 0)),
        "frequency not counted": expect("penalize", output_counts=lambda c: (c > 0).int()),
        "negative logits divided": lambda lo, c, p, r, pr, f: lo / torch.where((c > 0) | p, r[:, None], 1.0)
        - f[:, None] * c
        - pr[:, None] * (c > 0),
    },
    "argmax": {
        "the last of equals": last_of_equals,
        "a fault gives a token": expect("argmax", logits=torch.nan_to_num),
        "only NaN is a fault": with_infinities("argmax"),
    },
    "sample": {
        "position ignored": expect("sample", position=torch.zeros_like),
        "seed's second word ignored": expect("sample", seed=lambda s: s * torch.tensor([1, 0], dtype=s.dtype)),
        "temperature ignored": expect("sample", temperature=lambda t: (t > 0).float()),
        "never greedy": expect("sample", temperature=lambda t: t.clamp(min=1.0)),
        "a counter for each token": draws(lambda ids: (ids, 0)),
        "neighbours share a counter": draws(lambda ids: (ids // 2, ids % 2)),
        "halves of the vocabulary share a counter": draws(halves),
        "blocks have the counters of ids": draws(blocks=lambda blocks: (blocks, 0)),
        "blocks have second words": draws(blocks=lambda blocks: (blocks | np.uint32(FIRST_BLOCK), 1)),
        "blocks by their largest": draws(scored=largest),
        "blocks without noise": draws(scored=blocks_for_certain),
        "a block of -inf alone": draws(scored=careless),
        "a fault gives a token": expect("sample", logits=torch.nan_to_num),
        "only NaN is a fault": with_infinities("sample"),
    },
    "sample_rows": {
        "settings in order": lambda lo, rows, t, seed, kv, last, random: (
            tokens := ORIGINAL["sample"](lo, *(field[: len(rows)] for field in (t, seed, kv))) if random
            else ORIGINAL["argmax"](lo),
            ORIGINAL["put"](last, (rows,), tokens),
        ),
        "not kept": lambda *args: (composed("sample_rows")(*args[:5], args[5].clone(), args[6])[0], args[5]),
        "always greedy": given("sample_rows", random=lambda _: False),
        "a fault is kept": lambda *args: (
            tokens := composed("sample_rows")(*args[:5], args[5].clone(), args[6])[0],
            ORIGINAL["put"](args[5], (args[1],), tokens),
        ),
    },
    "decode_inputs": {
        "padding grows": lambda *args: tuple(
            result + (args[0] == 0) if place == 2 else result
            for place, result in enumerate(composed("decode_inputs")(*args))
        ),
        "assignments of other rows are lost": assigned_in_the_step_alone,
        "known tokens are not taken": given("decode_inputs", tokens=lambda t: t * 0 - 1),
        "pages of one group": given("decode_inputs", page_ids=lambda ids: dict.fromkeys(ids, ids["full"])),
        "the lengths are left": lambda *args: tuple(
            args[3] if place == 5 else result
            for place, result in enumerate(composed("decode_inputs")(*args[:3], args[3].clone(), *args[4:]))
        ),
    },
    "mixed_inputs": {
        "positions from the chunk's begin": lambda *args: tuple(
            result - args[6][args[0]][args[2]] * (result > 0) if place == 1 else result
            for place, result in enumerate(composed("mixed_inputs")(*args))
        ),
        "the first token of a prompt is the last drawn": given("mixed_inputs", tokens=lambda t: t.where(t != t[0], -1)),
        "lengths of the batch's order": lambda *args: composed("mixed_inputs")(*args[:6], args[6].flip(0), *args[7:]),
    },
    "mask_logits": {
        "a token too many": expect("mask_logits", mask=lambda mask: mask | 2),
        "one token on": lambda logits, mask: ORIGINAL["mask_logits"](logits.roll(1, -1), mask).roll(-1, -1),
        "the others": expect("mask_logits", mask=lambda mask: ~mask),
    },
    "filter_logits": {
        "top-p one too many": top_p_one_more,
        "top-k one too many": expect("filter_logits", top_k=lambda k: torch.where(k > 0, k + 1, k)),
        "min-p not relative": min_p_of_one,
        "temperature ignored": expect("filter_logits", temperature=torch.ones_like),
        "top-p before top-k": lambda lo, t, k, p, m: torch.where(
            ORIGINAL["filter_logits"](lo, t, torch.zeros_like(k), p, m).isinf(),
            float("-inf"),
            ORIGINAL["filter_logits"](lo, t, k, torch.ones_like(p), m),
        ),
    },
    "logprobs": {
        "rank from zero": result("logprobs", lambda r: (r[0], r[1] - 1, r[2], r[3])),
        "not normalised": lambda logits, tokens, top: (
            logits.gather(-1, tokens.long()[:, None])[:, 0], *ORIGINAL["logprobs"](logits, tokens, top)[1:]
        ),
        "alternatives in ascending order": result("logprobs", lambda r: (r[0], r[1], r[2].flip(-1), r[3].flip(-1))),
    },
    "route": {
        "not normalised": expect("route", spec=lambda s: replace(s, normalize=False)),
        "scale ignored": expect("route", spec=lambda s: replace(s, scale=1.0)),
        "softmax for all": expect("route", spec=lambda s: replace(s, scoring="softmax")),
        "groups ignored": expect("route", spec=lambda s: replace(s, groups=1, top_groups=1, group_score="max")),
        "groups by their best alone": expect("route", spec=lambda s: replace(s, group_score="max")),
        "bias ignored": expect("route", bias=lambda _: None),
        "bias in the weights": biased_weights,
        "the higher expert among equals": higher_among_equals,
    },
    "moe": {
        "weights ignored": expect("moe", weights=torch.ones_like),
        "first expert alone": expect("moe", weights=lambda w: w[:, :1], experts=lambda e: e[:, :1]),
        "biases ignored": expect("moe", w=without_biases),
        "not clamped": expect("moe", clamped=lambda c: c and replace(c, limit=1e9)),
        "up as it is": expect("moe", clamped=lambda c: c and replace(c, offset=0.0)),
        "a plain sigmoid": expect("moe", clamped=lambda c: c and replace(c, alpha=1.0)),
    },
    "absorbed_attention": {"scale ignored": expect("absorbed_attention", spec=spec(scale=1.0))},
    "head_linear": {"heads in another order": result("head_linear", lambda y: y.flip(1))},
    "put": {
        "rows in order": lambda target, index, values: ORIGINAL["put"](
            target, (index[0].sort()[0], *index[1:]), values
        )
    },
    "add_at": {
        "an index counts once": lambda target, index, values: ORIGINAL["put"](target, index, target[index] + values)
    },
    "repeat": {
        "always from the first layer": lambda block, stacked, carry, start, stop: ORIGINAL["repeat"](
            block, stacked, carry, 0, stop - start
        ),
        "one layer short": expect("repeat", stop=lambda stop: stop - 1),
    },
    "where": {"branches swapped": lambda condition, x, y: torch.where(condition, y, x)},
    "cast": {"rounds": lambda x, dtype: ORIGINAL["cast"](x.round() if x.is_floating_point() else x, dtype)},
}  # fmt: skip
MUTANTS = [
    pytest.param(op, mutant, id=f"{op}: {name}") for op, mutants in OPS.items() for name, mutant in mutants.items()
]
