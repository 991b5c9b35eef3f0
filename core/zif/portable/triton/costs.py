"""What the kernels move and compute for one row: a token, or a row of logits; weights and tables aside.

Attention's is that of one token over one cached token: its history comes on top of any request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zif.contract.arrays import dtype_bytes
from zif.contract.formats import plain_dtype
from zif.contract.kernel import Cost
from zif.contract.opspec import OpRequest


def rows(reads: int, writes: int) -> Callable[[Any, OpRequest], Cost]:
    """Of a kernel that reads and writes so many rows of ``size``."""

    def cost(_: Any, request: OpRequest) -> Cost:
        size = request["size"]
        return Cost(flops=4.0 * size, bytes=(reads + writes) * size * dtype_bytes(request.dtype))

    return cost


def vocabulary(passes: int) -> Callable[[Any, OpRequest], Cost]:
    """Of a kernel that reads or writes so many float32 rows of the vocabulary."""

    def cost(_: Any, request: OpRequest) -> Cost:
        return Cost(flops=0.0, bytes=4.0 * passes * request["vocab"])

    return cost


def kept_bytes(request: OpRequest) -> int:
    """Bytes of a number in a plain cache."""
    dtype = plain_dtype(request)
    assert dtype is not None, "a kernel of plain caches was asked what another costs"
    return dtype_bytes(dtype)


def _kept(request: OpRequest) -> int:
    """Numbers that one token's keys and values are."""
    count: int = request["kv_heads"] * (request["head_dim"] + request["v_head_dim"])
    return count


def kv_write(_: Any, request: OpRequest) -> Cost:
    """Keys and values, read and written."""
    return Cost(flops=0.0, bytes=_kept(request) * (dtype_bytes(request.dtype) + kept_bytes(request)))


def rope_and_cache(kernels: Any, request: OpRequest) -> Cost:
    """The same, and q read and written."""
    q = request["q_heads"] * request["head_dim"]
    written = kv_write(kernels, request).bytes
    return Cost(flops=6.0 * (q + _kept(request)), bytes=written + 2.0 * q * dtype_bytes(request.dtype))


def paged_attention(_: Any, request: OpRequest) -> Cost:
    """Of a token over one cached token, whose keys and values are read."""
    pair = request["head_dim"] + request["v_head_dim"]
    return Cost(flops=2.0 * request["q_heads"] * pair, bytes=_kept(request) * kept_bytes(request))
