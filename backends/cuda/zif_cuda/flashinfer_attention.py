"""Attention of prefill and mixed steps through flashinfer, planned on the host.

Its plan of a step (which thread block works on which piece of which sequence) is made on the host and copied to the
device, out of a pinned buffer of the wrapper's own. The device may be a step behind, so wrappers form a ring: one
is planned again only after the copies of its last plan are done.

Decode steps, and mixed ones that are captured, are left to a kernel that needs no plan, so that a graph can be
replayed without one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zif.contract.attention import AttentionSpec
from zif.contract.kernel import Kernel, KernelSet, kernel
from zif.contract.ops import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import HostStep, Step, StepShape
from zif.reference.torch.runtime import torch_dtype
from zif_cuda.device import CudaDevice
from zif_cuda.probe import FLASHINFER as TESTED

logger = logging.getLogger(__name__)
Tensor = torch.Tensor

HEAD_SIZES = (64, 128, 256)
DEPTH = 3
"""Plans at a time: of the step that runs, of the one launched behind it, and of the one being made."""
WORKSPACE = 256 << 20
"""Bytes for partial results of split histories; one for all wrappers, since steps run one after the other."""


def missing() -> str | None:
    """Why flashinfer cannot be used, or None."""
    if importlib.util.find_spec("flashinfer") is None:
        return f"flashinfer is not installed (pip install flashinfer-python=={TESTED})"
    version = importlib.metadata.version("flashinfer-python")
    if version.split(".")[:2] != TESTED.split(".")[:2]:
        return f"flashinfer {version} is installed, {TESTED} is what this version of zif-cuda calls"
    return None


class FlashinferAttention(KernelSet):
    """``refusal`` says why there is none.

    ``unplanned`` are the providers, best first, of the kernel for decode steps and for those that ``captures`` says are
    captured.
    """

    provider = "flashinfer"

    def __init__(
        self,
        device: CudaDevice,
        refusal: str | None,
        unplanned: tuple[KernelSet, ...],
        captures: Callable[[StepShape], bool],
    ) -> None:
        self._device = device
        self._refusal = refusal
        self._unplanned = unplanned
        self._captures = captures
        self._workspace: Tensor | None = None

    def _refuses(self, request: OpRequest) -> str | None:
        if self._refusal is not None:
            return self._refusal
        if request.dtype not in ("bfloat16", "float16"):
            return f"takes bfloat16 or float16, not {request.dtype}"
        if request["cache_dtype"].startswith("float8"):
            return "its fa3 reads a cache of eight bits with queries of eight bits alone, its fa2 is not used for them"
        if request["cache_dtype"] != request.dtype:
            return f"reads a cache of the activations' dtype {request.dtype}, not {request['cache_dtype']}"
        if request["head_dim"] not in HEAD_SIZES or request["head_dim"] != request["v_head_dim"]:
            found = f"{request['head_dim']} and {request['v_head_dim']}"
            return f"takes heads of {', '.join(map(str, HEAD_SIZES))} for keys and values alike, not {found}"
        if self._unplanned_kernel(request) is None:
            return "leaves captured steps to another kernel, and there is none"
        return unbuilt(self._backend(), request)

    @kernel("paged_attention", makes=True, planned=True, when=_refuses)
    def paged_attention(self, request: OpRequest, ops: Ops) -> Callable[..., Tensor]:
        unplanned = self._unplanned_kernel(request)
        assert unplanned is not None
        if self._workspace is None:
            self._workspace = self._device.empty(WORKSPACE)
        build(self._backend(), request)
        made = unplanned.make(request, ops)
        return PlannedAttention(self._device, self._workspace, self._backend(), request, made, self._captures)

    def _backend(self) -> str:
        return "fa3" if self._device.facts().capability[0] == 9 else "fa2"

    def _unplanned_kernel(self, request: OpRequest) -> Kernel | None:
        found = (one for kernels in self._unplanned for one in kernels.kernels() if one.op == request.op)
        return next((one for one in found if one.capturable and one.supports(request) is None), None)


@dataclass
class Plan:
    """A wrapper, and the step that it is planned for. ``step``: the first that came to be run with it."""

    wrapper: Any
    copied: Any
    host: HostStep | None = None
    step: Step | None = None
    indices: Tensor | None = None


class PlannedAttention:
    """``paged_attention`` of one attention spec."""

    def __init__(
        self,
        device: CudaDevice,
        workspace: Tensor,
        backend: str,
        request: OpRequest,
        unplanned: Callable[..., Tensor],
        captures: Callable[[StepShape], bool],
    ) -> None:
        from flashinfer import BatchPrefillWithPagedKVCacheWrapper

        self._device = device
        self._unplanned = unplanned
        self._captures = captures
        self._spec: AttentionSpec = request["key"]
        self._page_size: int = request["page_size"]
        self._dtype = torch_dtype(request.dtype)
        self._ring = deque(
            Plan(BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend=backend), device.event())
            for _ in range(DEPTH)
        )
        self._current: Plan | None = None

    def capturable(self, shape: StepShape) -> bool:
        """Whether a step of this shape is left to the kernel that needs no plan."""
        return shape.decode or self._captures(shape)

    def plan(self, step: HostStep) -> None:
        """Plan a prefill or mixed step that is launched op by op."""
        if self.capturable(step.shape):
            return
        plan = self._ring[0]
        self._ring.rotate(-1)
        if plan.host is not None:
            plan.copied.synchronize()
        spec, size = self._spec, self._page_size
        pages = -(-step.kv_lens // size)
        bounds = np.zeros(len(pages) + 1, np.int32)
        np.cumsum(pages, out=bounds[1:])
        plan.indices = torch.empty(int(bounds[-1]), dtype=torch.int32, device=self._device.torch)
        plan.wrapper.plan(
            torch.from_numpy(step.query_starts),
            torch.from_numpy(bounds),
            plan.indices,
            torch.from_numpy(step.kv_lens - (pages - 1) * size),
            spec.q_heads,
            spec.kv_heads,
            spec.head_dim,
            size,
            causal=True,
            sm_scale=spec.scale,
            window_left=-1 if spec.window is None else spec.window - 1,
            logits_soft_cap=spec.softcap,
            q_data_type=self._dtype,
            kv_data_type=self._dtype,
            seq_lens=torch.from_numpy(step.kv_lens),
        )
        plan.copied.record()
        plan.host, plan.step = step, None
        self._current = plan

    def __call__(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        if self.capturable(step.shape):
            return self._unplanned(q, cache, layer, step, spec)
        plan = self._of(step)
        group = cache[spec.group]
        out = torch.empty((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype, device=q.device)
        assert plan.host is not None
        real = int(plan.host.query_starts[-1])
        plan.wrapper.run(q[:real].contiguous(), (group["k"][layer], group["v"][layer]), out=out[:real])
        return out

    def _of(self, step: Step) -> Plan:
        """The plan of ``step``, its page ids filled in. A step that nobody planned is planned here, which waits."""
        plan = self._current
        if plan is None or plan.host is None or (plan.step is not step and plan.step is not None):
            lens = step.kv_lens.cpu().numpy()
            starts = step.query_starts.cpu().numpy()
            real = int(np.count_nonzero(starts[1:] > starts[:-1]))
            self.plan(HostStep(step.shape, starts[: real + 1].copy(), lens[:real].copy()))
            plan = self._current
            assert plan is not None
        if plan.step is None:
            assert plan.host is not None and plan.host.shape == step.shape, "a plan of another step"
            plan.step = step
            self._fill(plan, step.pages[self._spec.group])
        return plan

    def _fill(self, plan: Plan, pages: Tensor) -> None:
        """Page ids of all sequences behind one another, from the tables on the device ``pages`` [B, P]."""
        assert plan.host is not None and plan.indices is not None
        counts = -(-plan.host.kv_lens.astype(np.int64) // self._page_size)
        firsts = np.cumsum(counts) - counts
        where = np.repeat(np.arange(len(counts)) * pages.shape[1] - firsts, counts) + np.arange(int(counts.sum()))
        torch.take(pages, self._device.upload(where), out=plan.indices)


def build(backend: str, request: OpRequest) -> None:
    """Load flashinfer's module for a request, compiling it where that was not done before."""
    spec = module_spec(backend, request)
    if spec.is_compiled:
        return
    logger.info("compiling flashinfer's attention for heads of %d, once: it is kept on disk", request["head_dim"])
    begin = time.monotonic()
    spec.build_and_load()
    logger.info("compiled in %.0f s", time.monotonic() - begin)


def unbuilt(backend: str, request: OpRequest) -> str | None:
    """Why flashinfer's module for a request can be neither loaded nor compiled, or None."""
    spec = module_spec(backend, request)
    if spec.is_compiled or shutil.which("nvcc") or os.path.exists(f"{os.environ.get('CUDA_HOME', '')}/bin/nvcc"):
        return None
    return "its kernel is not compiled yet, and there is no nvcc: pip install flashinfer-jit-cache, or put nvcc on PATH"


def module_spec(backend: str, request: OpRequest) -> Any:
    """How flashinfer makes the module that serves a request."""
    from flashinfer.jit.attention import gen_batch_prefill_module

    dtype, head = torch_dtype(request.dtype), request["head_dim"]
    window, softcap = request["window"] is not None, request["softcap"] is not None
    return gen_batch_prefill_module(backend, dtype, dtype, dtype, torch.int32, head, head, 0, window, softcap, False)
