"""Kernels: implementations of ops, and what each says about itself.

An author writes a class::

    class AcmeKernels(KernelSet):
        provider = "acme"

        @kernel("rms_norm", when=dtypes("bfloat16", "float16"))
        def rms_norm(self, x, weight, eps, offset=0.0):
            return self.lib.rms_norm(x, weight, eps, offset)

        @kernel("paged_attention", makes=True, when=_head_size_fits)
        def paged_attention(self, request, ops):
            plan = self.lib.plan(request["head_dim"])
            def run(q, cache, layer, step, spec): ...
            return run

``ops`` are the ops bound together with this one, for kernels that build on others; they are complete
only once binding is over, so look them up in the call (``ops.linear``), not before. Names and
parameters are checked when the class is defined.

A kernel that is ``planned`` makes callables with a method ``plan(step: HostStep)``. Core calls it before
each run of a program with that step's shape, in the order of launching: it lays out on the host what the
kernel then reads besides its arguments. It must not wait for the device. A callable that meets a
step which nobody planned has to do so itself, whatever that costs.

Such a callable may serve some steps by its plan and others without one. Where only the latter may run inside a captured
graph, the kernel is ``capturable``, and the callable has a method ``capturable(shape: StepShape) -> bool`` that tells
them apart: pure, and known to its ``plan`` too, which has nothing to do for a step that is captured.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops

F = TypeVar("F", bound=Callable[..., Any])
Refusal = str
When = Callable[[Any, OpRequest], Refusal | None]
"""(the kernel set, the request) -> None to serve it, or one sentence why not."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call moves and computes: bytes through device memory, floating-point operations."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Kernel:
    """One implementation of one op.

    ``make(request, ops)`` gives the callable; it is called once, at load. ``capturable``: may run inside
    a captured graph (no host synchronisation, no allocation outside the graph's pool).
    ``deterministic``: the same inputs give the same bits. ``per_request``: what ``make`` gives serves
    its request alone; otherwise one callable serves every request that the kernel supports.
    ``planned``: what ``make`` gives has a method ``plan``.
    """

    op: str
    name: str
    provider: str
    supports: Callable[[OpRequest], Refusal | None]
    make: Callable[[OpRequest, Ops], Callable[..., Any]]
    per_request: bool = False
    capturable: bool = True
    deterministic: bool = True
    cost: Callable[[OpRequest], Cost] | None = None
    planned: bool = False

    def __str__(self) -> str:
        return f"{self.provider}.{self.name}"


@dataclass(frozen=True)
class _Mark:
    op: str
    when: When | None
    makes: bool
    capturable: bool
    deterministic: bool
    cost: Callable[[Any, OpRequest], Cost] | None
    planned: bool


def kernel(
    op: str,
    *,
    when: When | None = None,
    makes: bool = False,
    capturable: bool = True,
    deterministic: bool = True,
    cost: Callable[[Any, OpRequest], Cost] | None = None,
    planned: bool = False,
) -> Callable[[F], F]:
    """Mark a method of a :class:`KernelSet` as a kernel of ``op``.

    The method has the op's own parameters; with ``makes`` it has ``request`` and ``ops``, and returns
    a callable that has the op's. Only what ``makes`` can be ``planned``.
    """
    assert makes or not planned, f"a kernel of {op} that plans must make its callables"

    def mark(method: F) -> F:
        method.__zif_kernel__ = _Mark(op, when, makes, capturable, deterministic, cost, planned)  # type: ignore[attr-defined]
        return method

    return mark


class KernelSet:
    """A provider's kernels, in the order in which it prefers them (that of definition)."""

    provider: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in vars(cls).items():
            mark = getattr(method, "__zif_kernel__", None)
            if mark is not None:
                _check(cls, name, method, mark)

    def kernels(self) -> Iterator[Kernel]:
        """Every kernel of the set, base classes' after the class's own."""
        assert hasattr(self, "provider"), f"{type(self).__name__} does not say its provider"
        seen: set[str] = set()
        for cls in type(self).__mro__:
            for name, method in vars(cls).items():
                mark = getattr(method, "__zif_kernel__", None)
                if mark is None or name in seen:
                    continue
                seen.add(name)
                yield self._kernel(name, mark)

    def _kernel(self, name: str, mark: _Mark) -> Kernel:
        method = getattr(self, name)

        def supports(request: OpRequest) -> Refusal | None:
            return mark.when(self, request) if mark.when is not None else None

        def make(request: OpRequest, ops: Ops) -> Callable[..., Any]:
            made: Callable[..., Any] = method(request, ops) if mark.makes else method
            return made

        cost = None if mark.cost is None else (lambda request: mark.cost(self, request))  # type: ignore[misc]
        return Kernel(
            mark.op, name, self.provider, supports, make, mark.makes, mark.capturable, mark.deterministic, cost,
            mark.planned,
        )  # fmt: skip


def dtypes(*names: str) -> When:
    """``when=`` for kernels that serve these activation dtypes only."""

    def when(_: Any, request: OpRequest) -> Refusal | None:
        return None if request.dtype in names else f"takes {' or '.join(names)}, not {request.dtype}"

    return when


def _check(cls: type, name: str, method: Callable[..., Any], mark: _Mark) -> None:
    where = f"{cls.__module__}.{cls.__qualname__}.{name}"
    spec = op_specs().get(mark.op)
    if spec is None:
        raise TypeError(f"{where}: the contract has no op {mark.op!r}; it has {', '.join(sorted(op_specs()))}")
    expected = ("request", "ops") if mark.makes else spec.parameters
    found = tuple(inspect.signature(method).parameters)[1:]
    if found != expected:
        raise TypeError(f"{where}: kernel of {mark.op} must have parameters {expected}, not {found}")
