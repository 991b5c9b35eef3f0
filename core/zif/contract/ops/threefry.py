"""Threefry-2x32, 20 rounds: the counter-based generator that every backend's sampler shares.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A draw is a
function of (seed, position in the sequence, token id) alone, so a request's random bits do not
depend on what else is in its batch, on retraction, on the backend, or on the size of the vocabulary.

A call of Threefry gives two words, and two tokens share one: those whose ids differ in the bit ``HALF``
alone. Neighbours (2i and 2i + 1) would have to be interleaved lane by lane; halves of 256 ids are
whole registers of a CPU, whole rows of a matrix unit's tiles, and lines that a GPU's warp loads at once.
The ``BLOCK`` ids of two halves have bits of their own besides, as one: see ``zif.contract.ops.sampling.sample``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

A = np.ndarray[Any, Any]
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
HALF = 128
BLOCK = 2 * HALF
FIRST_BLOCK = 1 << 31
"""The counter of block 0; those of ids are below."""


def threefry2x32(key0: A, key1: A, counter0: A, counter1: A) -> tuple[A, A]:
    """Two words of random bits; all arguments uint32 and broadcast together."""
    with np.errstate(over="ignore"):
        keys = (key0, key1, key0 ^ key1 ^ np.uint32(PARITY))
        x0, x1 = counter0 + keys[0], counter1 + keys[1]
        for group in range(5):
            for rotation in ROTATIONS[group % 2]:
                x0 = x0 + x1
                x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
                x1 = x1 ^ x0
            x0 = x0 + keys[(group + 1) % 3]
            x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def uniform(seed: A, position: A, vocab: int) -> A:
    """[R, vocab] float64 in (0, 1), multiples of 2⁻²³ plus 2⁻²⁴, for seed [R, 2] int32, position [R] int32.

    For a token id, word ``id & HALF > 0`` of threefry(key=seed, counter=(position, id & ~HALF)), its upper
    23 bits: with the half that keeps u off 0 and 1 they fill float32's 24 bits of mantissa, so that every
    framework has the same u.
    """
    key = seed.view(np.uint32)
    starts = np.arange(0, vocab, BLOCK, dtype=np.uint32)
    counters = (starts[:, None] + np.arange(HALF, dtype=np.uint32)).reshape(1, -1)
    words = threefry2x32(key[:, :1], key[:, 1:], position.astype(np.uint32)[:, None], counters)
    halves = [word.reshape(len(seed), len(starts), HALF) for word in words]
    bits = np.stack(halves, axis=2).reshape(len(seed), BLOCK * len(starts))[:, :vocab]
    return _between(bits)


def block_uniform(seed: A, position: A, blocks: int) -> A:
    """[R, blocks] float64: as :func:`uniform` for ids, so for blocks; of word 0 of counter (position, 2³¹ + block)."""
    key = seed.view(np.uint32)
    counters = np.uint32(FIRST_BLOCK) + np.arange(blocks, dtype=np.uint32)[None, :]
    return _between(threefry2x32(key[:, :1], key[:, 1:], position.astype(np.uint32)[:, None], counters)[0])


def _between(bits: A) -> A:
    return ((bits >> np.uint32(9)).astype(np.float64) + 0.5) * 2.0**-23


def seed_words(seed: int) -> tuple[int, int]:
    """A seed in [-2⁶³, 2⁶⁴) as two int32 words, low first."""
    words = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32).view(np.int32)
    return int(words[0]), int(words[1])
