"""Executables: a program compiled for fixed shapes, and the buffers its inputs are staged in.

This is a backend's graph-capture strategy, and it knows nothing of steps: captured graphs, ``jax.jit``
and eager calls look alike from here. A program is a function::

    fn(inputs: dict[str, Array], resident: dict[str, Tree]) -> (outputs, resident updates)

``inputs`` were staged. ``resident`` trees live on the device between runs (weights,
request table, cache store); those named in ``donate`` are consumed and come back in the updates,
on frameworks that mutate in place as the same arrays. The updates are exactly the donated names, and
no Array occurs twice in them. A run that raises has lost what it was donated: the engine ends.

Staged inputs and outputs are at most 32 bits wide (JAX has no wider integers by default).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.step import StepShape

Program = Callable[[dict[str, Any], dict[str, Tree]], tuple[dict[str, Any], dict[str, Tree]]]
Staged = Mapping[str, Any]
"""Host arrays, or Arrays that an executable of the same backend put out."""


@dataclass(frozen=True, slots=True)
class ProgramFacts:
    """What core says of a program, for a backend that treats some programs unlike others.

    ``step``: the padded sizes of the step that it runs the model over; None where it runs no model.
    ``repeated``: a short helper program whose inputs all come from the host, run before many steps.
    ``capturable``: every kernel in it may run inside a captured graph.
    """

    step: StepShape | None = None
    repeated: bool = False
    capturable: bool = True


NO_FACTS = ProgramFacts()

Slot = Any
"""Inputs of one run, staged; opaque to core. It is retired when its run has completed."""


class Executable(Protocol):
    """A compiled program. Runs of one backend complete in the order in which they were launched."""

    @property
    def name(self) -> str: ...

    @property
    def memory_bytes(self) -> int:
        """Device bytes of its buffers and captured graphs."""
        ...

    def stage(self, inputs: Staged) -> Slot:
        """Copy inputs of exactly the declared shapes into buffers of the executable's own.

        The caller may overwrite host arrays as soon as this returns: an alias is not a copy. Another
        executable's output is read in launch order. Buffers form a ring; a slot is run once, and is
        reused only after that run has completed, for which this waits if it must.
        """
        ...

    def run(self, slot: Slot, resident: Mapping[str, Tree]) -> tuple[dict[str, Any], dict[str, Tree]]:
        """Launch; returns (outputs, updates of the donated residents) without waiting for them.

        Outputs are overwritten by the next run of this executable: fetch them before it.
        """
        ...


class Fetch(Protocol):
    """Device arrays on their way to the host."""

    def ready(self) -> bool: ...

    def wait(self) -> dict[str, np.ndarray[Any, Any]]:
        """Block until the copies are there. Raises what the device raised."""
        ...


class Executables(Protocol):
    """A backend's compiler."""

    def expect(self, parameters: int) -> None:
        """Steps of the engine multiply each token with ``parameters`` weights, a rank's of several.

        Told before that engine asks for anything: what is worth capturing may depend on it.
        """

    def bucket(self, axis: str, size: int, limit: int) -> int:
        """The padded extent, >= ``size`` and <= ``limit``, that ``axis`` is compiled for; pure after ``expect``.

        ``axis`` is ``tokens``, ``seqs``, ``decode_seqs``, ``pages`` or ``logits`` of a step, ``rows`` admitted
        at once, ``assignments`` of pages, or the ``history`` of a request that is admitted.
        """
        ...

    def captures(self, shape: StepShape) -> bool:
        """Whether a mixed step of this shape is recorded once and replayed from then on; pure after ``expect``.

        Core asks it of extents that ``bucket`` gave. Where it holds, and every kernel may run inside a captured
        graph of that step (:meth:`zif.contract.binding.Bound.capturable_in`), one program does the whole step, as of a
        decode step: its page assignments, and its sampler where that is plain. ``warm_up`` runs it beforehand, so few
        shapes are to hold. A shape with as many rows of logits as sequences is preferred to a lesser one.
        """
        return False

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        facts: ProgramFacts = NO_FACTS,
    ) -> Executable:
        """``resident`` holds the trees that it will be run with, for their shapes and, where memory is
        captured, their addresses. ``facts`` change nothing of what is computed."""
        ...
