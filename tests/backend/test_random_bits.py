"""The references' random bits are the specification's, for vocabularies that end anywhere in a pair of halves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zif.reference.torch.sampling import uniform
from zif.sampling import threefry

A = np.ndarray[Any, Any]


def by_torch(seed: A, position: A, vocab: int) -> A:
    return uniform(torch.from_numpy(seed), torch.from_numpy(position), vocab).numpy()


def by_jax(seed: A, position: A, vocab: int) -> A:
    jnp = pytest.importorskip("jax.numpy")
    from zif.reference.jax.sampling import uniform

    return np.asarray(uniform(jnp.asarray(seed), jnp.asarray(position), vocab))


@pytest.mark.parametrize("draw", [by_torch, by_jax])
@pytest.mark.parametrize("vocab", [1, 127, 128, 129, 255, 256, 257, 1000, 5120])
def test_bits_are_the_specifications(draw: Any, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    seed = rng.integers(-(2**31), 2**31, (5, 2)).astype(np.int32)
    position = np.array([0, 1, 77, 130_000, 2**31 - 1], np.int32)
    got = draw(seed, position, vocab)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.astype(np.float64), threefry.uniform(seed, position, vocab))
