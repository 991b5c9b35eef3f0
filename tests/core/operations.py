"""Counts what Python does: bytecodes carried out, which do not depend on the machine or on what else it does."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Operations:
    """Bytecodes carried out so far. What one operation on an array does inside counts as one."""

    def __init__(self) -> None:
        self.count = 0

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self.count += event == "opcode"
        return self.trace


@contextmanager
def counted() -> Iterator[Operations]:
    """Count the operations of the functions that are called meanwhile."""
    operations, before = Operations(), sys.gettrace()
    sys.settrace(operations.trace)
    try:
        yield operations
    finally:
        sys.settrace(before)


def count(work: Callable[..., Any], *given: Any) -> int:
    """Operations of ``work``."""
    with counted() as operations:
        work(*given)
    return operations.count


def exponent(sizes: Sequence[int], counts: Sequence[float]) -> float:
    """How ``counts`` grow with ``sizes``, from the first to the last: 1 is in proportion."""
    return math.log(counts[-1] / counts[0]) / math.log(sizes[-1] / sizes[0])
