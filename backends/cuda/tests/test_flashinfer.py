"""How flashinfer is called: against its real signatures, and against what its plan's arrays mean."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import flashinfer_signatures
from fake_flashinfer import (
    CAPTURED,
    SIGNATURES,
    Fronted,
    Unplanned,
    Wrapper,
    attention_spec,
    bound,
    captured,
    kernels_of,
    reference,
)
from fakes import FakeDevice
from zif.contract.attention import AttentionSpec
from zif.contract.ops.attention import attention_request, draw_step
from zif.contract.step import HostStep, Step
from zif_cuda import flashinfer_modules
from zif_cuda.flashinfer_attention import DEPTH, FlashinferAttention
from zif_cuda.flashinfer_modules import missing


@pytest.fixture(params=[Unplanned, Fronted])
def flashinfer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FlashinferAttention:
    return kernels_of(monkeypatch, request.param())


def drawn(seed: int, before: list[int], new: list[int], spec: AttentionSpec, page_size: int = 4, pad: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    step, pages = draw_step(rng, before, new, page_size, "g", pad)
    as_tensor = {name: torch.from_numpy(getattr(step, name)) for name in ("kv_lens", "query_starts", "num_tokens")}
    on_device = Step(
        tokens=None, positions=None, seqs=None, logits_at=None, shape=step.shape,
        pages={"g": torch.from_numpy(step.pages["g"])}, **as_tensor,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    cache = {
        "g": {
            name: torch.randn((2, pages, page_size, spec.kv_heads, 64), generator=generator).bfloat16() for name in "kv"
        }
    }
    q = torch.randn((step.shape.tokens, spec.q_heads, 64), generator=generator).bfloat16()
    starts, lens = step.query_starts.copy(), step.kv_lens.copy()
    for array in (starts, lens):
        array.setflags(write=False)  # as a rank that follows has them
    return q, cache, on_device, HostStep(step.shape, starts, lens)


@pytest.mark.parametrize("changes", [{}, {"window": 3}, {"softcap": 5.0}])
def test_planned_steps_give_what_the_reference_gives(flashinfer: FlashinferAttention, changes: Any) -> None:
    spec = attention_spec(**changes)
    made = bound(flashinfer, spec)
    (plan,) = made.plans
    steps = [
        ([20, 9, 0], [16, 1, 3], 4), ([0], [5], 0), ([7, 8], [1, 9], 2), ([7, 30, 0, 2], [1, 1, 1, 9], 2),
        ([7, 30, 5], [1, 1, 1], 2),
    ]  # fmt: skip
    for seed, (before, new, pad) in enumerate(steps):
        q, cache, step, host = drawn(seed, before, new, spec, pad=pad)
        plan(host)
        for layer in (0, 1):
            got = made.ops.paged_attention(q, cache, layer, step, spec)
            real = sum(new)
            torch.testing.assert_close(got[:real], reference(q, cache, layer, step, spec)[:real])
    assert sum(wrapper.plans for wrapper in Wrapper.made) == len(steps)


def test_sequences_at_the_front_of_an_eager_step_are_left_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = attention_spec()
    made = bound(kernels_of(monkeypatch, Fronted()), spec)
    q, cache, step, host = drawn(0, [7, 30, 2], [1, 1, 9], spec, pad=3)
    made.plans[0](host)
    made.ops.paged_attention(q, cache, 0, step, spec)
    (wrapper,) = [wrapper for wrapper in Wrapper.made if wrapper.plans]
    assert wrapper.planned["qo_indptr"].tolist() == [0, 9]
    assert wrapper.planned["seq_lens"].tolist() == [11]


def test_triton_s_kernel_takes_sequences_at_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("zif.portable.triton")
    made = bound(kernels_of(monkeypatch, triton.TritonKernels(triton.Machine(), triton.launch)), attention_spec(), 16)
    assert made.ops.paged_attention._least == triton.attention.FRONT


def test_a_step_that_nobody_planned_plans_itself_once(flashinfer: FlashinferAttention) -> None:
    spec = attention_spec()
    made = bound(flashinfer, spec)
    for seed in (1, 2):
        q, cache, step, _ = drawn(seed, [3, 11], [4, 2], spec, pad=3)
        for layer in (0, 1):
            got = made.ops.paged_attention(q, cache, layer, step, spec)
            torch.testing.assert_close(got[:6], reference(q, cache, layer, step, spec)[:6])
    assert sum(wrapper.plans for wrapper in Wrapper.made) == 2


def test_decode_steps_need_no_plan(flashinfer: FlashinferAttention) -> None:
    spec = attention_spec()
    made = bound(flashinfer, spec)
    q, cache, step, host = drawn(0, [3, 11], [1, 1], spec)
    assert step.shape.decode
    made.plans[0](host)
    assert (made.ops.paged_attention(q, cache, 0, step, spec) == 7.0).all()
    assert not any(wrapper.plans for wrapper in Wrapper.made)


def test_mixed_steps_that_are_captured_need_no_plan_and_the_others_do(flashinfer: FlashinferAttention) -> None:
    spec = attention_spec()
    made = bound(flashinfer, spec)
    q, cache, step, host = drawn(0, [3, 11], [9, 1], spec, pad=CAPTURED - 10)
    assert made.capturable
    assert made.capturable_in(host.shape)
    made.plans[0](host)
    assert (made.ops.paged_attention(q, cache, 0, step, spec) == 7.0).all()
    assert not any(wrapper.plans for wrapper in Wrapper.made)
    q, cache, step, host = drawn(0, [3, 11], [9, 1], spec, pad=CAPTURED - 9)
    assert not made.capturable_in(host.shape)
    made.plans[0](host)
    got = made.ops.paged_attention(q, cache, 0, step, spec)
    torch.testing.assert_close(got[:10], reference(q, cache, 0, step, spec)[:10])
    assert sum(wrapper.plans for wrapper in Wrapper.made) == 1


def test_a_wrapper_is_planned_again_only_when_its_copies_are_done(flashinfer: FlashinferAttention) -> None:
    spec = attention_spec()
    made = bound(flashinfer, spec)
    device: Any = flashinfer._device
    device.slow = True
    q, cache, step, host = drawn(0, [3], [4], spec)

    def run() -> None:
        made.plans[0](host)
        made.ops.paged_attention(q, cache, 0, step, spec)

    for _ in range(DEPTH):
        run()
    assert device.waits == 0
    run()
    assert device.waits == 1


def test_a_step_that_is_launched_op_by_op_is_planned_when_it_has_begun(flashinfer: FlashinferAttention) -> None:
    spec = attention_spec()
    made = bound(flashinfer, spec)
    q, cache, step, host = drawn(0, [3], [4], spec)
    made.plans[0](host)
    assert not any(wrapper.plans for wrapper in Wrapper.made)
    for layer in (0, 1):
        made.ops.paged_attention(q, cache, layer, step, spec)
        assert sum(wrapper.plans for wrapper in Wrapper.made) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head_dim": 80, "v_head_dim": 80}, "heads of 64, 128, 256"),
        ({"v_head_dim": 128}, "64 and 128"),
    ],
)
def test_refusals_name_the_reason(flashinfer: FlashinferAttention, changes: Any, reason: str) -> None:
    request = attention_request("paged_attention", "bfloat16", attention_spec(**changes), 16, "bfloat16")
    (one,) = flashinfer.kernels()
    assert reason in (one.supports(request) or "")


def test_other_dtypes_are_refused(flashinfer: FlashinferAttention) -> None:
    (one,) = flashinfer.kernels()
    for dtype, cache_dtype in (("float32", "float32"), ("bfloat16", "float16")):
        request = attention_request("paged_attention", dtype, attention_spec(), 16, cache_dtype)
        assert one.supports(request) is not None


def test_without_flashinfer_the_reason_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "flashinfer" else real(name))
    reason = missing()
    assert reason is not None
    assert "pip install flashinfer-python" in reason
    (one,) = FlashinferAttention(FakeDevice(), reason, (), captured).kernels()  # type: ignore[arg-type]
    request = attention_request("paged_attention", "bfloat16", attention_spec(), 16, "bfloat16")
    assert one.supports(request) == reason


def test_the_module_is_asked_for_as_flashinfer_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[inspect.BoundArguments] = []
    module: Any = ModuleType("flashinfer.jit.attention")
    module.gen_batch_prefill_module = lambda *a: asked.append(SIGNATURES["gen_batch_prefill_module"].bind(*a))
    for name in ("flashinfer", "flashinfer.jit"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "flashinfer.jit.attention", module)
    request = attention_request("paged_attention", "float16", attention_spec(window=9), 16, "float16")
    flashinfer_modules.module_spec("fa3", request)
    arguments = asked[0].arguments
    assert arguments["backend"] == "fa3"
    assert arguments["head_dim_qk"] == arguments["head_dim_vo"] == 64
    assert arguments["dtype_idx"] is torch.int32
    assert arguments["use_sliding_window"]
    assert not arguments["use_logits_soft_cap"]


@pytest.mark.skipif(importlib.util.find_spec("flashinfer") is None, reason="flashinfer is not installed")
def test_the_pinned_signatures_are_the_installed_ones() -> None:
    assert flashinfer_signatures.installed() == json.loads(flashinfer_signatures.PINNED.read_text())
