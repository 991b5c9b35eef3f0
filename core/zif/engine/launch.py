"""A launch of a device program, and the observers of a runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract.step import HostStep
from zif.engine.programs import EngineProgram


@dataclass(frozen=True, slots=True)
class Launch:
    """A program and the host arrays that it is staged with.

    ``takes``: further inputs, which are the outputs of these names that the launches before put out, back to the last
    one that took none. ``step``: what kernels that plan on the host are told before it, if anything.
    ``drawn``: its outputs are what the step drew, for the host to read.
    """

    program: EngineProgram
    inputs: Mapping[str, np.ndarray[Any, Any]]
    takes: tuple[str, ...] = ()
    step: HostStep | None = None
    drawn: bool = False


class Observer:
    """A runner calls these methods around what it does. Each does nothing here; override what you need."""

    def launching(self, launch: Launch) -> None:
        """``launch`` is made next."""

    def tuning(self) -> None:
        """The backend is asked next to measure what it has to choose from."""

    def explain(self, error: Exception) -> Exception | None:
        """The error to raise instead of ``error``, which a launch or its results raised, or None to keep it."""
        return None

    def closing(self, *, failed: bool) -> None:
        """Nothing is launched any more: work is done, or the device has ``failed``."""

    def closed(self) -> None:
        """The runner has let go of the device."""
