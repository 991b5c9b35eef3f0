"""Results of a kernel against those of the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from zif.contract.opspec import Tolerance

A = np.ndarray[Any, Any]


def difference(got: A, expected: A, tolerance: Tolerance) -> str | None:
    """None if |got - expected| <= atol + rtol |expected| everywhere, else the worst place.

    Integers must be equal; infinities must be the same, and no NaN may occur.
    """
    if got.shape != expected.shape:
        return f"shape {got.shape}, expected {expected.shape}"
    if expected.dtype.kind in "iub":
        if got.dtype.kind not in "iub":
            return f"dtype {got.dtype}, expected {expected.dtype}"
        return _first(got != expected, got, expected)
    wide, reference = got.astype(np.float64), expected.astype(np.float64)
    if np.isnan(wide).any():
        return f"{int(np.isnan(wide).sum())} of {wide.size} values are NaN, the first at {_at(np.isnan(wide))}"
    infinite = np.isinf(wide) | np.isinf(reference)
    if fault := _first(infinite & (wide != reference), wide, reference):
        return fault
    finite = np.where(infinite, 0.0, reference)
    error = np.abs(np.where(infinite, 0.0, wide) - finite)
    allowed = tolerance.atol + tolerance.rtol * np.abs(finite)
    if not (error > allowed).any():
        return None
    worst = np.unravel_index(int(np.argmax(error - allowed)), error.shape)
    place = [int(index) for index in worst]
    return (
        f"{int((error > allowed).sum())} of {error.size} values are off; at {place} got {wide[worst]:.6g}, "
        f"expected {reference[worst]:.6g}, off by {error[worst]:.3g} where {allowed[worst]:.3g} is allowed"
    )


def same_bits(first: A, second: A) -> bool:
    """Whether two arrays are equal to the bit."""
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def _first(wrong: A, got: A, expected: A) -> str | None:
    if not wrong.any():
        return None
    place = tuple(_at(wrong))
    count = f"{int(wrong.sum())} of {wrong.size} values differ"
    return f"{count}; at {list(place)} got {got[place]}, expected {expected[place]}"


def _at(wrong: A) -> list[int]:
    return [int(index) for index in np.argwhere(wrong)[0]]
