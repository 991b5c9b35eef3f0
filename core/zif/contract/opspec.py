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
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Profile = Literal["array", "llm", "moe", "mla"]
"""Sets of ops that a backend claims. ``array`` is asked of all, and a framework reference gives it."""


@dataclass(frozen=True, slots=True)
class OpRequest:
    """What is known at load of the calls that a kernel will get. Hashable.

    ``dtype`` is the activations'. ``facts`` are op-specific (each op's ``facts`` table names them):
    sizes, the weight's format, the cache group's geometry, ``batch_invariant``.
    """

    op: str
    dtype: str
    facts: tuple[tuple[str, Hashable], ...] = ()

    @classmethod
    def of(cls, op: str, dtype: str, **facts: Hashable) -> OpRequest:
        return cls(op, dtype, tuple(sorted(facts.items())))

    def __getitem__(self, fact: str) -> Any:
        for name, value in self.facts:
            if name == fact:
                return value
        raise KeyError(f"op {self.op}: the request has no fact {fact!r}, only {[name for name, _ in self.facts]}")

    def get(self, fact: str, default: Any = None) -> Any:
        return next((value for name, value in self.facts if name == fact), default)

    def but(self, **facts: Hashable) -> OpRequest:
        """The same request with other facts."""
        return OpRequest.of(self.op, self.dtype, **{**dict(self.facts), **facts})

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


@dataclass(frozen=True)
class OpSpec:
    """An op of the contract.

    ``reference``: numpy, float64. ``cases(rng, dtype)``: inputs that conformance runs every kernel
    on. ``composite(ops)``: the op in terms of others, framework-neutral, or None for a primitive.
    ``dispatch``: names the argument whose request picks among several kernels bound for this op
    (``w`` of ``linear``); None where one kernel must serve all of a model's requests.
    ``static``: parameters that are hashable constants, never Arrays.
    """

    name: str
    reference: Callable[..., Any]
    profile: Profile
    since: int
    tolerances: Mapping[str, Tolerance]
    cases: CaseGenerator | None
    composite: Callable[[Any], Callable[..., Any]] | None
    dispatch: str | None
    static: tuple[str, ...]
    parameters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(inspect.signature(self.reference).parameters))

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.reference) or ""


REGISTRY: dict[str, OpSpec] = {}
"""Every op that :func:`op` has registered, by name; :func:`zif.contract.ops.op_specs` has them all."""


def op(
    *,
    profile: Profile,
    since: int = 1,
    tolerances: Mapping[str, Tolerance] | None = None,
    cases: CaseGenerator | None = None,
    composite: Callable[[Any], Callable[..., Any]] | None = None,
    dispatch: str | None = None,
    static: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a numpy function the specification of the op of its name."""

    def register(reference: Callable[..., Any]) -> Callable[..., Any]:
        name = reference.__name__
        assert name not in REGISTRY, f"op {name} is specified twice"
        assert inspect.getdoc(reference), f"op {name} has no docstring"
        spec = OpSpec(name, reference, profile, since, tolerances or {}, cases, composite, dispatch, static)
        strange = [p for p in (*static, *([dispatch] if dispatch else [])) if p not in spec.parameters]
        assert not strange, f"op {name} has no parameter {strange}"
        REGISTRY[name] = spec
        return reference

    return register
