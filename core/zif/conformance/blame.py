"""Whose fault it is that a law of the engine is broken: parts of the backend are replaced until it heals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zif.conformance import variants
from zif.conformance.bench import Bench
from zif.contract.arrays import Tree
from zif.contract.backend import Backend
from zif.contract.kernels import COMPOSITE, KernelSet
from zif.contract.ops import op_specs
from zif.contract.ops.draw import numpy_dtype
from zif.contract.weights import HostArray
from zif.reference.packing import DensePacker

logger = logging.getLogger(__name__)


class Blame:
    """Finds suspects on one backend; remembers them, for laws that break together."""

    def __init__(self, backend: Backend, providers: Sequence[KernelSet]) -> None:
        self._backend = backend
        *own, reference = providers
        composites = {name for name, spec in op_specs().items() if spec.composite is not None}
        replacements = dict.fromkeys(composites, COMPOSITE) | {k.op: str(k) for k in reference.kernels()}
        ops = {kernel.op for provider in own for kernel in provider.kernels()}
        self._pins = {op: pin for op, pin in replacements.items() if op in ops}
        self._known: list[tuple[str, Callable[[Any], Any]]] = []

    def of(self, law: Callable[[Any], str | None], bench: Bench) -> str:
        """The part of the backend whose replacement heals ``law`` on ``bench``; or that none does."""
        logger.info("looking for whose fault it is")

        def heals(change: Callable[[Any], Any]) -> bool:
            try:
                return law(change(bench)) is None
            except Exception as error:
                logger.debug("with parts replaced: %r", error)
                return False

        for name, change in (*self._known, *self._parts(bench, heals)):
            if heals(change):
                if (name, change) not in self._known:
                    self._known.insert(0, (name, change))
                return name
        return "none of its kernels, its packer and its executables alone: its runtime, or core"

    def _parts(
        self, bench: Bench, heals: Callable[[Callable[[Any], Any]], bool]
    ) -> Iterable[tuple[str, Callable[[Any], Any]]]:
        """(name, what replaces it), the likeliest first."""
        if self._pins and heals(_pinned(self._pins)):
            pins = _fewest(self._pins, lambda pins: heals(_pinned(pins)))
            bound = bench.engine().runner.bound.choices
            kernels = {c.request.op: str(c.kernel) for c in bound if c.kernel.provider != COMPOSITE}
            yield ", ".join(kernels.get(op, f"the kernel of {op}") for op in pins), _pinned(pins)
        yield "executables", lambda bench: bench.but(backend=variants.eager(bench.backend))
        plain = variants.Variant(self._backend, packer=PlainPacker(self._backend))
        yield "packer", lambda bench: bench.but(backend=plain)
        yield "packer, and the kernels of its formats", lambda bench: bench.but(backend=plain, kernel=self._pins)


def _pinned(pins: Mapping[str, str]) -> Callable[[Any], Any]:
    return lambda bench: bench.but(kernel={**bench.kernel, **pins})


def _fewest(pins: Mapping[str, str], heals: Callable[[Mapping[str, str]], bool]) -> Mapping[str, str]:
    """As few of ``pins`` as heal together: parts are left out, halves first, as long as the rest does."""
    kept = list(pins)
    size = len(kept)
    while size > 1 or (size == 1 and len(kept) > 1):
        size = max(1, size // 2)
        for start in range(0, len(kept), size):
            fewer = [op for op in kept if op not in kept[start : start + size]]
            if fewer and heals({op: pins[op] for op in fewer}):
                kept = fewer
                break
        else:
            if size == 1:
                break
            continue
        size = len(kept)
    return {op: pins[op] for op in kept}


class PlainPacker(DensePacker):
    """Weights as a checkpoint has them, put on the device of any backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def rows(self, parts: Iterable[HostArray], shape: tuple[int, ...], dtype: str) -> Any:
        joined = np.concatenate([np.asarray(part, numpy_dtype(dtype)) for part in parts])
        return self._backend.runtime.put(joined.reshape(shape))

    def stack(self, layers: Sequence[Tree]) -> Tree:
        return self._backend.packer.stack(layers)
