"""Op specifications: what each op means, apart from any kernel.

An op is a numpy function in float64 (or exact integers). The function *is* the specification: its
name, its signature, its docstring and its result::

    @op(profile="llm", tolerances=ELEMENTWISE, cases=_cases)
    def rms_norm(x, weight, eps, offset=0.0):
        '''y = x / sqrt(mean(x^2) + eps) * (offset + weight) ...'''

Kernels take the same parameters by the same names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from zif.contract.cost import CostOf, traffic
from zif.contract.level import newer_field

Profile = Literal["array", "llm", "moe", "mla"]
"""Sets of ops that a backend claims. ``array`` is asked of all, and a framework reference gives it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of an op's requests: its name and what it says.

    ``since`` is the level that added it, ``neutral`` the value with which it changes nothing, which a request that
    does not name it has. ``values``: the words that it may be, where there are few, each with the level that added it.
    """

    name: str
    meaning: str
    since: int = 1
    neutral: Hashable = None
    values: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class OpRequest:
    """What is known at load of the calls that a kernel will get. Hashable.

    ``dtype`` is the activations'. ``facts`` are those that the op declares: sizes, the weight's format, the cache
    group's geometry.
    """

    op: str
    dtype: str
    facts: tuple[tuple[str, Hashable], ...] = ()

    @classmethod
    def of(cls, op: str, dtype: str, **facts: Hashable) -> OpRequest:
        return cls(op, dtype, tuple(sorted(facts.items())))

    def __getitem__(self, fact: str) -> Any:
        """Its value. KeyError for a fact that the op does not declare; it names those that there are."""
        for name, value in self.facts:
            if name == fact:
                return value
        declared = REGISTRY[self.op].facts if self.op in REGISTRY else ()
        for one in declared:
            if one.name == fact and one.since > REGISTRY[self.op].since:
                return one.neutral
        raise KeyError(f"op {self.op}: the request has no fact {fact!r}, only {[name for name, _ in self.facts]}")

    def __contains__(self, fact: object) -> bool:
        return any(name == fact for name, _ in self.facts)

    def but(self, **facts: Hashable) -> OpRequest:
        """The same request with other facts."""
        return OpRequest.of(self.op, self.dtype, **{**dict(self.facts), **facts})

    def as_of(self, op: str, *without: str) -> OpRequest:
        """The request that another op gets with the same facts, ``without`` some of them."""
        return OpRequest(op, self.dtype, tuple(fact for fact in self.facts if fact[0] not in without))

    def __str__(self) -> str:
        inner = ", ".join(f"{name}={value}" for name, value in self.facts)
        return f"{self.op}[{self.dtype}{', ' if inner else ''}{inner}]"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """``|out - ref| <= atol + rtol * |ref|``, elementwise, against the float64 reference."""

    rtol: float
    atol: float


@dataclass(frozen=True)
class OpCase:
    """One conformance case: a request, and the arguments for it as numpy trees, made from a seed.

    Floating arrays among ``arguments`` are float64 that the request's dtype can represent.
    """

    label: str
    request: OpRequest
    arguments: Mapping[str, Any]


CaseGenerator = Callable[[np.random.Generator, str], Iterator[OpCase]]
Parts = Callable[[OpRequest], Sequence[OpRequest]]
"""The requests that a composite, or a kernel, makes of other ops when it gets one."""


def _no_parts(_: OpRequest) -> Sequence[OpRequest]:
    return ()


@dataclass(frozen=True)
class OpSpec:
    """An op of the contract.

    ``reference``: numpy, float64. ``since``: the level that added it. ``added``: parameters that later levels added,
    each with its level; they are hints, at the end, with a default. ``facts``: what a request of it says.
    ``cases(rng, dtype)``: inputs that conformance runs every kernel on. ``composite(ops)``: the op in terms of
    others, framework-neutral, or None for a primitive; ``parts(request)`` are its requests of those that need one,
    or those that kernels of a primitive may make.
    ``dispatch``: names the argument whose request picks among several kernels bound for this op
    (``w`` of ``linear``); None where one kernel must serve all of a model's requests.
    ``static``: parameters that are hashable constants, never Arrays. ``cost``: what a call costs by a kernel that does
    not say so itself.
    ``opaque_to``: the parameters, as ``op.parameter``, that its first result may go to in a form of the kernels' own
    (:mod:`zif.contract.form`); anywhere else it is an Array. ``passes``: parameters that the composite passes on
    unchanged, each with the ``op.parameter`` that it goes to.
    """

    name: str
    reference: Callable[..., Any]
    profile: Profile
    since: int = 1
    added: Mapping[str, int] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    cases: CaseGenerator | None = None
    composite: Callable[[Any], Callable[..., Any]] | None = None
    parts: Parts = _no_parts
    dispatch: str | None = None
    static: tuple[str, ...] = ()
    opaque_to: tuple[str, ...] = ()
    passes: Mapping[str, str] = field(default_factory=dict)
    cost: CostOf = traffic
    parameters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        signature = inspect.signature(self.reference).parameters
        object.__setattr__(self, "parameters", tuple(signature))
        assert inspect.getdoc(self.reference), f"op {self.name} has no docstring"
        named = (*self.static, *self.added, *self.passes, *([self.dispatch] if self.dispatch else []))
        strange = [name for name in named if name not in signature]
        assert not strange, f"op {self.name} has no parameter {strange}"
        levels = [self.added.get(name, self.since) for name in signature]
        assert levels == sorted(levels), f"op {self.name}: parameters that were added come last, by level"
        hard = [name for name in self.added if signature[name].default is inspect.Parameter.empty]
        assert not hard, f"op {self.name}: {hard} were added, and have no default"

    def parameters_at(self, level: int) -> tuple[str, ...]:
        """Those that a kernel of ``level`` has."""
        return tuple(name for name in self.parameters if self.added.get(name, self.since) <= level)

    def newer(self, request: OpRequest, level: int) -> str | None:
        """What of ``request`` a kernel of ``level`` cannot know and would get wrong, as a clause, or None."""
        declared = {fact.name: fact for fact in self.facts}
        for name, value in request.facts:
            fact = declared[name]
            if fact.since > level and value != fact.neutral:
                return f"{fact.name} = {value!r} came with level {fact.since}"
            since = fact.values.get(str(value), 1) if fact.values is not None else 1
            if since > level:
                return f"{fact.name} = {value!r} came with level {since}"
            if (found := newer_field(value, level)) is not None:
                return found
        return None

    def check(self, request: OpRequest) -> None:
        """Raise ValueError where ``request`` has other facts than the op declares, or other words for one."""
        declared, given = {fact.name: fact for fact in self.facts}, dict(request.facts)
        strange = sorted(given.keys() - declared.keys())
        missing = [name for name, fact in declared.items() if fact.since <= self.since and name not in given]
        if strange or missing:
            raise ValueError(
                f"{request}: facts {strange} are not declared, {missing} are missing; it has {[*declared]}"
            )
        for name, value in given.items():
            words = declared[name].values
            if words is not None and value not in words:
                raise ValueError(f"{request}: {name} is one of {', '.join(words)}, not {value!r}")


REGISTRY: dict[str, OpSpec] = {}
"""Every op that :func:`op` has registered, by name; :func:`zif.contract.ops.op_specs` has them all."""


def op(
    *,
    profile: Profile,
    since: int = 1,
    added: Mapping[str, int] | None = None,
    facts: tuple[Fact, ...] = (),
    tolerances: Mapping[str, Tolerance] | None = None,
    cases: CaseGenerator | None = None,
    composite: Callable[[Any], Callable[..., Any]] | None = None,
    parts: Parts = _no_parts,
    dispatch: str | None = None,
    static: tuple[str, ...] = (),
    opaque_to: tuple[str, ...] = (),
    passes: Mapping[str, str] | None = None,
    cost: CostOf = traffic,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a numpy function the specification of the op of its name; see :class:`OpSpec`."""

    def register(reference: Callable[..., Any]) -> Callable[..., Any]:
        name = reference.__name__
        assert name not in REGISTRY, f"op {name} is specified twice"
        REGISTRY[name] = OpSpec(
            name=name,
            reference=reference,
            profile=profile,
            since=since,
            added=added or {},
            facts=facts,
            tolerances=tolerances or {},
            cases=cases,
            composite=composite,
            parts=parts,
            dispatch=dispatch,
            static=static,
            opaque_to=opaque_to,
            passes=passes or {},
            cost=cost,
        )
        return reference

    return register
