"""Backends with a bug: the torch reference, and before it a kernel that has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from zif.conformance.results import Recorder, Report
from zif.conformance.runner import check_backend
from zif.contract.backend import Capabilities
from zif.contract.binding import bind
from zif.contract.kernels import KernelSet, kernel
from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest
from zif.reference.torch import TorchBackend, TorchReference, TorchRuntime

REFERENCE = TorchReference()
_OPS = bind([OpRequest.of("gated_activation", "float32", size=32, kind="silu")], [REFERENCE]).ops
ORIGINAL = {k.op: k.make(OpRequest.of(k.op, "float32"), _OPS) for k in REFERENCE.kernels()}
CAPABILITIES = Capabilities(dtypes=("float32",), asynchronous=False)
PROFILES = ("llm", "moe", "mla")


def report_on(backend: Any, only: str) -> Report:
    recorder = Recorder([only])
    check_backend(backend, PROFILES, recorder)
    return Report("mutant", "tests", recorder.results)


class Mutated(TorchBackend):
    """The torch reference, and before it a kernel with a bug."""

    capabilities = CAPABILITIES

    def __init__(self, op: str | None = None, mutant: Callable[..., Any] | None = None) -> None:
        super().__init__(TorchRuntime())
        self._mutant = None if op is None else as_kernels(op, mutant)

    def kernels(self) -> Any:
        return (REFERENCE,) if self._mutant is None else (self._mutant, REFERENCE)


def as_kernels(op: str, mutant: Any) -> KernelSet:
    parameters = ", ".join(op_specs()[op].parameters)
    scope: dict[str, Any] = {"mutant": mutant}
    exec(f"def method(self, {parameters}): return mutant({parameters})", scope)
    method = kernel(op)(scope["method"])
    made: KernelSet = type("Mutant", (KernelSet,), {"provider": "mutant", "level": 1, op: method})()
    return made


def expect(op: str, **changes: Callable[[Any], Any]) -> Callable[..., Any]:
    """The original kernel, given changed arguments."""
    parameters = op_specs()[op].parameters

    def mutant(*arguments: Any) -> Any:
        named = dict(zip(parameters, arguments, strict=True))
        return ORIGINAL[op](
            **{name: changes[name](value) if name in changes else value for name, value in named.items()}
        )

    return mutant


def result(op: str, change: Callable[[Any], Any]) -> Callable[..., Any]:
    """The original kernel, its result changed."""
    return lambda *arguments: change(ORIGINAL[op](*arguments))


def spec(**changes: Any) -> Callable[[Any], Any]:
    """Changes an attention spec; a callable is given the spec, and a window only where there is one."""

    def change(old: Any) -> Any:
        values = {name: value(old) if callable(value) else value for name, value in changes.items()}
        return replace(old, **{name: value for name, value in values.items() if getattr(old, name) is not None})

    return change
