"""Binding: from an op's requests to the callables that serve them, with the record of the choice.

Kernels are found once, at load. A bound op is an attribute of :class:`Ops`; calling it costs that
attribute, plus one look-up where an op that dispatches is served by several kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zif.contract.errors import InvalidSettings, KernelNotFound
from zif.contract.kernel import Kernel, KernelSet
from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest, OpSpec
from zif.contract.optable import Ops
from zif.contract.step import HostStep, StepShape


@dataclass(frozen=True)
class Rejected:
    """A kernel that was not taken, and why."""

    kernel: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """Which kernel serves a request, and which were refused before it."""

    request: OpRequest
    kernel: Kernel
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Bound:
    """The ops a model and core's programs call, how each came to be chosen, and who plans steps.

    ``plans`` are called with each step before it is launched. ``captures`` tell, of a planned kernel each, which steps
    it may be captured in.
    """

    ops: Ops
    choices: tuple[Choice, ...]
    plans: tuple[Callable[[HostStep], None], ...] = ()
    captures: tuple[Callable[[StepShape], bool], ...] = ()

    @property
    def capturable(self) -> bool:
        """Whether every chosen kernel may run inside a captured graph."""
        return all(choice.kernel.capturable for choice in self.choices)

    def capturable_in(self, shape: StepShape) -> bool:
        """Whether every chosen kernel may run inside a captured graph of a step of this shape."""
        return self.capturable and all(captures(shape) for captures in self.captures)


def choose(request: OpRequest, kernels: Sequence[Kernel], pin: str | None = None) -> Choice:
    """The first kernel of ``kernels`` that serves ``request``; ``pin`` names the only one allowed.

    A name is ``provider.kernel`` or a provider alone. Raises :class:`KernelNotFound` with every
    refusal, :class:`InvalidSettings` for a pin that names nothing.
    """
    candidates = [kernel for kernel in kernels if kernel.op == request.op]
    if pin is not None:
        pinned = [kernel for kernel in candidates if pin in (str(kernel), kernel.provider)]
        if not pinned:
            known = ", ".join(str(kernel) for kernel in candidates) or "none"
            raise InvalidSettings(f"--kernel {request.op}={pin}: no such kernel; {request.op} has {known}")
        candidates = pinned
    rejected: list[Rejected] = []
    for kernel in candidates:
        reason = kernel.supports(request)
        if reason is None:
            return Choice(request, kernel, tuple(rejected))
        rejected.append(Rejected(str(kernel), reason))
    refusals = "".join(f"\n  {entry.kernel}: {entry.reason}" for entry in rejected) or "\n  no provider has one"
    raise KernelNotFound(f"no kernel serves {request}:{refusals}")


def candidates(providers: Sequence[KernelSet]) -> list[Kernel]:
    """All kernels in the order in which they are tried: the composites come just before the framework
    reference, which is the last provider."""
    *preferred, reference = providers
    kernels = [kernel for provider in preferred for kernel in provider.kernels()]
    kernels += [_composite_kernel(spec) for spec in op_specs().values() if spec.composite is not None]
    return kernels + list(reference.kernels())


def bind(requests: Iterable[OpRequest], providers: Sequence[KernelSet], pins: Mapping[str, str] | None = None) -> Bound:
    """Bind ops for ``requests``. ``providers`` come in order of preference.

    An op without a request is bound where a provider has a kernel for it that asks for nothing.
    A composite takes part between the providers and the framework reference, which is the last.
    """
    pins = pins or {}
    strange = sorted(set(pins) - set(op_specs()))
    if strange:
        raise InvalidSettings(f"--kernel names unknown ops {strange}; known: {', '.join(sorted(op_specs()))}")
    ops = Ops()
    kernels = candidates(providers)
    by_op: dict[str, list[OpRequest]] = {}
    for request in requests:
        wanted = by_op.setdefault(request.op, [])
        if request not in wanted:
            wanted.append(request)
    choices = []
    planners: list[Any] = []
    for name, spec in op_specs().items():
        wanted = by_op.get(name, [])
        if not wanted:
            _bind_unasked(ops, name, kernels)
            continue
        chosen = _choose_all(spec, wanted, kernels, pins.get(name))
        choices += chosen
        setattr(ops, name, _callable(spec, chosen, ops, planners))
    captures = [planner.capturable for planner in planners if hasattr(planner, "capturable")]
    return Bound(ops, tuple(choices), tuple(planner.plan for planner in planners), tuple(captures))


def _choose_all(spec: OpSpec, wanted: Sequence[OpRequest], kernels: Sequence[Kernel], pin: str | None) -> list[Choice]:
    """A choice a request; one kernel for all of them unless the op dispatches."""
    if spec.dispatch is not None:
        return [choose(request, kernels, pin) for request in wanted]
    serving_all = [
        kernel
        for kernel in kernels
        if kernel.op == spec.name
        and all(kernel.supports(request) is None for request in wanted)
        and not (kernel.per_request and len(wanted) > 1)
    ]
    for request in wanted:
        choose(request, kernels, pin)  # the error that names the refusals, where one request has no kernel
    refused = [kernel for kernel in kernels if kernel.op == spec.name and kernel not in serving_all]
    choices = []
    for request in wanted:
        choice = choose(request, serving_all, pin)
        reasons = tuple(
            Rejected(
                str(kernel), kernel.supports(request) or "one callable of it does not serve all of the model's calls"
            )
            for kernel in refused
        )
        choices.append(Choice(request, choice.kernel, reasons))
    return choices


def _callable(spec: OpSpec, choices: Sequence[Choice], ops: Ops, planners: list[Any]) -> Callable[..., Any]:
    """The op's callable; those of planned kernels are added to ``planners``."""
    shared: dict[str, Callable[..., Any]] = {}
    made: list[Callable[..., Any]] = []
    for request, kernel in ((choice.request, choice.kernel) for choice in choices):
        if kernel.per_request:
            made.append(kernel.make(request, ops))
            if kernel.planned:
                planners.append(made[-1])
        else:
            if str(kernel) not in shared:
                shared[str(kernel)] = kernel.make(request, ops)
            made.append(shared[str(kernel)])
    if spec.dispatch is None or all(fn is made[0] for fn in made):
        return made[0]
    position = spec.parameters.index(spec.dispatch)
    table = {_dispatch_key(choice.request): fn for choice, fn in zip(choices, made, strict=True)}
    argument = spec.dispatch

    def dispatched(*args: Any, **kwargs: Any) -> Any:
        chosen = args[position] if position < len(args) else kwargs[argument]
        return table[chosen.dispatch_key](*args, **kwargs)

    return dispatched


def _dispatch_key(request: OpRequest) -> Any:
    return request["key"]


def _bind_unasked(ops: Ops, name: str, kernels: Sequence[Kernel]) -> None:
    for kernel in kernels:
        if kernel.op == name:
            try:
                refusal = kernel.supports(OpRequest.of(name, "float32"))
            except KeyError:
                continue
            if refusal is None:
                setattr(ops, name, kernel.make(OpRequest.of(name, "float32"), ops))
                return


def _composite_kernel(spec: OpSpec) -> Kernel:
    composite = spec.composite
    assert composite is not None
    return Kernel(spec.name, spec.name, "composite", lambda _: None, lambda _, ops: composite(ops))
