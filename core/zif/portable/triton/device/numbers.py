"""Functions of numbers that Triton's language lacks."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def tanh(x):
    """Hyperbolic tangent, to a few units in the last place at any x."""
    square = x * x
    # (1 - e) / (1 + e) cancels for small x, where four terms of the series are exact
    series = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0))))
    e = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.125, series, tl.where(x < 0, -size, size))


@triton.jit
def stored(x, KIND: tl.constexpr):
    """``x`` as a cache of dtype KIND holds it: of eight bits, no further than the largest that they have."""
    if tl.float8e4nv == KIND:
        x = tl.clamp(x.to(tl.float32), -448.0, 448.0, tl.PropagateNan.ALL)
    if tl.float8e5 == KIND:
        x = tl.clamp(x.to(tl.float32), -57344.0, 57344.0, tl.PropagateNan.ALL)
    return x.to(KIND)
