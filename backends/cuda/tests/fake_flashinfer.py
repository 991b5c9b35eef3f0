"""flashinfer's wrapper without flashinfer, and graphs of it; and a kernel set that is given both."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import flashinfer_signatures
from fakes import FakeDevice
from zif.contract.attention import AttentionSpec
from zif.contract.binding import bind
from zif.contract.kernels import KernelSet, kernel
from zif.contract.ops.attention import attention_request
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step, StepShape
from zif.reference.torch.attention import attend
from zif.reference.torch.reference import TorchReference
from zif_cuda import flashinfer_attention
from zif_cuda.flashinfer_attention import FlashinferAttention

SIGNATURES = flashinfer_signatures.pinned()
Tensor = torch.Tensor
CAPTURED = 16
LARGE = StepShape(40, 4, 12, 4, decode=False)
"""Of captured steps, these are planned."""


class Tape(TorchDispatchMode):
    """What a graph holds: work on tensors, and wrappers' kernels, without the Python in between."""

    now: Tape | None = None

    def __init__(self) -> None:
        super().__init__()
        self.work: list[Any] = []
        self._paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._paused:
            self.work.append((func, args, kwargs or {}, result))
        return result

    def kernel(self, fn: Any, given: Any) -> None:
        """Take down a kernel, of which nothing else is."""
        self.work.append((fn, (given,), {}, None))

    @contextlib.contextmanager
    def inside_a_kernel(self) -> Iterator[None]:
        self._paused = True
        yield
        self._paused = False

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        Tape.now = self
        with self:
            yield
        Tape.now = None

    def replay(self) -> None:
        for func, args, kwargs, result in self.work:
            again = func(*args, **kwargs)
            if isinstance(result, Tensor) and again.data_ptr() != result.data_ptr():
                result.copy_(again)


def launched(fn: Callable[[Any], None], given: Any) -> None:
    """Run a kernel, and take it down where a graph is recorded."""
    if Tape.now is None:
        fn(given)
    else:
        Tape.now.kernel(fn, given)
        with Tape.now.inside_a_kernel():
            fn(given)


class Wrapper:
    """flashinfer's, of which it has the signatures, and the meaning of the arguments that are given here."""

    made: list[Wrapper] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.given = SIGNATURES["__init__"].bind(self, *args, **kwargs).arguments
        self.graph = self.given.get("use_cuda_graph", False)
        self.plans = 0
        self.rows: int | None = None
        self.made.append(self)

    def reset_workspace_buffer(self, *args: Any, **kwargs: Any) -> None:
        self.workspaces = SIGNATURES["reset_workspace_buffer"].bind(self, *args, **kwargs).arguments

    def plan(self, *args: Any, **kwargs: Any) -> None:
        assert Tape.now is None, "a plan within a graph"
        self.planned = SIGNATURES["plan"].bind(self, *args, **kwargs).arguments
        self.plans += 1
        p = self.planned
        starts, lens, indices = p["qo_indptr"], p["seq_lens"], p["paged_kv_indices"]
        assert p["max_token_per_sequence"] == starts.diff().max()
        if not self.graph:
            pages = p["paged_kv_indptr"].diff()
            assert torch.equal((pages - 1) * p["page_size"] + p["paged_kv_last_page_len"], lens)
            return
        assert self.given["backend"] == "fa3"
        assert len(starts) == len(p["paged_kv_indptr"]) == len(self.given["qo_indptr_buf"])
        assert len(lens) == len(p["paged_kv_last_page_len"]) == len(self.given["paged_kv_last_page_len_buf"])
        self.rows = self.rows or int(starts[-1])
        assert starts[-1] <= self.rows
        for name in ("qo_indptr", "paged_kv_indptr", "paged_kv_last_page_len"):
            self.given[f"{name}_buf"].copy_(p[name])
        self.given["paged_kv_indices_buf"][: len(indices)].copy_(indices)

    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        given = SIGNATURES["run"].bind(self, *args, **kwargs).arguments
        assert given["q"].shape[0] == self.planned["qo_indptr"][-1]
        launched(self._kernel, given)
        out: Tensor = given["out"]
        return out

    def _kernel(self, given: Any) -> None:
        """What is in the graph: of the plan, it reads what there is of it when it runs."""
        p, q, out = self.planned, given["q"], given["out"]
        keys, values = given["paged_kv_cache"]
        indices = self.given["paged_kv_indices_buf"] if self.graph else p["paged_kv_indices"]
        window = p["window_left"] + 1 if p["window_left"] >= 0 else None
        spec = AttentionSpec(
            "g", p["num_qo_heads"], p["num_kv_heads"], p["head_dim_qk"], p["head_dim_qk"], p["sm_scale"], window,
            p["logits_soft_cap"],
        )  # fmt: skip
        assert p["causal"]
        for row, length in enumerate(p["seq_lens"].tolist()):
            begin, end = p["qo_indptr"][row : row + 2].tolist()
            if not length:
                out[begin:end] = 0.0
                continue
            first = int(p["paged_kv_indptr"][row])
            at = indices[first : first - (-length // p["page_size"])]
            k, v = keys[at].flatten(0, 1)[:length], values[at].flatten(0, 1)[:length]
            out[begin:end] = attend(q[begin:end], k, v, length - (end - begin), spec)


class Unplanned(KernelSet):
    provider = "unplanned"
    level = 1

    @kernel("paged_attention")
    def paged_attention(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        return torch.full((*q.shape[:2], spec.v_head_dim), 7.0)


class Fronted(KernelSet):
    """As :class:`Unplanned`, and it takes sequences at the front of other kernels' steps."""

    provider = "fronted"
    level = 1

    @kernel("paged_attention", makes=True)
    def paged_attention(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor]:
        return FrontedAttention()


class FrontedAttention:
    least_front = 2

    def __call__(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        return torch.full((*q.shape[:2], spec.v_head_dim), 7.0)

    def front(self, *given: Any) -> None:
        launched(self._kernel, given)

    def _kernel(self, given: Any) -> None:
        out, q, cache, layer, step, spec = given
        ends = step.query_starts[1:].tolist()
        count = next((at for at, end in enumerate(ends) if end != at + 1), len(ends))
        if count >= self.least_front:
            out[:count] = reference(q, cache, layer, step, spec)[:count]


def captured(shape: StepShape) -> bool:
    """As the executables'; the other steps here are launched op by op."""
    return shape.tokens == CAPTURED or shape == LARGE


def kernels_of(monkeypatch: pytest.MonkeyPatch, unplanned: KernelSet | None = None) -> FlashinferAttention:
    """The kernel set, with the wrapper above for flashinfer's."""
    module: Any = ModuleType("flashinfer")
    module.BatchPrefillWithPagedKVCacheWrapper = Wrapper
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    monkeypatch.setattr(flashinfer_attention, "unbuilt", lambda *_: None)
    monkeypatch.setattr(flashinfer_attention, "build", lambda *_: None)
    monkeypatch.setattr(flashinfer_attention, "WORKSPACE", 1024)
    monkeypatch.setattr(flashinfer_attention, "PLANS", 512)
    monkeypatch.setattr(flashinfer_attention, "CAPTURED_TOKENS", (CAPTURED,))
    Wrapper.made = []
    return FlashinferAttention(FakeDevice(), None, (unplanned or Unplanned(),), captured)  # type: ignore[arg-type]


def attention_spec(**changes: Any) -> AttentionSpec:
    facts = {"group": "g", "q_heads": 4, "kv_heads": 2, "head_dim": 64, "v_head_dim": 64, "scale": 0.125, **changes}
    return AttentionSpec(**facts)


def bound(kernels: FlashinferAttention, spec: AttentionSpec, page_size: int = 4) -> Any:
    request = attention_request("paged_attention", "bfloat16", spec, page_size, "bfloat16")
    return bind([request], [kernels, TorchReference()])


def reference(q: Tensor, cache: Any, layer: int, step: Step, spec: AttentionSpec) -> Tensor:
    return TorchReference().paged_attention(q, cache, layer, step, spec)
