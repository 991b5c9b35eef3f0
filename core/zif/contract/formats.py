"""Cache formats that the framework references read and write, and what kernels say of formats.

``plain``: numbers of one dtype. ``scaled``: ``int8``, integers with a scale a token and head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract.arrays import ArraySpec
from zif.contract.cache import CacheFormat, CacheGroup
from zif.contract.ops.draw import numpy_dtype, stored
from zif.contract.opspec import OpRequest

A = np.ndarray[Any, Any]
EIGHT_BITS = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
"""Formats whose dtype is called otherwise: the names are SGLang's and vLLM's."""
_ERRORS = {"fp8_e4m3": 0.1, "fp8_e5m2": 0.2}
LEVELS = 127
"""The largest integer of ``int8``, and the smallest negated."""


@dataclass(frozen=True)
class PlainFormat(CacheFormat):
    """Keys and values in one dtype: ``k`` [layers, pages, page_size, kv_heads, head_dim], and ``v`` likewise with
    v_head_dim unless that is 0.

    ``name`` is a dtype, or a key of :data:`EIGHT_BITS`. Numbers are rounded to the nearest; of eight bits, those that
    are larger than the largest become that.
    """

    name: str
    layout = "plain"

    @property
    def dtype(self) -> str:
        """Of the arrays."""
        return EIGHT_BITS.get(self.name, self.name)

    @property
    def error(self) -> float:  # type: ignore[override]
        """See :class:`~zif.contract.cache.CacheFormat`."""
        return _ERRORS.get(self.name, 0.0)

    def arrays(self, group: CacheGroup, page_size: int, num_pages: int) -> Mapping[str, ArraySpec]:
        return {
            name: ArraySpec((group.layers, num_pages, page_size, group.kv_heads, dim), self.dtype)
            for name, dim in _dims(group).items()
        }

    def restored(self, rows: A, page_size: int) -> A:
        return stored(rows, numpy_dtype(self.dtype)).astype(np.float64)


@dataclass(frozen=True)
class ScaledFormat(CacheFormat):
    """``int8``: integers from -127 to 127, and a float32 scale a token and head.

    ``k`` int8 [layers, pages, page_size, kv_heads, head_dim] and ``k_scale`` float32 [layers, pages, page_size,
    kv_heads]; ``v`` and ``v_scale`` likewise with v_head_dim unless that is 0. In float32: scale = max |x| * (1 / 127)
    over a head, integer = x / scale rounded to the nearest, of two as near the even one.
    """

    name = "int8"
    layout = "scaled"
    error = 0.03

    def arrays(self, group: CacheGroup, page_size: int, num_pages: int) -> Mapping[str, ArraySpec]:
        shape = (group.layers, num_pages, page_size, group.kv_heads)
        values = {name: ArraySpec((*shape, dim), "int8") for name, dim in _dims(group).items()}
        return values | {f"{name}_scale": ArraySpec(shape, "float32") for name in values}

    def restored(self, rows: A, page_size: int) -> A:
        narrow = rows.astype(np.float32)
        scale = np.abs(narrow).max(-1, keepdims=True) * np.float32(1 / LEVELS)
        integers = np.rint(narrow / np.where(scale > 0, scale, np.float32(1)))
        return (integers * scale).astype(np.float64)


def plain_formats(*names: str) -> Sequence[CacheFormat]:
    """Plain formats of these names, in this order."""
    return tuple(PlainFormat(name) for name in names)


def reference_formats(dtypes: Sequence[str]) -> Sequence[CacheFormat]:
    """All that a framework reference reads and writes, where ``dtypes`` are those of activations."""
    return (*plain_formats(*dtypes, *EIGHT_BITS), ScaledFormat())


def plain_dtype(request: OpRequest) -> str | None:
    """The dtype of the plain layout that a request's cache has; None for another layout."""
    name: str = request["cache_format"]
    return EIGHT_BITS.get(name, name) if request["cache_layout"] == PlainFormat.layout else None


def unless_plain(request: OpRequest, *dtypes: str) -> str | None:
    """Of ``when=``: why a kernel refuses that reads or writes a plain cache of ``dtypes``; None if it does not."""
    if plain_dtype(request) in dtypes:
        return None
    return f"takes a plain cache of {' or '.join(dtypes)}, not {described(request)}"


def unless_known(_: Any, request: OpRequest) -> str | None:
    """``when=`` of what reads and writes every format of :func:`reference_formats`."""
    if request["cache_layout"] in (PlainFormat.layout, ScaledFormat.layout):
        return None
    return f"takes a plain cache or {ScaledFormat.name}, not {described(request)}"


def described(request: OpRequest) -> str:
    """The cache of a request, for a sentence."""
    name, layout = request["cache_format"], request["cache_layout"]
    return str(name) if layout in (PlainFormat.layout, name) else f"{name} in the layout {layout}"


def _dims(group: CacheGroup) -> dict[str, int]:
    return {"k": group.head_dim, "v": group.v_head_dim} if group.v_head_dim else {"k": group.head_dim}
