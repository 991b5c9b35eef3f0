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
from fakes import FakeDevice
from zif.contract.attention import AttentionSpec
from zif.contract.bind import bind
from zif.contract.kernel import KernelSet, kernel
from zif.contract.step import HostStep, Step, StepShape
from zif.ops.attention import attention_request, draw_step
from zif.reference.torch.kernels import attend
from zif.reference.torch.reference import TorchReference
from zif_cuda import flashinfer_attention
from zif_cuda.flashinfer_attention import DEPTH, FlashinferAttention, missing

SIGNATURES = flashinfer_signatures.pinned()
Tensor = torch.Tensor
CAPTURED = 16


class Wrapper:
    """flashinfer's, of which it has the signatures, and the meaning of the arguments that are given here."""

    made: list[Wrapper] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        SIGNATURES["__init__"].bind(self, *args, **kwargs)
        self.plans = 0
        self.made.append(self)

    def plan(self, *args: Any, **kwargs: Any) -> None:
        self.planned = SIGNATURES["plan"].bind(self, *args, **kwargs).arguments
        self.plans += 1
        lens = self.planned["seq_lens"]
        pages = self.planned["paged_kv_indptr"].diff()
        size = self.planned["page_size"]
        assert torch.equal((pages - 1) * size + self.planned["paged_kv_last_page_len"], lens)

    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        given = SIGNATURES["run"].bind(self, *args, **kwargs).arguments
        p, q, out = self.planned, given["q"], given["out"]
        keys, values = given["paged_kv_cache"]
        window = p["window_left"] + 1 if p["window_left"] >= 0 else None
        spec = AttentionSpec(
            "g", p["num_qo_heads"], p["num_kv_heads"], p["head_dim_qk"], p["head_dim_qk"], p["sm_scale"], window,
            p["logits_soft_cap"],
        )  # fmt: skip
        assert p["causal"]
        assert q.shape[0] == p["qo_indptr"][-1]
        for row, length in enumerate(p["seq_lens"].tolist()):
            begin, end = p["qo_indptr"][row : row + 2].tolist()
            first, last = p["paged_kv_indptr"][row : row + 2].tolist()
            at = p["paged_kv_indices"][first:last]
            k, v = keys[at].flatten(0, 1)[:length], values[at].flatten(0, 1)[:length]
            out[begin:end] = attend(q[begin:end], k, v, length - (end - begin), spec)
        return out


class Unplanned(KernelSet):
    provider = "unplanned"

    @kernel("paged_attention")
    def paged_attention(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        return torch.full((*q.shape[:2], spec.v_head_dim), 7.0)


def captured(shape: StepShape) -> bool:
    """As the executables', so that the other steps here are planned."""
    return shape.tokens == CAPTURED


@pytest.fixture
def flashinfer(monkeypatch: pytest.MonkeyPatch) -> FlashinferAttention:
    module: Any = ModuleType("flashinfer")
    module.BatchPrefillWithPagedKVCacheWrapper = Wrapper
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    monkeypatch.setattr(flashinfer_attention, "unbuilt", lambda *_: None)
    monkeypatch.setattr(flashinfer_attention, "build", lambda *_: None)
    monkeypatch.setattr(flashinfer_attention, "WORKSPACE", 1024)
    Wrapper.made = []
    return FlashinferAttention(FakeDevice(), None, (Unplanned(),), captured)  # type: ignore[arg-type]


def attention_spec(**changes: Any) -> AttentionSpec:
    facts = {"group": "g", "q_heads": 4, "kv_heads": 2, "head_dim": 64, "v_head_dim": 64, "scale": 0.125, **changes}
    return AttentionSpec(**facts)


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
    return q, cache, on_device, HostStep(step.shape, step.query_starts, step.kv_lens)


def bound(kernels: FlashinferAttention, spec: AttentionSpec, page_size: int = 4) -> Any:
    request = attention_request("paged_attention", "bfloat16", spec, page_size, "bfloat16")
    return bind([request], [kernels, TorchReference()])


def reference(q: Tensor, cache: Any, layer: int, step: Step, spec: AttentionSpec) -> Tensor:
    return TorchReference().paged_attention(q, cache, layer, step, spec)


@pytest.mark.parametrize("changes", [{}, {"window": 3}, {"softcap": 5.0}])
def test_planned_steps_give_what_the_reference_gives(flashinfer: FlashinferAttention, changes: Any) -> None:
    spec = attention_spec(**changes)
    made = bound(flashinfer, spec)
    (plan,) = made.plans
    for seed, (before, new, pad) in enumerate([([20, 9, 0], [16, 1, 3], 4), ([0], [5], 0), ([7, 8], [1, 9], 2)]):
        q, cache, step, host = drawn(seed, before, new, spec, pad=pad)
        plan(host)
        for layer in (0, 1):
            got = made.ops.paged_attention(q, cache, layer, step, spec)
            real = sum(new)
            torch.testing.assert_close(got[:real], reference(q, cache, layer, step, spec)[:real])
    assert sum(wrapper.plans for wrapper in Wrapper.made) == 3


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
    _, _, _, host = drawn(0, [3], [4], spec)
    for _ in range(DEPTH):
        made.plans[0](host)
    assert device.waits == 0
    made.plans[0](host)
    assert device.waits == 1


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
    flashinfer_attention.module_spec("fa3", request)
    arguments = asked[0].arguments
    assert arguments["backend"] == "fa3"
    assert arguments["head_dim_qk"] == arguments["head_dim_vo"] == 64
    assert arguments["dtype_idx"] is torch.int32
    assert arguments["use_sliding_window"]
    assert not arguments["use_logits_soft_cap"]


@pytest.mark.skipif(importlib.util.find_spec("flashinfer") is None, reason="flashinfer is not installed")
def test_the_pinned_signatures_are_the_installed_ones() -> None:
    assert flashinfer_signatures.installed() == json.loads(flashinfer_signatures.PINNED.read_text())
