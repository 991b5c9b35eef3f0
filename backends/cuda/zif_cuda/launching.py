"""How the backend launches Triton kernels: one may start while the one before it still runs (Hopper and later).

Programmatic dependent launch, CUDA C++ Programming Guide: the launch's latency, and what a kernel can do before
it needs its predecessors' results, is hidden behind them. Captured graphs keep such edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zif.portable.triton.launching import launch

if TYPE_CHECKING:
    from zif.portable.triton import Launch

OLDEST_OVERLAP = (9, 0)
"""The first compute capability that has it."""


def launch_overlapping(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """As :func:`zif.portable.triton.launch`, without waiting for what was launched before; the kernel does that."""
    launch(kernel, grid, *arguments, OVERLAP=True, launch_pdl=True, **constants)


def launch_for(capability: tuple[int, int]) -> Launch:
    """The fastest launch that a GPU of ``capability`` has."""
    return launch_overlapping if capability >= OLDEST_OVERLAP else launch
