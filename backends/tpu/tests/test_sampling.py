"""Draws are the reference's, for large vocabularies too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zif.contract.ops.sampling import margins, sample
from zif.contract.opspec import OpRequest
from zif.reference.jax import JaxReference
from zif.reference.torch import TorchReference


def sampler(kernels: Any) -> Any:
    (kernel,) = [kernel for kernel in kernels.kernels() if kernel.op == "sample"]
    return kernel.make(OpRequest.of("sample", "float32", vocab=0), None)


@pytest.mark.parametrize("vocab", [199, 151_936])
def test_tokens_are_identical_where_the_best_two_differ(vocab: int) -> None:
    import jax.numpy as jnp

    rng = np.random.default_rng(vocab)
    rows = 24
    logits = (rng.standard_normal((rows, vocab)) * 3).astype(np.float32)
    temperature = rng.choice(np.array([0.0, 0.7, 1.0, 2.0], np.float32), rows)
    seed = rng.integers(-(2**31), 2**31, (rows, 2)).astype(np.int32)
    position = rng.integers(0, 9999, rows).astype(np.int32)
    arguments = (logits, temperature, seed, position)
    ours = np.asarray(sampler(JaxReference())(*map(jnp.asarray, arguments)))
    theirs = sampler(TorchReference())(*map(torch.from_numpy, arguments)).numpy()
    exact = tuple(a.astype(np.float64) if a.dtype == np.float32 else a for a in arguments)
    clear = margins(*exact) > 1e-3
    assert clear.sum() > rows // 2
    np.testing.assert_array_equal(ours[clear], theirs[clear])
    np.testing.assert_array_equal(ours[clear], sample(*exact)[clear])
