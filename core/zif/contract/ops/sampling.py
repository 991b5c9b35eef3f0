"""Ops of the sampler. Logits are float32 [R, vocab] whatever the model's dtype.

A row of logits is *sound* if none of them is NaN or +inf, and one at least is finite: -inf is how a token is left
out. A token drawn from a row that is not sound is -1, so that a fault of the model is told from an answer
without a further output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zif.contract.ops.draw import normal
from zif.contract.ops.facts import VOCAB
from zif.contract.ops.threefry import BLOCK, block_uniform, uniform
from zif.contract.ops.tolerances import EXACT, REDUCTION
from zif.contract.opspec import OpCase, OpRequest, op

A = np.ndarray[Any, Any]
_FLOAT32 = dict.fromkeys(REDUCTION, REDUCTION["float32"])


def draw_logits(rng: np.random.Generator, rows: int, vocab: int, scale: float = 3.0) -> A:
    """[rows, vocab]"""
    return normal(rng, (rows, vocab), "float32", scale)


def sound(logits: A) -> A:
    """[R] bool: whether a token can be drawn from each row of ``logits`` [R, V]."""
    return np.isfinite(logits.max(-1))  # NaN, if there is one


def spoiled(logits: A) -> A:
    """``logits`` [R, V] with a fault in each row: NaN, +inf, both, NaN alone, -inf alone in turn."""
    logits, vocab = logits.copy(), logits.shape[-1]
    faults: list[tuple[Any, float]] = [(vocab // 2, np.nan), (vocab - 1, np.inf), (0, np.inf), (slice(None), np.nan)]
    for row, line in enumerate(logits):
        where, fault = (*faults, (slice(None), -np.inf))[row % 5]
        line[where] = fault
        if row % 5 == 2:
            line[vocab // 3] = np.nan
    return logits


def _penalize_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    rows, vocab = 4, 57
    arguments = {
        "logits": draw_logits(rng, rows, vocab),
        "output_counts": rng.integers(0, 3, (rows, vocab), dtype=np.int32),
        "in_prompt": rng.random((rows, vocab)) < 0.2,
        "repetition": np.array([1.0, 1.25, 0.5, 2.0]),
        "presence": np.array([0.0, 0.5, -1.0, 2.0]),
        "frequency": np.array([0.0, 0.25, 1.0, -0.5]),
    }
    yield OpCase(f"{rows}x{vocab}", OpRequest.of("penalize", dtype, vocab=vocab), arguments)


@op(profile="llm", facts=(VOCAB,), tolerances=_FLOAT32, cases=_penalize_cases)
def penalize(logits: A, output_counts: A, in_prompt: A, repetition: A, presence: A, frequency: A) -> A:
    """Logits [R, V] after penalties: repetition (Keskar et al. 2019) divides positive and
    multiplies negative logits of tokens in the prompt or the output; then ``frequency`` * count and
    ``presence`` * (count > 0) of output tokens are taken off, as OpenAI defines them.

    output_counts [R, V] int32; in_prompt [R, V] bool; the others [R] float32.
    """
    factor = np.where((output_counts > 0) | in_prompt, repetition[:, None], 1.0)
    logits = np.where(logits > 0, logits / factor, logits * factor)
    return logits - frequency[:, None] * output_counts - presence[:, None] * (output_counts > 0)


def _argmax_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    logits = draw_logits(rng, 5, 97)
    logits[1, [7, 3]] = 50.0  # a tie goes to the lower id
    yield OpCase("5x97 with a tie", OpRequest.of("argmax", dtype, vocab=97), {"logits": logits})
    logits = draw_logits(rng, 6, 600)
    logits[:5] = spoiled(logits[:5])
    logits[5, 3:] = -np.inf
    yield OpCase("faults", OpRequest.of("argmax", dtype, vocab=600), {"logits": logits})


@op(profile="llm", facts=(VOCAB,), tolerances=EXACT, cases=_argmax_cases)
def argmax(logits: A) -> A:
    """[R] int32: the most likely token of each row, the lowest id among equals; -1 for a row that is not sound."""
    return np.where(sound(logits), np.argmax(logits, axis=-1), -1).astype(np.int32)


def _sample_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    one_block = draw_logits(rng, 6, 211)
    one_block[2, 5:] = -np.inf
    several = draw_logits(rng, 6, 1000)  # the last of four is cut short
    several[1, 256:512] = several[2, :256] = several[3, 768:] = -np.inf
    several[4, BLOCK:] = -np.inf
    flat = draw_logits(rng, 9, 1300) * 0.1  # what is drawn depends on the sums of blocks, not on their largest
    flat[:, 40] = 4.0
    faults = draw_logits(rng, 11, 700)
    faults[:10] = spoiled(faults[:10])
    for label, logits, temperature in (
        ("a block", one_block, [0.0, 1.0, 0.7, 2.0, 1e-2, 1.0]),
        ("several", several, [1.0, 1.5, 2.0, 0.0, 0.7, 1e-2]),
        ("flat", flat, [1.0, 0.8, 1.2, 1.0, 0.9, 1.0, 0.8, 1.0, 1.1]),
        ("faults", faults, [1.0, 0.7, 1.5, 1.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
    ):
        rows, vocab = logits.shape
        position = rng.integers(0, 5000, rows).astype(np.int32)
        arguments = {
            "logits": logits,
            "temperature": np.array(temperature),
            "seed": clear_seeds(rng, logits, np.array(temperature), position),
            "position": position,
        }
        yield OpCase(f"{rows}x{vocab}, {label}", OpRequest.of("sample", dtype, vocab=vocab), arguments)


@op(profile="llm", facts=(VOCAB,), tolerances=EXACT, cases=_sample_cases)
def sample(logits: A, temperature: A, seed: A, position: A) -> A:
    """[R] int32: a token of each row drawn from softmax(logits / temperature) by the Gumbel-max trick (Gumbel 1954)
    on Threefry bits: first a block of 256 ids, then one of its ids.

    With z = logits / temperature, the block is that of the highest score, logsumexp(z of the block) - log(-log u'),
    and the id in it that of the highest z - log(-log u); the lowest among equals. So a block is drawn in proportion
    to its sum of exp(z), and an id in proportion to its share of that (the trick on sums of groups: Maddison, Tarlow,
    Minka 2014, "A* Sampling"): the distribution is the softmax's, for one exp a logit and a random number a block and
    for each id of one block. u' and u are those of :func:`zif.contract.ops.threefry.block_uniform` and ``uniform``. A
    block of -inf alone is never drawn. A row that is not sound gives -1.

    temperature [R] float32 (0: argmax); seed [R, 2] int32; position [R] int32, that of the token being drawn.
    Backends agree wherever the two highest scores of blocks, and the two highest perturbed logits in the block, each
    differ by more than 1e-3.
    """
    _, block, ids = _stages(logits, temperature, seed, position)
    return np.where(sound(logits), block * BLOCK + ids.argmax(-1), -1).astype(np.int32)


def _stages(logits: A, temperature: A, seed: A, position: A) -> tuple[A, A, A]:
    """Scores of blocks [R, n], the block [R] taken, its perturbed logits [R, 256]; a row that is not sound is 0."""
    vocab = logits.shape[-1]
    logits = np.where(sound(logits)[:, None], logits, 0.0)
    u = block_uniform(seed, position, -(-vocab // BLOCK)), uniform(seed, position, vocab)
    blocks, ids = scores(logits, temperature, *u)
    block = blocks.argmax(-1)
    return blocks, block, ids[np.arange(len(ids)), block]


def scores(logits: A, temperature: A, block_u: A, u: A) -> tuple[A, A]:
    """What ``sample`` takes the highest of: scores of blocks [R, n], and z [R, n, 256] with noise, -inf behind the
    last id. block_u [R, n] and u [R, V] in (0, 1).
    """
    greedy = temperature[:, None] == 0
    scaled = logits / np.where(greedy, 1.0, temperature[:, None])
    perturbed = np.where(greedy, scaled, scaled - np.log(-np.log(u)))
    z, ids = _blocks(scaled), _blocks(perturbed)
    highest = z.max(-1)
    base = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):  # -inf is the log of a block of -inf alone
        mass = base + np.log(np.exp(z - base[..., None]).sum(-1))
    return np.where(greedy, highest, mass - np.log(-np.log(block_u))), ids


def _blocks(x: A) -> A:
    """[R, V] as [R, n, 256]."""
    return np.pad(x, ((0, 0), (0, -x.shape[-1] % BLOCK)), constant_values=-np.inf).reshape(len(x), -1, BLOCK)


def margins(logits: A, temperature: A, seed: A, position: A) -> A:
    """[R]: by how much the draw of ``sample`` beats the next, of blocks or in the block, whichever is less.

    Infinite where there is no other, and where temperature is 0: an argmax is exact.
    """
    blocks, _, ids = _stages(logits, temperature, seed, position)

    def gap(x: A) -> A:
        if x.shape[-1] == 1:
            return np.full(len(x), np.inf)
        second, first = np.sort(x, axis=-1)[:, -2:].T
        return np.where(second > -np.inf, first - second, np.inf)

    return np.where(temperature == 0, np.inf, np.minimum(gap(blocks), gap(ids)))


def clear_seeds(rng: np.random.Generator, logits: A, temperature: A, position: A) -> A:
    """[R, 2] int32: random seeds whose draws float32 cannot mistake, by a margin of a hundredth."""
    seed = np.zeros((len(logits), 2), np.int32)
    unclear = np.ones(len(logits), bool)
    while unclear.any():
        seed[unclear] = rng.integers(-(2**31), 2**31, (unclear.sum(), 2))
        unclear = margins(logits, temperature, seed, position) < 1e-2
    return seed


def _mask_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    for rows, vocab in ((1, 32), (5, 101), (3, 300)):
        mask = rng.integers(-(2**31), 2**31, (rows, -(-vocab // 32))).astype(np.int32)
        mask[0] = -1  # all of them
        logits = draw_logits(rng, rows, vocab)
        yield OpCase(
            f"{rows}x{vocab}", OpRequest.of("mask_logits", dtype, vocab=vocab), {"logits": logits, "mask": mask}
        )


@op(profile="llm", facts=(VOCAB,), tolerances=EXACT, cases=_mask_cases)
def mask_logits(logits: A, mask: A) -> A:
    """Logits [R, V] with -inf for the tokens whose bit in ``mask`` [R, ceil(V / 32)] int32 is 0.

    Token v has bit v % 32, counted from the lowest, of word v // 32: the layout of llguidance and xgrammar. What
    bits behind V are means nothing.
    """
    tokens = np.arange(logits.shape[1])
    allowed = (mask[:, tokens // 32].astype(np.uint32) >> (tokens % 32).astype(np.uint32)) & 1
    return np.where(allowed == 1, logits, -np.inf)


def _filter_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    rows, vocab = 6, 101
    arguments = {
        "logits": draw_logits(rng, rows, vocab),
        "temperature": np.array([1.0, 0.7, 1.3, 1.0, 0.0, 1.0]),
        "top_k": np.array([0, 5, 40, 0, 3, 1], np.int32),
        "top_p": np.array([1.0, 1.0, 0.8, 0.5, 0.9, 1.0]),
        "min_p": np.array([0.0, 0.0, 0.02, 0.1, 0.0, 0.0]),
    }
    yield OpCase(f"{rows}x{vocab}", OpRequest.of("filter_logits", dtype, vocab=vocab), arguments)
    flat = {
        "logits": draw_logits(rng, rows, vocab) * 0.125,
        "temperature": np.array([1.0, 0.5, 2.0, 1.0, 1.0, 1.0]),
        "top_k": np.array([0, 8, 12, 1000, 30, 101], np.int32),
        "top_p": np.array([0.9, 0.6, 0.7, 0.3, 1.0, 0.999]),
        "min_p": np.array([0.5, 0.0, 0.4, 0.0, 0.6, 0.2]),
    }
    flat["logits"][3, 10:20] = flat["logits"][3].max()  # equals, of which top-p takes the lower ids
    yield OpCase("flat, all at once", OpRequest.of("filter_logits", dtype, vocab=vocab), flat)
    settings = {name: flat[name] for name in ("temperature", "top_k", "top_p", "min_p")}
    faults = {"logits": draw_logits(rng, rows, vocab), **settings, "top_k": np.array([0, 0, 0, 0, 5, 9], np.int32)}
    faults["logits"][:5] = spoiled(faults["logits"][:5])
    yield OpCase("faults", OpRequest.of("filter_logits", dtype, vocab=vocab), faults)


@op(profile="llm", facts=(VOCAB,), tolerances=EXACT, cases=_filter_cases)
def filter_logits(logits: A, temperature: A, top_k: A, top_p: A, min_p: A) -> A:
    """Logits [R, V] with -inf for the tokens that top-k, top-p and min-p leave out.

    With p = softmax(logits / temperature) (temperature 0 counts as 1): keep the ``top_k`` most
    likely and their equals (0: all); of these, renormalised, the shortest prefix of the descending
    order (lower id first among equals) whose mass reaches ``top_p`` (Holtzman et al. 2020; 1: all);
    and of all, those with p >= ``min_p`` * max p (Nguyen et al. 2024). The most likely token always
    stays. Of a row that is not sound nothing does, so that none is drawn from it. Arguments besides logits: [R];
    top_k int32, the others float32.
    """
    out = np.full_like(logits, -np.inf)
    for row in np.flatnonzero(sound(logits)):
        line = logits[row]
        scaled = line / (temperature[row] if temperature[row] > 0 else 1.0)
        keep = np.ones(line.shape, bool)
        if 0 < top_k[row] < line.size:
            keep = scaled >= np.sort(scaled)[-top_k[row]]
        p = np.where(keep, np.exp(scaled - scaled.max()), 0.0)
        if min_p[row] > 0:
            keep &= p >= min_p[row]
        if top_p[row] < 1:
            order = np.argsort(-scaled, kind="stable")
            mass = np.cumsum(p[order]) / p.sum()
            keep[order] &= mass - p[order] / p.sum() < top_p[row]
        out[row, keep] = line[keep]
    return out


def _logprob_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    tokens = np.array([3, 0, 44], np.int32)
    yield OpCase("top 5 of 45", OpRequest.of("logprobs", dtype, vocab=45), {
        "logits": draw_logits(rng, 3, 45), "tokens": tokens, "top": 5,
    })  # fmt: skip


@op(profile="llm", facts=(VOCAB,), tolerances=_FLOAT32, cases=_logprob_cases, static=("top",))
def logprobs(logits: A, tokens: A, top: int) -> tuple[A, A, A, A]:
    """Log-softmax at ``tokens`` [R], their rank from 1, and the ``top`` most likely tokens:
    ([R] float32, [R] int32, [R, top] int32, [R, top] float32).
    """
    normal = logits - logits.max(-1, keepdims=True)
    normal = normal - np.log(np.exp(normal).sum(-1, keepdims=True))
    chosen = np.take_along_axis(normal, tokens[:, None], -1)
    rank = 1 + (normal > chosen).sum(-1)
    ids = np.argsort(-normal, axis=-1, kind="stable")[:, :top]
    return chosen[:, 0], rank.astype(np.int32), ids.astype(np.int32), np.take_along_axis(normal, ids, -1)
