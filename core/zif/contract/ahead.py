"""Compiling for hardware that is not there: what a backend gives that can."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zif.contract.backend import Backend
from zif.contract.executable import Executable


@dataclass(frozen=True, slots=True)
class AheadReport:
    """What is known of a program that was compiled but never run, for one device of the target.

    ``flops`` and ``bytes`` (through device memory) of one run; ``scratch_bytes`` beside weights, cache
    and inputs; ``compile_seconds``; ``roofline_seconds``, the least that a run can take at the
    device's peak rates. No measurement. ``sent_bytes`` is what a device sends to others of its ranks.
    """

    flops: float
    bytes: float
    scratch_bytes: int
    compile_seconds: float
    roofline_seconds: float
    sent_bytes: float = 0.0


class AheadExecutable(Executable, Protocol):
    """A program compiled for a target."""

    @property
    def report(self) -> AheadReport: ...

    def save(self, path: Path) -> None:
        """Write the compiled program, in the framework's own format."""
        ...


class AheadBackend(Backend, Protocol):
    """A backend whose arrays are shapes, and whose executables are :class:`AheadExecutable`.

    Its runtime's memory is that of one device of the target, less what was put or made on it.
    """

    @property
    def target(self) -> str:
        """The target's name and what one device of it is, for people."""
        ...
