"""top-k, top-p and min-p of the cpu backend against the float64 reference, token by token.

The arguments are float32 values that the reference gets as they are, so both decide alike: what they
make of a mass differs by float64 rounding alone, which no case here lies that close to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zif.contract.ops.sampling import filter_logits
from zif_cpu.backend import CpuBackend
from zif_cpu.kernels import NativeKernels
from zif_cpu.native import Native

A = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def kernels() -> NativeKernels:
    (kernels, *_) = CpuBackend(2, Native(2), None).kernels()
    assert isinstance(kernels, NativeKernels)
    return kernels


def check(kernels: NativeKernels, logits: A, temperature: A, top_k: A, top_p: A, min_p: A) -> A:
    """Filter rows of logits; assert that it is what the reference does, and give it back."""
    arguments = [
        *(np.asarray(x, np.float32) for x in (logits, temperature)), np.asarray(top_k, np.int32),
        *(np.asarray(x, np.float32) for x in (top_p, min_p)),
    ]  # fmt: skip
    found: A = kernels.filter_logits(*map(torch.from_numpy, arguments)).numpy()
    wide = [x if x.dtype == np.int32 else x.astype(np.float64) for x in arguments]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = filter_logits(*wide)
    np.testing.assert_array_equal(found, expected)
    return found


def draw_logits(rng: np.random.Generator, rows: int, vocab: int) -> A:
    """Rows of every kind: wide, flat, peaked, coarse (many equals), all equal, with bans, with outliers."""
    logits = rng.standard_normal((rows, vocab)) * np.exp(rng.uniform(-3, 3, (rows, 1)))
    kind = rng.integers(0, 7, rows)
    logits[kind == 1] = np.round(logits[kind == 1])
    logits[kind == 2] = np.round(logits[kind == 2] * 8) / 8
    logits[kind == 3] = 1.5
    logits[kind == 4] *= 1e4
    logits[(kind == 5)[:, None] & (rng.random(logits.shape) < 0.4)] = -np.inf
    logits[(kind == 6)[:, None] & (rng.random(logits.shape) < 0.02)] += 30
    logits[:, rng.integers(vocab)] = 0.0  # each row keeps a token that is not banned
    return logits


@pytest.mark.parametrize("vocab", [1, 2, 7, 16, 33, 100, 517, 3001])
def test_random_rows_are_filtered_as_the_reference_does(kernels: NativeKernels, vocab: int) -> None:
    rng, rows = np.random.default_rng(vocab), 200
    limits = [0, 1, 2, 5, vocab // 2, vocab - 1, vocab, vocab + 1, 2**31 - 1]
    check(
        kernels,
        draw_logits(rng, rows, vocab),
        rng.choice([0.0, 1e-3, 0.1, 0.7, 1.0, 3.0, 1e3], rows),
        rng.choice(limits, rows),
        rng.choice([1.0, 0.9999, 0.95, 0.6, 0.1, 1e-6], rows),
        rng.choice([0.0, 0.0, 1e-9, 0.05, 0.7, 1.0], rows),
    )


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(50, 1, 0), (20000, 1, 0), (0, 0.95, 0), (0, 0.9999, 0), (40, 0.9, 0), (0, 1, 0.02), (9, 0.8, 0.1)],
)
def test_a_large_vocabulary(kernels: NativeKernels, top_k: int, top_p: float, min_p: float) -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((2, 151_936)) * 3
    logits[1] = torch.from_numpy(logits[1]).bfloat16().double().numpy()  # as a bfloat16 head gives them: many equals
    check(kernels, logits, np.ones(2), np.full(2, top_k), np.full(2, top_p), np.full(2, min_p))


def test_equals_share_the_fate_that_each_filter_gives_them(kernels: NativeKernels) -> None:
    equal = np.full((4, 4096), -1.0)
    top_k, top_p, min_p = np.array([3, 0, 0, 3]), np.array([1.0, 0.25, 1.0, 0.5]), np.array([0.0, 0.0, 1.0, 1.0])
    found = check(kernels, equal, np.ones(4), top_k, top_p, min_p)
    assert [int(np.isfinite(row).sum()) for row in found] == [4096, 1024, 4096, 2048]
    assert np.isfinite(found[1, :1024]).all()  # the lower ids


def test_a_row_without_limits_is_copied(kernels: NativeKernels) -> None:
    logits = np.array([[-2.0, -np.inf, 3.0, 0.0]])
    check(kernels, logits, np.ones(1), np.array([4]), np.ones(1), np.zeros(1))


def test_signed_zeros_are_equals(kernels: NativeKernels) -> None:
    logits = np.array([[-1.0, -0.0, 0.0, -0.0, 0.0]])
    found = check(kernels, logits, np.ones(1), np.array([2]), np.array([0.5]), np.zeros(1))
    assert np.isfinite(found[0]).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("limits", [(0, 1.0, 0.0), (2, 1.0, 0.0), (0, 0.5, 0.0), (0, 1.0, 0.5), (3, 0.5, 0.5)])
@pytest.mark.parametrize("rest", [[-np.inf] * 40, [np.nan] * 40, [np.inf, np.nan] + [1.0] * 38, [1.0] * 39 + [np.nan]])
def test_nothing_is_left_of_a_row_with_a_fault(
    kernels: NativeKernels, rest: list[float], limits: tuple[int, float, float]
) -> None:
    rows = np.array([rest, np.linspace(-4.0, 4.0, 40)])
    k, p, least = limits
    found = check(kernels, rows, np.ones(2), np.full(2, k), np.full(2, p), np.full(2, least))
    assert np.isneginf(found[0]).all()
    assert np.isfinite(found[1]).any()


def test_rows_may_lie_apart(kernels: NativeKernels) -> None:
    wide = torch.randn(3, 80)
    limits = [torch.full((3,), 4, dtype=torch.int32), torch.full((3,), 0.9), torch.zeros(3)]
    found = kernels.filter_logits(wide[:, :50], torch.ones(3), *limits)
    assert torch.equal(found, kernels.filter_logits(wide[:, :50].contiguous(), torch.ones(3), *limits))
