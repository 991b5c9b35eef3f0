"""How kernels are launched, and what is known of the device they are launched on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from zif.contract.opspec import OpRequest

FLOATS = ("bfloat16", "float16", "float32")


class Launch(Protocol):
    """Launches one Triton kernel: its arguments in order, its constants and launch options by name."""

    def __call__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None: ...


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Triton's own way: compiles what it has not seen yet, then launches on the current stream.

    Fusing a product into a sum is asked for by name: what Triton does unasked changes with its version.
    """
    kernel[grid](*arguments, enable_fp_fusion=True, **constants)


@dataclass(frozen=True, slots=True)
class Machine:
    """What kernels are tuned by.

    ``processors``: units that run programs side by side. ``shared_bytes``: fast memory that one
    program may take for tiles. ``cache_dtypes``: dtypes besides the activations' that the device
    converts keys and values from.
    """

    processors: int = 64
    shared_bytes: int = 65536
    cache_dtypes: tuple[str, ...] = ()


def power_of_two(n: int) -> int:
    """The least power of two that is not less than ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_div(a: int, b: int) -> int:
    """How many ``b`` it takes to hold ``a``."""
    return -(-a // b)


def warps_for(elements: int) -> int:
    """Warps for a program over a tile of ``elements``: some sixteen to a lane."""
    return min(max(elements // 512, 1), 16)


def floats(_: Any, request: OpRequest) -> str | None:
    """``when=`` of kernels that take any of :data:`FLOATS`."""
    return None if request.dtype in FLOATS else f"takes {', '.join(FLOATS)}, not {request.dtype}"
