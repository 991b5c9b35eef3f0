"""Inputs for conformance cases, and numbers in the dtypes that numpy lacks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

_NUMPY = {"bfloat16": ml_dtypes.bfloat16}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Numpy's dtype for a dtype name of the contract."""
    if name.startswith("float8"):
        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(_NUMPY.get(name, name))


def rounded(x: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """``x`` as float64 values that ``dtype`` represents exactly."""
    return x.astype(numpy_dtype(dtype)).astype(np.float64)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> np.ndarray[Any, Any]:
    """Normal variates of standard deviation ``scale``, float64 that ``dtype`` represents exactly."""
    return rounded(rng.standard_normal(shape) * scale, dtype)


def stored(x: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """``x`` as a cache of ``dtype`` holds it: rounded to nearest, and in eight bits no further than its largest."""
    if dtype.itemsize == 1:
        largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
        x = np.clip(x, -largest, largest)
    return x.astype(dtype)


def wide(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``x`` as float64."""
    return x.astype(np.float64, copy=False)
