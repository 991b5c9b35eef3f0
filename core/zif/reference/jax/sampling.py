"""The sampler's ops in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from zif.contract.kernels import KernelSet, kernel
from zif.contract.ops.threefry import BLOCK, FIRST_BLOCK, HALF, PARITY, ROTATIONS

Array = jax.Array
CHUNK = 64 * BLOCK
"""Logits that are summed up by one product."""


class JaxSampling(KernelSet):
    """Kernels over float32 logits [R, vocab]."""

    level = 1

    @kernel("penalize")
    def penalize(
        self,
        logits: Array,
        output_counts: Array,
        in_prompt: Array,
        repetition: Array,
        presence: Array,
        frequency: Array,
    ) -> Array:
        seen = output_counts > 0
        factor = jnp.where(seen | in_prompt, repetition[:, None], 1.0)
        logits = jnp.where(logits > 0, logits / factor, logits * factor)
        return logits - frequency[:, None] * output_counts - presence[:, None] * seen

    @kernel("argmax")
    def argmax(self, logits: Array) -> Array:
        ids = jnp.argmax(logits, axis=-1).astype(jnp.int32)  # of a NaN, if there is one
        highest = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
        return jnp.where(jnp.isfinite(highest), ids, -1)

    @kernel("sample")
    def sample(self, logits: Array, temperature: Array, seed: Array, position: Array) -> Array:
        vocab = logits.shape[-1]
        greedy = (temperature == 0)[:, None]
        rate = 1 / jnp.where(greedy, 1.0, temperature[:, None])
        parts = [_scores(logits[:, start : start + CHUNK], greedy, rate) for start in range(0, vocab, CHUNK)]
        scores = jnp.concatenate([part for part, _ in parts], axis=-1)
        highest = jnp.concatenate([top for _, top in parts], axis=-1).max(-1)
        noise = _gumbel(block_uniform(seed, position, scores.shape[-1]))
        block = jnp.argmax(scores + jnp.where(greedy, 0.0, noise), axis=-1).astype(jnp.int32)
        ids = block[:, None] * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
        z = jnp.take_along_axis(logits, jnp.minimum(ids, vocab - 1), axis=-1) * rate
        perturbed = z + jnp.where(greedy, 0.0, _gumbel(uniform(seed, position, block)))
        best = jnp.argmax(jnp.where(ids < vocab, perturbed, -jnp.inf), axis=-1)
        return jnp.where(jnp.isfinite(highest), block * BLOCK + best.astype(jnp.int32), -1)

    @kernel("mask_logits")
    def mask_logits(self, logits: Array, mask: Array) -> Array:
        tokens = jnp.arange(logits.shape[1], dtype=jnp.int32)
        allowed = (mask[:, tokens >> 5] >> (tokens & 31)) & 1
        return jnp.where(allowed == 1, logits, -jnp.inf)

    @kernel("filter_logits")
    def filter_logits(self, logits: Array, temperature: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
        rows, vocab = logits.shape
        scaled = logits / jnp.where(temperature > 0, temperature, 1.0)[:, None]
        order = jnp.argsort(scaled, axis=-1, descending=True, stable=True)
        ordered = jnp.take_along_axis(scaled, order, axis=-1)
        k = jnp.where((top_k > 0) & (top_k < vocab), top_k, vocab)
        kth = jnp.take_along_axis(ordered, k[:, None] - 1, axis=-1)
        weights = jnp.where(ordered >= kth, jnp.exp(ordered - ordered[:, :1]), 0.0)
        mass = weights / weights.sum(-1, keepdims=True)
        before = jnp.cumsum(mass, axis=-1) - mass
        keep = (ordered >= kth) & ((before < top_p[:, None]) | (top_p[:, None] >= 1))
        keep &= (weights >= min_p[:, None]) | (min_p[:, None] <= 0)
        keep = keep.at[:, 0].set(True) & jnp.isfinite(_largest(logits))
        kept = jnp.zeros_like(keep).at[jnp.arange(rows)[:, None], order].set(keep)
        return jnp.where(kept, logits, -jnp.inf)

    @kernel("logprobs")
    def logprobs(self, logits: Array, tokens: Array, top: int) -> tuple[Array, Array, Array, Array]:
        normal = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.take_along_axis(normal, tokens[:, None], axis=-1)
        rank = 1 + (normal > chosen).sum(-1, dtype=jnp.int32)
        best, ids = jax.lax.top_k(normal, top)
        return chosen[:, 0], rank, ids, best


def _largest(logits: Array) -> Array:
    """[R, 1]: the largest of each row, +inf where there is a NaN, which XLA's maximum passes over on some platforms."""
    return jnp.where(logits < jnp.inf, logits, jnp.inf).max(-1, keepdims=True)


def _scores(logits: Array, greedy: Array, rate: Array) -> tuple[Array, Array]:
    """[R, n]: of each block of logits [R, V] the log of the sum of exp(logit * rate), or if greedy the largest.

    And [R, 1] the largest of all, +inf of a NaN.

    The sums are of exp(z - the chunk's largest z), where a block that is far below has 0 in float32 and -inf here: no
    noise would have it chosen. They are a product with a matrix of ones and zeros, whose operand XLA computes as it
    goes. Reshaped to [R, n, 256], logits would be laid out anew in memory: for v5e XLA then wants 467 MB for
    256 x 151,936 and 6.4 times the cycles.
    """
    top = _largest(logits)
    peaks = greedy | ~jnp.isfinite(top)
    weights = jnp.where(peaks, (logits == top).astype(jnp.float32), jnp.exp((logits - top) * rate))
    block = jnp.arange(logits.shape[-1])[:, None] // BLOCK
    inside = block == jnp.arange(-(-logits.shape[-1] // BLOCK))
    mass = jnp.dot(weights, inside.astype(jnp.float32), precision="highest")
    return jnp.where(mass > 0, jnp.where(peaks, 0.0, jnp.log(mass)) + top * rate, -jnp.inf), top


def _gumbel(u: Array) -> Array:
    return -jnp.log(-jnp.log(u))


def uniform(seed: Array, position: Array, block: Array) -> Array:
    """[R, 256] float32 in (0, 1): :func:`zif.contract.ops.threefry.uniform` of the ids of ``block`` [R]."""
    counters = jnp.uint32(BLOCK) * block.astype(jnp.uint32)[:, None] + jnp.arange(HALF, dtype=jnp.uint32)
    return _between(jnp.concatenate(_words(seed, position, counters), axis=-1))


def block_uniform(seed: Array, position: Array, blocks: int) -> Array:
    """[R, blocks] float32 in (0, 1): the bits of :func:`zif.contract.ops.threefry.block_uniform`."""
    counters = jnp.uint32(FIRST_BLOCK) + jnp.arange(blocks, dtype=jnp.uint32)[None, :]
    return _between(_words(seed, position, counters)[0])


def _words(seed: Array, position: Array, counters: Array) -> tuple[Array, Array]:
    """Threefry's words [R, n] uint32; counters [R or 1, n] uint32."""
    key = jax.lax.bitcast_convert_type(seed, jnp.uint32)
    key0, key1 = key[:, :1], key[:, 1:]
    keys = (key0, key1, key0 ^ key1 ^ jnp.uint32(PARITY))
    x0: Any = position.astype(jnp.uint32)[:, None] + keys[0]
    x1: Any = counters + keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << rotation) | (x1 >> (32 - rotation))
            x1 = x1 ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x0, x1


def _between(bits: Array) -> Array:
    return ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
