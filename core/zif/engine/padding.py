"""Host arrays of fixed sizes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int32]]


def padded(values: Any, size: int, fill: int) -> IntArray:
    """``values`` as int32 [size], ``fill`` behind them; not to be written where there are none."""
    if not len(values):
        return _filled(size, fill)
    out = np.full(size, fill, np.int32)
    out[: len(values)] = values
    return out


@functools.lru_cache(maxsize=1024)
def _filled(size: int, fill: int) -> IntArray:
    out = np.full(size, fill, np.int32)
    out.flags.writeable = False
    return out
