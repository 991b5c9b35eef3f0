"""Cache writes and attention over pages in Triton, against the float64 references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kernels.interpreted import calling, mending
from kernels.interpreted.calling import KERNELS, attention_faults, cases, kernel_of, writer_faults
from zif.conformance import paging
from zif.contract.attention import AttentionSpec
from zif.contract.formats import EIGHT_BITS
from zif.contract.ops.attention import attention_request, draw_step
from zif.contract.ops.draw import normal
from zif.contract.opspec import OpCase
from zif.contract.optable import Ops
from zif.portable.triton import Machine, TritonKernels, attention, launch
from zif.portable.triton.attention import PagedAttention

DTYPES = ("float32", "bfloat16")


def attention_case(
    before: list[int],
    new: list[int],
    page_size: int,
    dtype: str,
    cache_format: str | None = None,
    pad: int = 0,
    **facts: Any,
) -> OpCase:
    rng = np.random.default_rng(7)
    cache_format = cache_format or dtype
    cache_dtype = EIGHT_BITS.get(cache_format, cache_format)
    facts = {"q_heads": 4, "kv_heads": 2, "head_dim": 64, "v_head_dim": facts.get("head_dim", 64), **facts}
    spec = AttentionSpec(group="g", scale=facts["head_dim"] ** -0.5, **facts)
    step, pages = draw_step(rng, before, new, page_size, "g", pad)
    shape = (2, pages, page_size, spec.kv_heads)
    cache = {
        "k": normal(rng, (*shape, spec.head_dim), cache_dtype),
        "v": normal(rng, (*shape, spec.v_head_dim), cache_dtype),
    }
    q = normal(rng, (step.shape.tokens, spec.q_heads, spec.head_dim), dtype)
    arguments = {"q": q, "cache": {"g": cache}, "layer": 1, "step": step, "spec": spec}
    return OpCase("", attention_request("paged_attention", dtype, spec, page_size, cache_format), arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", range(9))
def test_every_case_of_paged_attention(number: int, dtype: str) -> None:
    case = list(cases("paged_attention", dtype))[number]
    page_size = case.arguments["cache"]["g"]["k"].shape[2]
    assert not attention_faults(case, dtype, page_size, padded=True)


OTHERS = {
    "head 80, groups of 7": {"q_heads": 7, "kv_heads": 1, "head_dim": 80},
    "head 256": {"head_dim": 256},
    "values of another size": {"head_dim": 96, "v_head_dim": 64},
    "groups of 20": {"q_heads": 20, "kv_heads": 1},
    "window within a page": {"window": 3},
    "window of several tiles": {"window": 70},
    "soft cap and window": {"softcap": 4.0, "window": 20},
}


@pytest.mark.parametrize("facts", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("decode", [True, False], ids=["decode", "ragged"])
def test_other_shapes(facts: dict[str, Any], decode: bool) -> None:
    before, new = ([90, 0, 33], [1, 1, 1]) if decode else ([90, 0, 5], [1, 3, 20])
    case = attention_case(before, new, 5, "float32", **facts)
    assert not attention_faults(case, "float32", 5, padded=True)


@pytest.mark.parametrize(
    "before",
    [[1030], [0], [3, 900, 0, 64, 63, 127], [40] * 9, [300, 1, 1, 1, 1, 1, 1, 500]],
    ids=["one long", "one short", "ragged", "alike", "ends long"],
)
@pytest.mark.parametrize("facts", [{}, {"window": 100}, {"q_heads": 6, "kv_heads": 3}, {"q_heads": 2}])
def test_histories_are_cut_into_pieces_and_joined(before: list[int], facts: dict[str, Any]) -> None:
    case = attention_case(before, [1] * len(before), 16, "float32", **facts)
    assert not attention_faults(case, "float32", 16, padded=True)


@pytest.mark.parametrize("behind", [[5], [70, 1], [1], [1, 4]], ids=["prefill", "and one token", "one token", "both"])
@pytest.mark.parametrize("front", [1, 4, 5, 24])
def test_sequences_at_the_front_of_a_mixed_step_are_cut_into_pieces(
    behind: list[int], front: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with one token each are decode's if they are enough, the first token of a prompt among them."""
    monkeypatch.setattr(attention, "FRONT", front)
    before = [3, 900, 0, 64] + [30] * len(behind)
    case = attention_case(before, [1] * 4 + behind, 16, "float32", pad=2)
    assert not case.arguments["step"].shape.decode
    assert not attention_faults(case, "float32", 16, padded=True)


@pytest.mark.parametrize(("front", "taken"), [(1, 4), (4, 4), (5, 0)])
def test_a_front_is_taken_by_one_kernel_and_left_by_the_other(
    front: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "FRONT", front)
    case = attention_case([3, 90, 0, 64, 9], [1, 1, 1, 1, 6], 16, "float32", pad=2)
    laid = paging.lay_out(case.arguments, 16, np.random.default_rng(5), writes=False, padded=False)
    arguments = calling.tensors({**case.arguments, "cache": laid.plain(), "step": laid.step}, "float32")
    kernel: Any = kernel_of("paged_attention").make(case.request, Ops())
    by_front, by_others = (torch.full_like(arguments["q"], torch.nan) for _ in range(2))
    kernel.front(by_front, **arguments)
    kernel._ragged(by_others, **arguments)
    tokens = int(laid.step.num_tokens[0])
    assert by_front[:taken].isfinite().all() and by_front[taken:].isnan().all()
    assert by_others[taken:tokens].isfinite().all() and by_others[:taken].isnan().all()


def test_a_front_is_not_taken_for_longer_than_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty sequences of padding begin at the number of tokens, as a sequence of one token behind so many would."""
    monkeypatch.setattr(attention, "FRONT", 5)
    case = attention_case([3, 40, 0, 30], [1, 1, 1, 2], 16, "float32", pad=2)
    assert not attention_faults(case, "float32", 16, padded=True)


def test_counters_are_left_as_they_were_and_grow() -> None:
    rng = np.random.default_rng(5)
    case = attention_case([200, 3, 90], [1, 1, 1], 16, "float32")
    kernel: Any = kernel_of("paged_attention").make(case.request, Ops())
    laid = paging.lay_out(case.arguments, 16, rng, writes=False, padded=False)
    arguments = calling.tensors({**case.arguments, "cache": laid.plain(), "step": laid.step}, "float32")
    first = kernel(**arguments)
    (counters,) = kernel.counters.values()
    assert not counters.any()
    assert torch.equal(kernel(**arguments), first)
    kernel.counters[first.device] = counters[:2]
    assert torch.equal(kernel(**arguments), first)
    assert len(kernel.counters[first.device]) >= 3
    (outgrown,) = kernel.outgrown  # where a graph that was recorded before would go on counting
    assert outgrown.data_ptr() == counters.data_ptr()


def test_what_is_unrolled_has_small_tiles() -> None:
    """Half a minute is what tiles as large as those of 16 bits took to compile in float32."""
    tiles = {}
    for dtype, facts in (("bfloat16", {}), ("float32", {}), ("float32", {"q_heads": 64, "kv_heads": 1})):
        request = attention_case([40], [1], 16, dtype, **facts).request
        made = PagedAttention.of(request, Machine(132, 232448), launch)
        tiles[dtype, made.group] = (made.decoding.tiles.block_n, made.ragged_tiles.block_n, made.ragged_rows)
    assert tiles == {("bfloat16", 2): (16, 64, 128), ("float32", 2): (16, 32, 32), ("float32", 64): (16, 32, 64)}


PROGRAMS = {
    "H200": (Machine(132, 232448), {}, (1, 8)),
    "little shared memory": (Machine(84, 101376), {}, (1, 4)),
    "less": (Machine(), {}, (1, 3)),
    "long heads": (Machine(132, 232448), {"head_dim": 256}, (2, 4)),
    "many query heads": (Machine(132, 232448), {"q_heads": 64, "kv_heads": 1}, (4, 2)),
}


@pytest.mark.parametrize(("machine", "facts", "expected"), PROGRAMS.values(), ids=PROGRAMS)
def test_as_many_small_programs_as_there_is_room_for(
    machine: Machine, facts: dict[str, int], expected: tuple[int, int]
) -> None:
    request = attention_case([40], [1], 16, "bfloat16", **{"head_dim": 128, **facts}).request
    decoding = PagedAttention.of(request, machine, launch).decoding
    assert (decoding.warps, decoding.programs) == expected


@pytest.mark.parametrize("page_size", [1, 3, 8, 32])
@pytest.mark.parametrize("pieces", [(32, 16), (4, 1)])
def test_pages_of_any_size(page_size: int, pieces: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PIECES", pieces[0])
    monkeypatch.setattr(attention, "LEAST", pieces[1])
    case = attention_case([130, 0, 15, 16, 31], [1] * 5, page_size, "float32")
    assert not attention_faults(case, "float32", page_size, padded=True)


def test_float16() -> None:
    case = attention_case([70, 3], [1, 1], 16, "float16")
    assert not attention_faults(case, "float16", 16, padded=False)


@pytest.mark.parametrize("cache_format", ["fp8_e4m3", "fp8_e5m2"])
def test_a_cache_of_eight_bits(cache_format: str) -> None:
    case = attention_case([70, 3], [1, 4], 16, "bfloat16", cache_format)
    assert not attention_faults(case, "bfloat16", 16, padded=False)


@pytest.mark.parametrize("cache_format", ["fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("op", ["rope_and_cache", "kv_write"])
def test_a_cache_of_eight_bits_is_written_rounded_and_saturated(op: str, cache_format: str) -> None:
    for case in cases("attention", "bfloat16"):
        for scale in (1.0, 2.0**9 if cache_format == "fp8_e4m3" else 2.0**16):
            assert not writer_faults(op, case, "bfloat16", padded=True, cache_format=cache_format, scale=scale)


def test_many_sequences_are_found_by_their_blocks() -> None:
    rng = np.random.default_rng(3)
    new = [int(n) for n in rng.integers(1, 40, 9)]
    case = attention_case([0] * 9, new, 16, "float32", q_heads=1, kv_heads=1)
    assert not attention_faults(case, "float32", 16, padded=True)


def test_steps_that_are_mostly_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As captured ones are: 64 sequences and as many tokens, of which a few are real."""
    pad = paging.pad
    monkeypatch.setattr(paging, "pad", lambda step, group: pad(step, group, 61))
    for facts in ({}, {"window": 3}, {"q_heads": 1, "kv_heads": 1}):
        case = attention_case([90, 0, 33], [1, 9, 20], 16, "float32", **facts)
        assert not attention_faults(case, "float32", 16, padded=True)
    case = next(case for case in cases("attention", "float32") if not case.arguments["step"].shape.decode)
    for op in ("rope_and_cache", "kv_write"):
        assert not writer_faults(op, case, "float32", padded=True)


def test_bfloat16_would_fail_without_the_mended_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mending is needed, and these tests would see a product that is wrong."""
    case = attention_case([40], [1], 16, "bfloat16")
    assert not attention_faults(case, "bfloat16", 16, padded=False)
    monkeypatch.setattr(mending.BUILDER, "create_dot", mending.broken_dot)
    with np.errstate(all="ignore"):
        assert attention_faults(case, "bfloat16", 16, padded=False)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
@pytest.mark.parametrize("op", ["rope_and_cache", "kv_write"])
def test_writes_every_slot_of_the_step_and_no_other(op: str, dtype: str) -> None:
    for case in cases("attention", dtype):
        for padded in (True, False):  # without a padding sequence, padding tokens are the last real one's
            assert not writer_faults(op, case, dtype, padded=padded)


def test_pages_beyond_two_to_the_thirty_first_element_are_reached() -> None:
    """The memory is reserved, and never touched but in three pages of it."""
    page_size, heads, size, stride = 4, 2, 64, 2**30
    spec = AttentionSpec("g", heads, heads, size, size, size**-0.5)
    storage = torch.empty(2 * stride + page_size * heads * size, dtype=torch.float16)
    layout = ((1, 3, page_size, heads, size), (1, stride, heads * size, size, 1))
    rng = np.random.default_rng(0)
    step, _ = draw_step(rng, [2], [1], page_size, "g")
    step.pages["g"][0, 0] = 2
    cache = {"g": {"k": storage.as_strided(*layout), "v": torch.zeros(1, 3, page_size, heads, size).half()}}
    cache["g"]["k"][0, 2] = 0.0
    device_step = calling.tensors({"step": step}, "float16")["step"]
    k, v = torch.ones(1, heads, size).half(), torch.full((1, heads, size), 2.0).half()
    for op in ("kv_write", "paged_attention"):
        request = attention_request(op, "float16", spec, page_size, "float16")
        arguments = {"k": k, "v": v} if op == "kv_write" else {"q": 8 * k}
        result = calling.call(op, request, **arguments, cache=cache, layer=0, step=device_step, spec=spec)
    assert torch.equal(cache["g"]["k"][0, 2, 2], k[0])
    assert torch.allclose(result.float(), torch.tensor(2.0))  # 64 apart from the others' scores


REFUSED = {
    "head_dim": (512, "heads of up to 256"),
    "q_heads": (256, "64 query heads"),
    "cache_format": ("float64", "not float64"),
    "cache_layout": ("packed", "not bfloat16 in the layout packed"),
}


@pytest.mark.parametrize("fact", REFUSED)
def test_refusals_say_why(fact: str) -> None:
    value, words = REFUSED[fact]
    request = attention_case([4], [1], 4, "bfloat16").request
    facts = dict(request.facts) | {fact: value}
    refused = type(request).of("paged_attention", "bfloat16", **facts)
    assert words in (kernel_of("paged_attention").supports(refused) or "")


def test_a_device_with_too_little_shared_memory_is_refused() -> None:
    small = TritonKernels(Machine(shared_bytes=1024))
    kernel = next(kernel for kernel in small.kernels() if kernel.op == "paged_attention")
    assert "1024" in (kernel.supports(attention_case([4], [1], 4, "bfloat16").request) or "")
    assert all(kernel.capturable and kernel.deterministic for kernel in KERNELS.kernels())
