"""The native kernels as functions of torch tensors.

Everything is checked when kernels are bound, so these functions check nothing but memory layout:
calls cost about two microseconds, and a decode step makes hundreds. The interpreter lock is kept
during short calls (giving it up and getting it back costs more than they do) and released during
long ones.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch

from zif_cpu.build import BuildFailed, library

Tensor = torch.Tensor

PANEL = 32
"""Columns of a packed panel (kPanel in native/gemm.h)."""
LONG_ROWS = 64
"""Rows from which a linear lasts long enough to release the interpreter lock."""
DTYPES = {"float32": 0, "bfloat16": 1}
"""Activation dtypes the kernels are compiled for, and how they are told."""

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "zif_pack": (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int, c_int),
    "zif_embed": (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int, c_int),
    "zif_linear": (c_void_p,) * 4 + (c_int64,) * 5 + (c_int, c_int),
    "zif_norm": (c_void_p,) * 5 + (c_int64,) * 3 + (c_float, c_float, c_int, c_int),
    "zif_gated": (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int, c_int, c_int),
    "zif_widen": (c_void_p, c_void_p, c_int64, c_int),
    "zif_angles": (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_double, c_int),
    "zif_rope_and_cache": (c_void_p, c_void_p, c_float, c_float, c_int, c_int),
    "zif_attention": (c_void_p,) * 8 + (c_float, c_float, c_int, c_int),
    "zif_sample": (c_void_p,) * 5 + (c_int64,) * 3 + (c_int,),
    "zif_penalize": (c_void_p,) * 7 + (c_int64, c_int64, c_int),
    "zif_filter": (c_void_p,) * 6 + (c_int64,) * 3 + (c_int,),
}


class Native:
    """The compiled library, and the number of threads its kernels run on.

    Raises :class:`~zif_cpu.build.BuildFailed` where it cannot be compiled or loaded.
    """

    def __init__(self, threads: int) -> None:
        path = library()
        try:
            held, released = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        except OSError as error:
            raise BuildFailed(f"cannot load the native kernels: {error}") from error
        self.threads = threads
        self._functions = {name: _typed(held, name) for name in _SIGNATURES}
        self._linear = self._functions["zif_linear"]
        self._linear_released = _typed(released, "zif_linear")
        self.norm = self._functions["zif_norm"]
        self.gated = self._functions["zif_gated"]
        self.widen = self._functions["zif_widen"]
        self.angles = self._functions["zif_angles"]
        self.rope_and_cache = self._functions["zif_rope_and_cache"]
        self.attention = self._functions["zif_attention"]
        self.attention_released = _typed(released, "zif_attention")
        self.draw = self._functions["zif_sample"]
        self.penalize = self._functions["zif_penalize"]
        self.filter_released = _typed(released, "zif_filter")

    def pack_rows(self, packed: Tensor, first: int, address: int, rows: int, in_features: int) -> None:
        """Put a row-major [rows, in] matrix at ``address`` into rows [first, first + rows) of ``packed``."""
        self._functions["zif_pack"](
            packed.data_ptr(), address, first, rows, in_features, _kind(packed), self.threads
        )  # fmt: skip

    def embedding(self, ids: Tensor, packed: Tensor, hidden: int) -> Tensor:
        """Rows ``ids`` [T] int32 of a packed weight -> [T, hidden]."""
        out = torch.empty((ids.shape[0], hidden), dtype=packed.dtype)
        self._functions["zif_embed"](
            out.data_ptr(), packed.data_ptr(), ids.data_ptr(), ids.shape[0], hidden, _kind(packed), self.threads
        )
        return out

    def linear(self, x: Tensor, packed: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
        """Compute x Wᵀ + b for x [T, in], a packed W [out, in] and b [out] float32 -> [T, out]."""
        rows, in_features = x.shape
        if x.stride(1) != 1:
            x = x.contiguous()
        out = torch.empty((rows, out_features), dtype=x.dtype)
        call = self._linear if rows < LONG_ROWS else self._linear_released
        call(
            out.data_ptr(), x.data_ptr(), packed.data_ptr(), None if bias is None else bias.data_ptr(),
            rows, out_features, in_features, x.stride(0), out_features, _kind(x), self.threads,
        )  # fmt: skip
        return out


def _kind(x: Tensor) -> int:
    return 1 if x.dtype is torch.bfloat16 else 0


def _typed(dll: ctypes.CDLL, name: str) -> Callable[..., Any]:
    function = getattr(dll, name)
    function.argtypes = _SIGNATURES[name]
    function.restype = None
    result: Callable[..., Any] = function
    return result
