"""The references' random bits are the specification's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zif.contract.ops import threefry
from zif.reference.torch import sampling as on_torch

A = np.ndarray[Any, Any]


def of_torch() -> tuple[Any, Any]:
    return on_torch, torch.from_numpy


def of_jax() -> tuple[Any, Any]:
    jnp = pytest.importorskip("jax.numpy")
    from zif.reference.jax import sampling as on_jax

    return on_jax, jnp.asarray


@pytest.fixture(params=[of_torch, of_jax])
def reference(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A reference's module, and what makes its arrays."""
    made: tuple[Any, Any] = request.param()
    return made


def settings(rng: np.random.Generator) -> tuple[A, A]:
    seed = rng.integers(-(2**31), 2**31, (5, 2)).astype(np.int32)
    return seed, np.array([0, 1, 77, 130_000, 2**31 - 1], np.int32)


def test_bits_of_ids_are_the_specifications(reference: tuple[Any, Any]) -> None:
    module, array = reference
    seed, position = settings(np.random.default_rng(0))
    whole = threefry.uniform(seed, position, 5120)
    for blocks in ([0, 1, 2, 3, 4], [19, 0, 7, 7, 18]):
        got = np.asarray(module.uniform(array(seed), array(position), array(np.array(blocks, np.int32))))
        assert got.dtype == np.float32
        for row, block in enumerate(blocks):
            np.testing.assert_array_equal(got[row].astype(np.float64), whole[row, 256 * block : 256 * (block + 1)])


@pytest.mark.parametrize("blocks", [1, 7, 1000])
def test_bits_of_blocks_are_the_specifications(reference: tuple[Any, Any], blocks: int) -> None:
    module, array = reference
    seed, position = settings(np.random.default_rng(blocks))
    got = np.asarray(module.block_uniform(array(seed), array(position), blocks))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.astype(np.float64), threefry.block_uniform(seed, position, blocks))
