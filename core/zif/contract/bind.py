"""Binding: from an op's requests to the callables that serve them, with the record of the choice.

Kernels are found once, at load. A bound op is an attribute of :class:`Ops`; calling it costs that
attribute, plus one look-up where an op that dispatches is served by several kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zif.contract import version
from zif.contract.errors import InvalidSettings, KernelNotFound
from zif.contract.kernel import Kernel, KernelSet
from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest, OpSpec
from zif.contract.optable import Ops
from zif.contract.step import HostStep, StepShape

COMPOSITE = "composite"
"""The provider of ops that are made of others."""


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
    """Bind ops for ``requests`` and for what composites of them ask. ``providers`` come in order of preference.

    An op whose requests have no facts is bound unasked, where a provider has a kernel for it.
    A composite takes part between the providers and the framework reference, which is the last. What it is made of
    must be served only where it is chosen.
    Raises :class:`KernelNotFound` with every refusal, :class:`InvalidSettings` for a pin that names nothing,
    PluginError for a kernel that breaks, ValueError for a request with other facts than its op declares.
    """
    pins = pins or {}
    strange = sorted(set(pins) - set(op_specs()))
    if strange:
        raise InvalidSettings(f"--kernel names unknown ops {strange}; known: {', '.join(sorted(op_specs()))}")
    asked = list(dict.fromkeys(requests))
    by_op: dict[str, list[OpRequest]] = {}
    for request in _with_parts(asked):
        op_specs()[request.op].check(request)
        by_op.setdefault(request.op, []).append(request)
    kernels = candidates(providers)
    ops = Ops()
    choices: list[Choice] = []
    failed: dict[OpRequest, KernelNotFound] = {}
    planners: list[Any] = []
    for name, spec in op_specs().items():
        wanted = by_op.get(name, [])
        if not wanted and not spec.facts:
            _bind_unasked(ops, name, kernels)
        chosen = _choose_all(spec, wanted, kernels, pins.get(name), failed) if wanted else []
        choices += chosen
        if chosen:
            setattr(ops, name, _callable(spec, chosen, ops, planners))
    for request in _needed(asked, choices):
        if request in failed:
            raise failed[request]
    captures = [planner.capturable for planner in planners if hasattr(planner, "capturable")]
    return Bound(ops, tuple(choices), tuple(planner.plan for planner in planners), tuple(captures))


def _with_parts(requests: Iterable[OpRequest]) -> list[OpRequest]:
    """``requests``, and behind each those of the ops that it is made of."""
    found: dict[OpRequest, None] = {}
    for request in requests:
        found[request] = None
        found |= dict.fromkeys(_with_parts(op_specs()[request.op].parts(request)))
    return list(found)


def _needed(asked: Iterable[OpRequest], choices: Sequence[Choice]) -> Iterator[OpRequest]:
    """``asked``, and the parts of composites that were chosen."""
    composed = {choice.request for choice in choices if choice.kernel.provider == COMPOSITE}
    for request in asked:
        yield request
        if request in composed:
            yield from _needed(op_specs()[request.op].parts(request), choices)


def _choose_all(
    spec: OpSpec, wanted: Sequence[OpRequest], kernels: Sequence[Kernel], pin: str | None,
    failed: dict[OpRequest, KernelNotFound],
) -> list[Choice]:  # fmt: skip
    """A choice a request; one kernel for all of them unless the op dispatches. What none serves goes to ``failed``."""
    served = []
    for request in wanted:
        try:
            served.append(choose(request, kernels, pin))
        except KernelNotFound as error:
            failed[request] = error
    if spec.dispatch is not None:
        return served
    return _one_for_all(spec, [choice.request for choice in served], kernels, pin)


def _one_for_all(spec: OpSpec, wanted: Sequence[OpRequest], kernels: Sequence[Kernel], pin: str | None) -> list[Choice]:
    serving_all = [
        kernel
        for kernel in kernels
        if kernel.op == spec.name
        and all(kernel.supports(request) is None for request in wanted)
        and not (kernel.per_request and len(wanted) > 1)
    ]
    if wanted and not serving_all:
        told = "".join(f"\n  {k}: {_refusal(k, wanted)}" for k in kernels if k.op == spec.name)
        raise KernelNotFound(f"no one kernel serves all of {', '.join(map(str, wanted))}:{told}")
    refused = [kernel for kernel in kernels if kernel.op == spec.name and kernel not in serving_all]
    choices = []
    for request in wanted:
        choice = choose(request, serving_all, pin)
        reasons = tuple(Rejected(str(kernel), _refusal(kernel, (request,))) for kernel in refused)
        choices.append(Choice(request, choice.kernel, reasons))
    return choices


def _refusal(kernel: Kernel, requests: Iterable[OpRequest]) -> str:
    """Why a kernel does not serve one of ``requests``, or not all together."""
    reasons = [reason for request in requests if (reason := kernel.supports(request)) is not None]
    return reasons[0] if reasons else "one callable of it does not serve all of the model's calls"


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
    request = OpRequest.of(name, "float32")
    serving = next((kernel for kernel in kernels if kernel.op == name and kernel.supports(request) is None), None)
    if serving is not None:
        setattr(ops, name, serving.make(request, ops))


def _composite_kernel(spec: OpSpec) -> Kernel:
    composite = spec.composite
    assert composite is not None
    return Kernel(
        op=spec.name,
        name=spec.name,
        provider=COMPOSITE,
        level=version.API_VERSION,
        module=__name__,
        when=None,
        maker=lambda _, ops: composite(ops),
    )
