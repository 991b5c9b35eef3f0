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
def activated(gate, up, GELU: tl.constexpr):
    """silu(gate) * up, or GELU's tanh form."""
    if GELU:
        # (1 + tanh(z)) / 2 is sigmoid(2 z)
        return gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)) * up
    return gate * tl.sigmoid(gate) * up


@triton.jit
def log2(x):
    """Logarithm of a normal positive float32, off by a relative 2e-6 at most, next to 1 as well.

    x = 2ⁿ (1 + f) with f in [-1/3, 1/3], where log2(1 + f) = f P(f); P is the minimax polynomial. About half
    the instructions of a library's, which goes on to the last bit and looks after zeros and infinities.
    """
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F2AAAAB) & ~0x7FFFFF
    f = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    p = 0.2461995929479599 * f - 0.27999377250671387
    p = p * f + 0.2856924533843994
    p = p * f - 0.35838937759399414
    p = p * f + 0.4809609055519104
    p = p * f - 0.7213798761367798
    p = p * f + 1.4426947832107544
    return exponent.to(tl.float32) * 1.1920928955078125e-07 + f * p


@triton.jit
def stored(x, KIND: tl.constexpr):
    """``x`` as a cache of dtype KIND holds it: of eight bits, no further than the largest that they have."""
    if tl.float8e4nv == KIND:
        x = tl.clamp(x.to(tl.float32), -448.0, 448.0, tl.PropagateNan.ALL)
    if tl.float8e5 == KIND:
        x = tl.clamp(x.to(tl.float32), -57344.0, 57344.0, tl.PropagateNan.ALL)
    return x.to(KIND)
