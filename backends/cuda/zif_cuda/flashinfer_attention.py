"""Attention of prefill and mixed steps through flashinfer, planned on the host (:mod:`zif_cuda.flashinfer_plans`).

Wrappers of steps that are launched op by op form a ring. Large steps that are captured have a wrapper for each shape,
whose kernel is in the graph: the plan before a replay says what it does.

Decode steps, and small mixed ones that are captured, are left to a kernel that needs no plan; and of others, where that
kernel can, the sequences at the front with one token each: fa3 takes a tile of 128 queries for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
import torch

from zif.contract import (
    EIGHT_BITS,
    AttentionSpec,
    HostStep,
    Kernel,
    KernelSet,
    OpRequest,
    Ops,
    Step,
    StepShape,
    kernel,
    unless_plain,
)
from zif_cuda.device import CudaDevice
from zif_cuda.executables import CAPTURED_TOKENS
from zif_cuda.flashinfer_modules import build, unbuilt
from zif_cuda.flashinfer_plans import PaddedPlan, Plan, RaggedPlan

Tensor = torch.Tensor

HEAD_SIZES = (64, 128, 256)
DEPTH = 3
"""Plans at a time: of the step that runs, of the one launched behind it, and of the one being made."""
WORKSPACE = 256 << 20
"""Bytes for partial results of split histories; one for all wrappers, since steps run one after the other."""
PLANS = 8 << 20
"""Bytes of a plan on the device, as flashinfer itself has it."""


class Fronting(Protocol):
    """A kernel that also takes, of a step that is another's, the sequences at the front with one token each.

    Where they are ``least_front`` or more: it finds out on the device.
    """

    least_front: int

    def front(self, out: Tensor, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> None: ...


class FlashinferAttention(KernelSet):
    """``refusal`` says why there is none.

    ``unplanned`` are the providers, best first, of the kernel for decode steps, for small ones that ``captures``
    says are captured, and, if it is :class:`Fronting`, for what of other steps decodes.
    """

    provider = "flashinfer"
    level = 1

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
        if request["cache_format"] in EIGHT_BITS:
            return "its fa3 reads a cache of eight bits with queries of eight bits alone, its fa2 is not used for them"
        if (refusal := unless_plain(request, request.dtype)) is not None:
            return refusal
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
        return "fa3" if self._device.facts().hopper else "fa2"

    def _unplanned_kernel(self, request: OpRequest) -> Kernel | None:
        found = (one for kernels in self._unplanned for one in kernels.kernels() if one.op == request.op)
        return next((one for one in found if one.capturable and one.supports(request) is None), None)


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
        self._device = device
        self._workspace = workspace
        self._request = request
        self._unplanned = unplanned
        self._captures = captures
        self._fronting = cast(Fronting, unplanned) if hasattr(unplanned, "front") else None
        self._least = self._fronting.least_front if self._fronting is not None else None
        self._ring = deque(RaggedPlan(device, request, workspace, backend, self._least) for _ in range(DEPTH))
        self._plans: Tensor | None = None
        self._pages: dict[int, Tensor] = {}
        self._captured: dict[StepShape, PaddedPlan] = {}
        self._current: Plan | None = None
        self._due: HostStep | None = None
        self._step: Step | None = None

    def capturable(self, shape: StepShape) -> bool:
        """Whether a step of this shape is captured, planned or not."""
        return shape.decode or self._captures(shape)

    def plan(self, step: HostStep) -> None:
        """Plan a prefill or mixed step, unless it is left to the kernel that needs none.

        One that is launched op by op is planned at its first call, when the device has something to do already.
        """
        if self._left(step.shape):
            return
        self._current, self._due, self._step = self._plan_of(step.shape), step, None
        if self._captures(step.shape):
            self._make()

    def __call__(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        if self._left(step.shape):
            return self._unplanned(q, cache, layer, step, spec)
        plan = self._of(step)
        group = cache[spec.group]
        out = torch.empty((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype, device=q.device)
        rows = plan.rows
        plan.wrapper.run(q[rows].contiguous(), (group["k"][layer], group["v"][layer]), out=out[rows])
        if plan.fronted:
            assert self._fronting is not None
            self._fronting.front(out, q, cache, layer, step, spec)
        return out

    def _left(self, shape: StepShape) -> bool:
        """Whether a step of this shape is left to the kernel that needs no plan: any whose lengths are bounds is."""
        return shape.decode or not shape.exact or (shape.tokens <= CAPTURED_TOKENS[-1] and self._captures(shape))

    def _plan_of(self, shape: StepShape) -> Plan:
        """What is to be planned next, for a step of this shape."""
        if not self._captures(shape):
            self._ring.rotate(-1)
            return self._ring[-1]
        if self._plans is None:
            self._plans = self._device.empty(PLANS)
        plan = self._captured.get(shape)
        if plan is None:
            size = shape.seqs * -(-shape.pages // self._request["page_factor"])
            if size not in self._pages:
                self._pages[size] = torch.zeros(size, dtype=torch.int32, device=self._device.torch)
            plan = PaddedPlan(
                self._device, self._request, self._workspace, self._plans, self._pages[size], shape, self._least
            )
            self._captured[shape] = plan
        return plan

    def _make(self) -> None:
        """Make the plan that is due."""
        assert self._current is not None
        assert self._due is not None
        self._current.make(self._due)
        self._due = None

    def _of(self, step: Step) -> Plan:
        """The plan of ``step``, made if it is due, its page ids filled in.

        A step that nobody planned is planned here, which waits.
        """
        if self._current is None or (self._step is not step and self._step is not None):
            lens = step.kv_lens.cpu().numpy()
            starts = step.query_starts.cpu().numpy()
            real = int(np.count_nonzero(starts[1:] > starts[:-1]))
            self.plan(HostStep(step.shape, starts[: real + 1].copy(), lens[:real].copy()))
        if self._due is not None:
            self._make()
        plan = self._current
        assert plan is not None
        if self._step is None:
            assert plan.host is not None and plan.host.shape == step.shape, "a plan of another step"
            self._step = step
            plan.fill(step.pages[self._request["key"].group])
        return plan
