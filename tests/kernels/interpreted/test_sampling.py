"""The sampler's kernels in Triton, against the float64 references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernels.interpreted.calling import call, cases, check, faults, tensors
from zif.contract.ops import op_specs, threefry
from zif.contract.ops.sampling import clear_seeds, draw_logits, spoiled
from zif.contract.opspec import OpCase, OpRequest
from zif.portable.triton.device.numbers import log2
from zif.portable.triton.device.sampling import noise, uniform, words

VOCAB = 9001
"""More than two chunks, and no multiple of anything."""


@pytest.mark.parametrize("op", ["penalize", "argmax", "sample", "filter_logits", "logprobs"])
def test_every_case_of_the_op(op: str) -> None:
    for case in cases(op, "float32"):
        check(op, case, "float32")


def case(op: str, rows: int, draw: int, *, ties: bool = False, **arguments: Any) -> OpCase:
    rng = np.random.default_rng(draw)
    logits = draw_logits(rng, rows, VOCAB)
    if ties:
        logits = np.round(logits * 2) / 2
    request = OpRequest.of(op, "float32", vocab=VOCAB)
    return OpCase("", request, {"logits": logits, **arguments})


@triton.jit
def draw_uniform(out, noises, seed, position, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    counters = tl.program_id(0) * 2 * HALF + tl.arange(0, HALF)
    word0, word1 = words(tl.load(seed), tl.load(seed + 1), tl.load(position), counters)
    tl.store(out + counters, uniform(word0))
    tl.store(out + counters + HALF, uniform(word1))
    tl.store(noises + counters, noise(word0))
    tl.store(noises + counters + HALF, noise(word1))


@pytest.mark.parametrize("seed", [(0, 0), (-1, 2**31 - 1), (-(2**31), 12345)])
def test_random_bits_are_threefrys_and_noise_is_gumbels(seed: tuple[int, int]) -> None:
    vocab = 1 << 13
    out, noises = torch.empty(vocab), torch.empty(vocab)
    key, position = np.array([seed], np.int32), np.array([77], np.int32)
    grid = (vocab // (2 * threefry.HALF),)
    draw_uniform[grid](out, noises, torch.from_numpy(key), torch.from_numpy(position), HALF=threefry.HALF)
    u = threefry.uniform(key, position, vocab)[0]
    assert np.array_equal(out.numpy().astype(np.float64), u)
    np.testing.assert_allclose(noises.numpy(), -np.log2(-np.log2(u)), rtol=0, atol=5e-6)


@triton.jit
def draw_noise(noises, ups, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, BLOCK)
    tl.store(noises + at, noise(tl.load(ups + at).to(tl.uint32, bitcast=True) << 9))


def test_noise_is_right_where_u_is_next_to_its_ends() -> None:
    """All of the 2¹⁶ least and the 2¹⁶ greatest u: a noise that is large comes of a u within a few 2⁻²⁴ of 1."""
    edge, top = 1 << 16, 1 << 23
    ups = np.concatenate([np.arange(edge), np.arange(top - edge, top)]).astype(np.int32)
    noises = torch.empty(len(ups))
    draw_noise[(1,)](noises, torch.from_numpy(ups), BLOCK=len(ups))
    u = (ups + 0.5) / top
    np.testing.assert_allclose(noises.numpy(), -np.log2(-np.log2(u)), rtol=0, atol=5e-6)


@triton.jit
def take_log2(out, x, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, BLOCK)
    tl.store(out + at, log2(tl.load(x + at)))


def test_log2_is_right_to_a_relative_2e_6_at_any_size() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp2(rng.uniform(-126, 127, 1 << 14)) * rng.uniform(1, 1.9, 1 << 14)
    near = 1 + rng.choice([-1, 1], 1 << 14) * np.exp2(rng.uniform(-23, -1, 1 << 14))
    x = np.concatenate([sizes, near]).astype(np.float32)
    out = torch.empty(len(x))
    take_log2[(1,)](out, torch.from_numpy(x), BLOCK=len(x))
    np.testing.assert_allclose(out.numpy(), np.log2(x.astype(np.float64)), rtol=2e-6, atol=0)


TIES = [(130, 2), (2, 130, 257), (257, 130), (8999, 5000, 4096), (8192, 4095), (8320, 8191 + 128, 8300), (9000, 8448)]


@pytest.mark.parametrize("ids", TIES, ids=str)
def test_of_equals_the_lowest_id_is_chosen_in_whichever_half_it_lies(ids: tuple[int, ...]) -> None:
    tied = case("argmax", 2, 11)
    tied.arguments["logits"][0, list(ids)] = 99.0
    tied.arguments["logits"][1, list(ids)] = 3e38
    check("argmax", tied, "float32")


def test_argmax_over_several_chunks() -> None:
    greedy = case("argmax", 4, 1)
    greedy.arguments["logits"][1, [8999, 5000, 4096]] = 99.0
    greedy.arguments["logits"][2] = -np.inf
    check("argmax", greedy, "float32")


@pytest.mark.parametrize("vocab", [3, 256, 300, VOCAB])
def test_draws_from_one_block_and_from_many(vocab: int) -> None:
    """The largest vocabulary has three chunks; blocks of -inf alone end it and begin a row."""
    rng = np.random.default_rng(vocab)
    temperature, position = np.array([1.0, 0.0, 0.6, 1e-2, 2.0]), np.array([0, 1, 2, 3, 70000], np.int32)
    logits = draw_logits(rng, 5, vocab)
    logits[2, 256:] = logits[4, : vocab - 2] = -np.inf
    arguments = {
        "logits": logits,
        "temperature": temperature,
        "seed": clear_seeds(rng, logits, temperature, position),
        "position": position,
    }
    check("sample", OpCase("", OpRequest.of("sample", "float32", vocab=vocab), arguments), "float32")


def test_of_a_row_with_a_fault_nothing_is_drawn_nor_kept() -> None:
    """NaN and +inf in the first, a middle and the last chunk, and rows of NaN or -inf alone."""
    logits = spoiled(draw_logits(np.random.default_rng(0), 10, VOCAB))
    temperature, position = np.array([1.0] * 5 + [0.0] * 5), np.arange(10, dtype=np.int32)
    draws = {"temperature": temperature, "seed": np.ones((10, 2), np.int32), "position": position}
    limits = {"top_k": np.resize(np.array([3, 0], np.int32), 10), "top_p": np.resize([0.5, 0.9, 1.0], 10)}
    rest = {"temperature": temperature, "min_p": np.zeros(10)}
    for op, arguments in (("argmax", {}), ("sample", draws), ("filter_logits", limits | rest)):
        request = OpRequest.of(op, "float32", vocab=VOCAB)
        check(op, OpCase("", request, {"logits": logits, **arguments}), "float32")


FILTERS = [
    {"top_k": 20, "top_p": 0.95},
    {"top_k": 1, "top_p": 0.5},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"top_p": 1e-6},
    {"top_k": 9000, "min_p": 0.01},
    {"min_p": 1.0},
    {"top_k": 500, "top_p": 0.7, "min_p": 0.1},
]


@pytest.mark.parametrize("ties", [False, True])
def test_filters_keep_exactly_what_a_sort_would(ties: bool) -> None:
    rows = len(FILTERS)
    settings = {
        "temperature": np.array([0.6, 1.0, 0.0, 1.3, 1.0, 0.25, 1.0, 2.0]),
        "top_k": np.array([f.get("top_k", 0) for f in FILTERS], np.int32),
        "top_p": np.array([f.get("top_p", 1.0) for f in FILTERS], np.float32).astype(np.float64),
        "min_p": np.array([f.get("min_p", 0.0) for f in FILTERS], np.float32).astype(np.float64),
    }
    check("filter_logits", case("filter_logits", rows, 5, ties=ties, **settings), "float32")


ROWS = {
    "all equal": np.zeros(300),
    "one that is finite": np.where(np.arange(300) == 250, 1.0, -np.inf),
    "both zeros": np.where(np.arange(300) % 2, 0.0, -0.0),
    "far apart": np.where(np.arange(300) == 7, 3e38, -3e38),
    "none": np.full(300, -np.inf),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_filters_of_strange_rows(row: np.ndarray[Any, Any]) -> None:
    logits = np.tile(row, (3, 1)).astype(np.float32).astype(np.float64)
    arguments = {
        "logits": logits,
        "temperature": np.ones(3),
        "top_k": np.array([3, 0, 299], np.int32),
        "top_p": np.array([1.0, 0.4995, 0.2505]),
        "min_p": np.zeros(3),
    }
    with np.errstate(all="ignore"):
        expected = op_specs()["filter_logits"].reference(**arguments)
    request = OpRequest.of("filter_logits", "float32", vocab=300)
    got = call("filter_logits", request, **tensors(arguments, "float32"))
    if np.isfinite(row).any():
        assert not faults("filter_logits", got, expected, "float32")
    else:
        assert torch.isneginf(got).all()


def test_logprobs_over_several_chunks_with_ties_and_the_impossible() -> None:
    scored = case("logprobs", 3, 6, ties=True, tokens=np.array([0, 4999, 9000], np.int32), top=20)
    scored.arguments["logits"][1, 5000:] = -np.inf
    check("logprobs", scored, "float32")
    scored.arguments["logits"][2, 3:9000] = -np.inf  # fewer that are possible than are asked for
    expected = op_specs()["logprobs"].reference(**scored.arguments)
    got = call("logprobs", scored.request, **tensors(scored.arguments, "float32"))
    assert not faults("logprobs", got, expected, "float32")


def test_the_two_zeros_are_equals_of_which_the_lower_id_comes_first() -> None:
    scored = case("logprobs", 1, 7, tokens=np.array([2], np.int32), top=4)
    scored.arguments["logits"][0] = -9.0
    scored.arguments["logits"][0, :4] = [-0.0, 0.0, -0.0, 0.0]
    check("logprobs", scored, "float32")


def test_logprobs_without_alternatives() -> None:
    check("logprobs", case("logprobs", 2, 8, tokens=np.array([5, 8000], np.int32), top=0), "float32")


def test_penalties_over_several_chunks() -> None:
    rng = np.random.default_rng(9)
    arguments = {
        "output_counts": rng.integers(0, 3, (2, VOCAB), np.int32),
        "in_prompt": rng.random((2, VOCAB)) < 0.5,
        "repetition": np.array([1.25, 0.5]),
        "presence": np.array([0.5, -1.0]),
        "frequency": np.array([0.25, 0.0]),
    }
    check("penalize", case("penalize", 2, 10, **arguments), "float32")
