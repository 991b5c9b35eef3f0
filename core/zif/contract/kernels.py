"""Kernels: implementations of ops, and what each says about itself.

An author writes a class::

    class AcmeKernels(KernelSet):
        provider = "acme"
        level = 1

        @kernel("rms_norm", when=dtypes("bfloat16", "float16"))
        def rms_norm(self, x, weight, eps, offset=0.0):
            return self.lib.rms_norm(x, weight, eps, offset)

        @kernel("paged_attention", makes=True, when=_head_size_fits)
        def paged_attention(self, request, ops):
            plan = self.lib.plan(request["head_dim"])
            def run(q, cache, layer, step, spec): ...
            return run

``level`` is the version of the plugin API that the class was written for, a number that its author raises when they
have read what is new (:mod:`zif.contract.level`): methods have the parameters that ops had at that level.

``ops`` are the ops bound together with this one, for kernels that build on others; they are complete
only once binding is over, so look them up in the call (``ops.linear``), not before. Names and
parameters are checked when the class is defined.

Between kernels a value may have a form of their own (:mod:`zif.contract.form`)::

    @kernel("add_norm", makes=True, shared=True, gives=(INT8,))
    def add_norm(self, request, ops, form): ...  # form is INT8, or None: give an Array

    @kernel("linear", takes={"x": (INT8,)})
    def linear(self, x, w, step=None): ...  # x is an Array, or of that form

A kernel that is ``planned`` makes callables with a method ``plan(step: HostStep)``. Core calls it before
each run of a program with that step's shape, in the order of launching: it lays out on the host what the
kernel then reads besides its arguments. It must not wait for the device. A callable that meets a
step which nobody planned has to do so itself, whatever that costs.

Such a callable may serve some steps by its plan and others without one. Where only the latter may run inside a captured
graph, the kernel is ``capturable``, and the callable has a method ``capturable(shape: StepShape) -> bool`` that tells
them apart: pure, and known to its ``plan`` too, which has nothing to do for a step that is captured.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from zif.contract import version
from zif.contract.cost import Cost, CostOf, OpCall
from zif.contract.errors import PluginError, ZifError
from zif.contract.form import Form
from zif.contract.info import BACKENDS, EXTENSIONS
from zif.contract.level import Trimmed
from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops

COMPOSITE = "composite"
"""The provider of ops that are made of others."""

F = TypeVar("F", bound=Callable[..., Any])
Refusal = str
When = Callable[[Any, OpRequest], Refusal | None]
"""(the kernel set, the request) -> None to serve it, or one sentence why not."""


@dataclass(frozen=True)
class Kernel:
    """One implementation of one op, written for ``level`` in ``module``.

    ``when(request)`` is None or says why not; ``maker(request, ops, form)`` gives the callable. Core asks
    :meth:`supports` and :meth:`make`, which guard both. ``capturable``: may run inside a captured graph (no host
    synchronisation, no allocation outside the graph's pool). ``deterministic``: the same inputs give the same bits.
    ``per_request``: what is made serves its request alone; otherwise one callable serves every request that the kernel
    supports. ``planned``: what is made has a method ``plan``. ``cost``: of a call, where the op's own estimate
    (``OpSpec.cost``) does not hold. ``gives``: forms that its first result may have, best
    first; ``takes``: forms that its parameters may have, besides plain Arrays.
    """

    op: str
    name: str
    provider: str
    level: int
    module: str
    when: Callable[[OpRequest], Refusal | None] | None
    maker: Callable[[OpRequest, Ops, Form | None], Callable[..., Any]]
    per_request: bool = False
    capturable: bool = True
    deterministic: bool = True
    cost: CostOf | None = None
    planned: bool = False
    gives: tuple[Form, ...] = ()
    takes: Mapping[str, tuple[Form, ...]] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.provider}.{self.name}"

    def supports(self, request: OpRequest) -> Refusal | None:
        """None to serve ``request``, or one sentence why not: what is newer than the kernel, else its own.

        Raises PluginError where its ``when`` raises, or answers neither None nor a sentence.
        """
        newer = op_specs()[self.op].newer(request, self.level)
        if newer is not None:
            return f"was written for level {self.level} of the contract, and {newer}"
        if self.when is None:
            return None
        answer: object = self._guarded("when", self.when, request)
        if answer is None or (isinstance(answer, str) and answer.strip()):
            return answer
        raise self.fault(f"`when` answered {answer!r}, not None or a sentence", request)

    def make(self, request: OpRequest, ops: Ops, form: Form | None = None) -> Callable[..., Any]:
        """The callable that serves ``request`` and gives ``form``, or plain Arrays for None.

        It is called without the arguments that the kernel's level does not know.
        Raises PluginError where its maker raises, or returns what cannot be called.
        """
        made: object = self._guarded("make", self.maker, request, ops, form)
        if not callable(made):
            raise self.fault(f"made {made!r}, which cannot be called", request)
        spec = op_specs()[self.op]
        known = len(spec.parameters_at(self.level))
        return made if known == len(spec.parameters) else Trimmed(made, spec.parameters, known)

    def _guarded(self, what: str, call: Callable[..., Any], request: OpRequest, *others: Any) -> Any:
        try:
            return call(request, *others)
        except ZifError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())
            raise self.fault(f"`{what}` raised {type(error).__name__}: {said}", request) from error

    def fault(self, what: str, request: OpRequest) -> PluginError:
        """The error that says ``what`` it did wrong, serving ``request``; names its distribution."""
        owner = _distribution(self.module)
        facts = ", ".join(fact.name for fact in op_specs()[self.op].facts) or "none"
        return PluginError(
            f"kernel {self} of {owner}, asked for {request}: {what} ({self.op} has facts: {facts})", owner
        )


def _distribution(module: str) -> str:
    """The installed distribution that a module is of, as well as can be found out."""
    package = module.partition(".")[0]
    points = importlib.metadata.entry_points
    for point in (*points(group=BACKENDS), *points(group=EXTENSIONS)):
        if point.module.partition(".")[0] == package and point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return ", ".join(importlib.metadata.packages_distributions().get(package, [module]))


@dataclass(frozen=True)
class _Mark:
    op: str
    when: When | None
    makes: bool
    capturable: bool
    deterministic: bool
    cost: Callable[[Any, OpCall], Cost] | None
    planned: bool
    shared: bool
    gives: tuple[Form, ...]
    takes: Mapping[str, tuple[Form, ...]]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Of a method that makes."""
        return ("request", "ops", "form") if self.gives else ("request", "ops")


def kernel(
    op: str,
    *,
    when: When | None = None,
    makes: bool = False,
    capturable: bool = True,
    deterministic: bool = True,
    cost: Callable[[Any, OpCall], Cost] | None = None,
    planned: bool = False,
    shared: bool = False,
    gives: tuple[Form, ...] = (),
    takes: Mapping[str, tuple[Form, ...]] | None = None,
) -> Callable[[F], F]:
    """Mark a method of a :class:`KernelSet` as a kernel of ``op``.

    The method has the op's own parameters; with ``makes`` it has ``request`` and ``ops``, and returns
    a callable that has the op's: one a request, or with ``shared`` one for all of them, made for the first. Only what
    ``makes`` can be ``planned``, or give a form: it then has a parameter ``form`` too, the one to give or None.
    """
    assert makes or not (planned or shared or gives), f"a kernel of {op} that plans or gives must make its callables"

    def mark(method: F) -> F:
        method.__zif_kernel__ = _Mark(  # type: ignore[attr-defined]
            op, when, makes, capturable, deterministic, cost, planned, shared, gives, takes or {}
        )
        return method

    return mark


class KernelSet:
    """A provider's kernels, in the order in which it prefers them (that of definition).

    A class that defines kernels states its ``level``; those that it inherits keep the level of theirs.
    """

    provider: ClassVar[str]
    level: ClassVar[int]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        marks = {name: _mark_of(method) for name, method in vars(cls).items()}
        if any(marks.values()):
            _check_level(cls)
        for name, mark in marks.items():
            if mark is not None:
                _check(cls, name, vars(cls)[name], mark)

    def kernels(self) -> Iterator[Kernel]:
        """Every kernel of the set, base classes' after the class's own."""
        assert hasattr(self, "provider"), f"{type(self).__name__} does not say its provider"
        seen: set[str] = set()
        for cls in type(self).__mro__:
            for name, method in vars(cls).items():
                mark = _mark_of(method)
                if mark is None or name in seen:
                    continue
                seen.add(name)
                yield self._kernel(name, mark, cls)

    def _kernel(self, name: str, mark: _Mark, cls: Any) -> Kernel:
        method = getattr(self, name)
        when, cost = mark.when, mark.cost

        def maker(request: OpRequest, ops: Ops, form: Form | None) -> Any:
            if not mark.makes:
                return method
            return method(request, ops, form) if mark.gives else method(request, ops)

        return Kernel(
            op=mark.op,
            name=name,
            provider=self.provider,
            level=cls.level,
            module=cls.__module__,
            when=None if when is None else lambda request: when(self, request),
            maker=maker,
            per_request=mark.makes and not mark.shared,
            capturable=mark.capturable,
            deterministic=mark.deterministic,
            cost=None if cost is None else lambda call: cost(self, call),
            planned=mark.planned,
            gives=mark.gives,
            takes=mark.takes,
        )


def dtypes(*names: str) -> When:
    """``when=`` for kernels that serve these activation dtypes only."""

    def when(_: Any, request: OpRequest) -> Refusal | None:
        return None if request.dtype in names else f"takes {' or '.join(names)}, not {request.dtype}"

    return when


def _opaque_places() -> set[str]:
    """Every ``op.parameter`` that may get an opaque value."""
    return {place for spec in op_specs().values() for place in spec.opaque_to}


def _mark_of(method: object) -> _Mark | None:
    mark: _Mark | None = getattr(method, "__zif_kernel__", None)
    return mark


def _check_level(cls: Any) -> None:
    where, level = f"{cls.__module__}.{cls.__qualname__}", vars(cls).get("level")
    if level is None:
        raise TypeError(
            f"{where}: a kernel set states the version of the plugin API that it was written for: "
            f"`level = {version.API_VERSION}` is this zif's"
        )
    if type(level) is not int or not level >= 1:
        raise TypeError(f"{where}: its level is {level!r}, not a version of the plugin API")
    if level > version.API_VERSION:
        raise TypeError(
            f"{where}: it was written for level {level}, and this zif's is {version.API_VERSION}: upgrade zif"
        )


def _check(cls: Any, name: str, method: Callable[..., Any], mark: _Mark) -> None:
    where = f"{cls.__module__}.{cls.__qualname__}.{name}"
    spec = op_specs().get(mark.op)
    if spec is None:
        raise TypeError(f"{where}: the contract has no op {mark.op!r}; it has {', '.join(sorted(op_specs()))}")
    if spec.since > cls.level:
        raise TypeError(f"{where}: op {mark.op} came with level {spec.since}, and the set says level {cls.level}")
    if mark.gives and not spec.opaque_to:
        raise TypeError(f"{where}: a result of {mark.op} is never opaque: it is an Array")
    strange = [name for name in mark.takes if f"{mark.op}.{name}" not in _opaque_places()]
    if strange:
        raise TypeError(f"{where}: {', '.join(strange)} of {mark.op} is never opaque: it is an Array")
    expected = mark.parameters if mark.makes else spec.parameters_at(cls.level)
    found = tuple(inspect.signature(method).parameters)[1:]
    if found != expected:
        raise TypeError(f"{where}: a level-{cls.level} kernel of {mark.op} has parameters {expected}, not {found}")
