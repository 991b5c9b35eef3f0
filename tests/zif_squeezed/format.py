"""What a page holds, and what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract import ArraySpec, CacheFormat, CacheGroup

OUTLIER = 3.0
"""A head whose largest number is so many times its mean one makes its token a wide one."""
NARROW, WIDE = 7, 127
"""The largest integers."""
SCALE = 4
"""Bytes of the scale that a head begins with, float32."""
LARGE_PAGE = 16


@dataclass(frozen=True)
class Record:
    """Sizes of a page of keys, or of values: of ``heads`` of ``dim`` numbers a token."""

    heads: int
    dim: int
    page_size: int

    @property
    def narrow(self) -> int:
        """Bytes of a narrow token."""
        return self.heads * (SCALE + self.dim // 2)

    @property
    def wide(self) -> int:
        """Bytes of a wide one."""
        return self.heads * (SCALE + self.dim)

    @property
    def most_wide(self) -> int:
        """Wide tokens that a page has room for; those that come first are."""
        return self.page_size // 4

    @property
    def nbytes(self) -> int:
        """Bytes of a page, of which the format's alignment is a divisor."""
        return _aligned(self.page_size * self.narrow + self.most_wide * (self.wide - self.narrow))


class Squeezed(CacheFormat):
    """``k_bytes`` uint8 [layers, pages, bytes], the tokens one behind the other, and ``k_index`` int32 [layers, pages,
    page_size + 1 or more], where each begins but the first, which begins at 0; ``v_bytes`` and ``v_index`` likewise.
    """

    name = "int4_outliers"
    layout = "squeezed"
    alignment = 16
    error = 0.3

    def refusal(self, group: CacheGroup, page_size: int) -> str | None:
        if group.kind == "latent":
            return "squeezes keys and values, not latents"
        if group.head_dim % 2 or group.v_head_dim % 2:
            return f"packs pairs of numbers, not heads of {group.head_dim} and {group.v_head_dim}"
        return None

    def page_size(self, group: CacheGroup, base: int) -> int:
        """A few wide tokens to a page need a large one, unless a window is left page by page."""
        return base if group.window is not None else -(-LARGE_PAGE // base) * base

    def arrays(self, group: CacheGroup, page_size: int, num_pages: int) -> Mapping[str, ArraySpec]:
        arrays = {}
        for name, dim in (("k", group.head_dim), ("v", group.v_head_dim)):
            record = Record(group.kv_heads, dim, page_size)
            arrays[f"{name}_bytes"] = ArraySpec((group.layers, num_pages, record.nbytes), "uint8")
            entries = _aligned(4 * (page_size + 1)) // 4
            arrays[f"{name}_index"] = ArraySpec((group.layers, num_pages, entries), "int32")
        return arrays

    def restored(self, rows: np.ndarray[Any, Any], page_size: int) -> np.ndarray[Any, Any]:
        """Token by token: the slow model of what the kernels do."""
        record = Record(*rows.shape[2:], page_size)
        narrow = rows.astype(np.float32)
        out = np.empty(rows.shape)
        for layer in range(rows.shape[0]):
            for token in range(rows.shape[1]):
                if token % page_size == 0:
                    room = record.most_wide
                x = np.abs(narrow[layer, token])
                wide = room > 0 and bool((x.max(-1) > np.float32(OUTLIER) * x.mean(-1)).any())
                room -= wide
                scale = x.max(-1, keepdims=True) / np.float32(WIDE if wide else NARROW)
                integers = np.rint(narrow[layer, token] / np.where(scale > 0, scale, np.float32(1)))
                out[layer, token] = integers * scale
        return out


def _aligned(size: int) -> int:
    return -(-size // Squeezed.alignment) * Squeezed.alignment
