"""What the op ``sample`` draws: the softmax's frequencies, nothing impossible, the same in a wider vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from core.op_mutants import blocks_for_certain, draws, largest
from zif.contract.ops.sampling import clear_seeds, draw_logits, sample, spoiled
from zif.contract.ops.threefry import seed_words
from zif.reference.torch import TorchReference

A = np.ndarray[Any, Any]
Draw = Callable[[A, A, A, A], A]
COUNT, TEMPERATURE = 20_000, 0.5


def kernel(reference: Any) -> Any:
    (found,) = [kernel for kernel in reference.kernels() if kernel.op == "sample"]
    return found.make(None, None)


def narrow(arguments: tuple[A, ...]) -> list[A]:
    return [array.astype(np.float32) if array.dtype == np.float64 else array for array in arguments]


def by_torch(*arguments: A) -> A:
    drawn: A = kernel(TorchReference())(*map(torch.from_numpy, narrow(arguments))).numpy()
    return drawn


def by_jax(*arguments: A) -> A:
    jnp = pytest.importorskip("jax.numpy")
    from zif.reference.jax import JaxReference

    return np.asarray(kernel(JaxReference())(*map(jnp.asarray, narrow(arguments))))


def by(mutant: Any) -> Draw:
    return lambda *arguments: mutant(*map(torch.from_numpy, arguments)).numpy()


every = pytest.mark.parametrize("draw", [sample, by_torch, by_jax])


def distribution() -> A:
    """Of 1000 ids: one of the first block; all of the second, each one rare; none of the third; some of the last."""
    p = np.zeros(1000)
    p[3] = 0.25
    p[256:512] = 0.4 / 256
    p[[*range(768, 774), *range(994, 1000)]] = 0.35 * np.arange(1, 13) / 78
    return p


def surprise(draw: Draw) -> float:
    """Pearson's chi-square of 20,000 draws, by how many of its standard deviations it is above its mean.

    The rare ids are counted by 32: 21 cells.
    """
    p = distribution()
    with np.errstate(divide="ignore"):
        logits = TEMPERATURE * np.log(p)
    seeds = np.array([seed_words(seed) for seed in range(COUNT)], np.int32)
    drawn = [
        draw(
            np.tile(logits, (len(seed), 1)), np.full(len(seed), TEMPERATURE), seed, np.arange(len(seed), dtype=np.int32)
        )
        for seed in np.array_split(seeds, 20)
    ]
    counts = np.bincount(np.concatenate(drawn), minlength=len(p))
    assert not counts[p == 0].any()
    cells = [np.concatenate([x[256:512].reshape(8, 32).sum(-1), x[:256][p[:256] > 0], x[512:][p[512:] > 0]])
             for x in (counts, COUNT * p)]  # fmt: skip
    freedom = len(cells[0]) - 1
    chi_square = ((cells[0] - cells[1]) ** 2 / cells[1]).sum()
    return float((chi_square - freedom) / np.sqrt(2 * freedom))


@every
def test_frequencies_are_the_softmaxs(draw: Draw) -> None:
    assert surprise(draw) < 3


@pytest.mark.parametrize("scored", [largest, blocks_for_certain])
def test_frequencies_of_blocks_drawn_otherwise_are_not(scored: Any) -> None:
    assert surprise(by(draws(scored=scored))) > 100


@every
def test_what_is_impossible_is_never_drawn(draw: Draw) -> None:
    """Blocks of -inf alone before, between and behind the others, at any temperature."""
    rows = 200
    logits = np.full((rows, 1300), -np.inf)
    possible = [256, 257, 511, 800, 1000]
    logits[:, possible] = np.random.default_rng(0).standard_normal((rows, len(possible)))
    seed = np.array([seed_words(row) for row in range(rows)], np.int32)
    temperature = np.resize(np.array([1.0, 1e-2, 100.0, 0.0]), rows)
    drawn = draw(logits, temperature, seed, np.zeros(rows, np.int32))
    assert set(drawn[temperature == 100]) == set(possible)
    assert set(drawn) == set(possible)


@every
@pytest.mark.parametrize("vocab", [3, 600, 20_000])
def test_nothing_is_drawn_of_a_row_with_a_fault(draw: Draw, vocab: int) -> None:
    rows = 40
    logits = draw_logits(np.random.default_rng(vocab), rows, vocab)
    logits[:20] = spoiled(logits[:20])
    temperature = np.resize(np.array([1.0, 0.0, 1.0, 1e-2, 0.0, 2.0, 0.0]), rows)
    drawn = draw(logits, temperature, np.ones((rows, 2), np.int32), np.arange(rows, dtype=np.int32))
    assert (drawn[:20] == -1).all()
    assert (drawn[20:] >= 0).all()


@every
def test_a_draw_does_not_depend_on_the_size_of_the_vocabulary(draw: Draw) -> None:
    rng = np.random.default_rng(3)
    rows, vocab = 100, 700
    logits = draw_logits(rng, rows, vocab, 2.0)
    temperature, position = np.ones(rows), np.arange(rows, dtype=np.int32)
    seed = clear_seeds(rng, logits, temperature, position)
    drawn = draw(logits, temperature, seed, position)
    assert len(set(drawn // 256)) == 3
    for more in (1, 68, 20_000):
        wider = np.pad(logits, ((0, 0), (0, more)), constant_values=-np.inf)
        np.testing.assert_array_equal(draw(wider, temperature, seed, position), drawn)
