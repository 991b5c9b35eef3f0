"""Binding: from an op's requests to the callables that serve them, with the record of the choice.

Kernels are found once, at load. A bound op is an attribute of :class:`Ops`; calling it costs that
attribute, plus one look-up where an op that dispatches is served by several kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zif.contract import version
from zif.contract.edges import given_forms, takes
from zif.contract.errors import InvalidSettings, KernelNotFound
from zif.contract.form import Form, GivenForm, Resolvers, resolving
from zif.contract.kernels import COMPOSITE, Kernel, KernelSet
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
class KernelChoice:
    """Which kernel serves a request, and which were refused before it."""

    request: OpRequest
    kernel: Kernel
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Bound:
    """The ops a model and core's programs call, how each came to be chosen, and who plans steps.

    ``forms`` has, for each kernel that can give a form, the one it gives. ``plans`` are called with each step before it
    is launched. ``captures`` tell, of a planned kernel each, which steps it may be captured in.
    """

    ops: Ops
    choices: tuple[KernelChoice, ...]
    forms: tuple[GivenForm, ...] = ()
    plans: tuple[Callable[[HostStep], None], ...] = ()
    captures: tuple[Callable[[StepShape], bool], ...] = ()

    @property
    def capturable(self) -> bool:
        """Whether every chosen kernel may run inside a captured graph."""
        return all(choice.kernel.capturable for choice in self.choices)

    def capturable_in(self, shape: StepShape) -> bool:
        """Whether every chosen kernel may run inside a captured graph of a step of this shape."""
        return self.capturable and all(captures(shape) for captures in self.captures)


def choose(request: OpRequest, kernels: Sequence[Kernel], pin: str | None = None) -> KernelChoice:
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
            return KernelChoice(request, kernel, tuple(rejected))
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


def bind(
    requests: Iterable[OpRequest],
    providers: Sequence[KernelSet],
    pins: Mapping[str, str] | None = None,
    resolvers: Resolvers | None = None,
) -> Bound:
    """Bind ops for ``requests`` and for what composites of them ask. ``providers`` come in order of preference.

    An op whose requests have no facts is bound unasked, where a provider has a kernel for it.
    A composite takes part between the providers and the framework reference, which is the last. What it is made of
    must be served only where it is chosen. ``resolvers`` make plain Arrays of forms that come to a model's ops from
    outside of them; what kernels call of each other is called without.
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
    choices: list[KernelChoice] = []
    unasked: list[KernelChoice] = []
    failed: dict[OpRequest, KernelNotFound] = {}
    for name, spec in op_specs().items():
        if name in by_op:
            choices += _choose_all(spec, by_op[name], kernels, pins.get(name), failed)
        elif not spec.facts:
            unasked += _unasked(name, kernels, pins.get(name))
    for request in _needed(asked, choices):
        if request in failed:
            raise failed[request]
    return _made(choices, unasked, resolvers or {})


def _made(choices: Sequence[KernelChoice], unasked: Sequence[KernelChoice], resolvers: Resolvers) -> Bound:
    """The ops of what was chosen."""
    by_op: dict[str, list[KernelChoice]] = {}
    for choice in (*choices, *unasked):
        by_op.setdefault(choice.request.op, []).append(choice)
    serving = {op: list(dict.fromkeys(choice.kernel for choice in chosen)) for op, chosen in by_op.items()}
    given = given_forms(serving, resolvers)
    forms = {kernel: one.form for kernel, one in given.items()}
    inner = Ops()
    outer = Ops() if resolvers else inner
    planners: list[Any] = []
    for op, chosen in by_op.items():
        spec = op_specs()[op]
        made = _callables(chosen, inner, forms, planners)
        setattr(inner, op, _one(spec, chosen, made))
        if resolvers:
            plain = [_resolved(spec, c.kernel, call, serving, resolvers) for c, call in zip(chosen, made, strict=True)]
            setattr(outer, op, getattr(inner, op) if plain == made else _one(spec, chosen, plain))
    captures = [planner.capturable for planner in planners if hasattr(planner, "capturable")]
    plans = tuple(planner.plan for planner in planners)
    return Bound(outer, tuple(choices), tuple(given.values()), plans, tuple(captures))


def _resolved(
    spec: OpSpec,
    kernel: Kernel,
    call: Callable[..., Any],
    serving: Mapping[str, Sequence[Kernel]],
    resolvers: Resolvers,
) -> Callable[..., Any]:
    """``call`` behind the resolvers of forms that it does not take itself."""
    opaque = {place for other in op_specs().values() for place in other.opaque_to}
    for name in [name for name in spec.parameters if f"{spec.name}.{name}" in opaque]:
        needed = {form: resolve for form, resolve in resolvers.items() if not takes(kernel, name, form, serving)}
        if needed:
            call = resolving(call, {name: spec.parameters.index(name)}, needed)
    return call


def _with_parts(requests: Iterable[OpRequest]) -> list[OpRequest]:
    """``requests``, and behind each those of the ops that it is made of."""
    found: dict[OpRequest, None] = {}
    for request in requests:
        found[request] = None
        found |= dict.fromkeys(_with_parts(op_specs()[request.op].parts(request)))
    return list(found)


def _needed(asked: Iterable[OpRequest], choices: Sequence[KernelChoice]) -> Iterator[OpRequest]:
    """``asked``, and the parts of composites that were chosen."""
    composed = {choice.request for choice in choices if choice.kernel.provider == COMPOSITE}
    for request in asked:
        yield request
        if request in composed:
            yield from _needed(op_specs()[request.op].parts(request), choices)


def _choose_all(
    spec: OpSpec, wanted: Sequence[OpRequest], kernels: Sequence[Kernel], pin: str | None,
    failed: dict[OpRequest, KernelNotFound],
) -> list[KernelChoice]:  # fmt: skip
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


def _one_for_all(
    spec: OpSpec, wanted: Sequence[OpRequest], kernels: Sequence[Kernel], pin: str | None
) -> list[KernelChoice]:
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
    choices = []
    for request in wanted:
        choice = choose(request, serving_all, pin)
        before = [kernel for kernel in kernels[: kernels.index(choice.kernel)] if kernel.op == spec.name]
        refused = [kernel for kernel in before if kernel not in serving_all]
        reasons = tuple(Rejected(str(kernel), _refusal(kernel, (request,))) for kernel in refused)
        choices.append(KernelChoice(request, choice.kernel, reasons))
    return choices


def _refusal(kernel: Kernel, requests: Iterable[OpRequest]) -> str:
    """Why a kernel does not serve one of ``requests``, or not all together."""
    reasons = [reason for request in requests if (reason := kernel.supports(request)) is not None]
    return reasons[0] if reasons else "one callable of it does not serve all of the model's calls"


def _callables(
    choices: Sequence[KernelChoice], ops: Ops, forms: Mapping[Kernel, Form | None], planners: list[Any]
) -> list[Callable[..., Any]]:
    """The callable of each choice of an op; those of planned kernels are added to ``planners``."""
    shared: dict[Kernel, Callable[..., Any]] = {}
    made: list[Callable[..., Any]] = []
    for request, kernel in ((choice.request, choice.kernel) for choice in choices):
        form = forms.get(kernel)
        if kernel.per_request:
            made.append(kernel.make(request, ops, form))
        else:
            if kernel not in shared:
                shared[kernel] = kernel.make(request, ops, form)
            made.append(shared[kernel])
        if kernel.planned and made[-1] not in planners:
            planners.append(made[-1])
    return made


def _one(spec: OpSpec, choices: Sequence[KernelChoice], made: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """The op's callable: the only one that was made, or what looks up the one of a call's weight or spec."""
    if spec.dispatch is None or all(fn is made[0] for fn in made):
        return made[0]
    position = spec.parameters.index(spec.dispatch)
    table = {choice.request["key"]: fn for choice, fn in zip(choices, made, strict=True)}
    argument = spec.dispatch

    def dispatched(*args: Any, **kwargs: Any) -> Any:
        chosen = args[position] if position < len(args) else kwargs[argument]
        return table[chosen.dispatch_key](*args, **kwargs)

    return dispatched


def _unasked(name: str, kernels: Sequence[Kernel], pin: str | None) -> Iterator[KernelChoice]:
    request = OpRequest.of(name, "float32")
    for kernel in kernels:
        allowed = pin is None or pin in (str(kernel), kernel.provider)
        if kernel.op == name and allowed and kernel.supports(request) is None:
            yield KernelChoice(request, kernel, ())
            return


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
        maker=lambda _, ops, __: composite(ops),
    )
