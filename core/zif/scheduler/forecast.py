"""An estimate of the pages that requests will ask for."""

from __future__ import annotations

import numpy as np

from zif.cache.allocator import IntArray
from zif.cache.groups import window_units
from zif.scheduler.memory import Memory
from zif.scheduler.policy import NewTokenRatio
from zif.scheduler.request import Request
from zif.scheduler.running import Running


def pages_still_needed(memory: Memory, running: Running, ratio: float, max_chunk: int) -> IntArray:
    """Pages that ``running`` requests need beyond those they have: int32 [G].

    All of what is left of their prompts, and the part ``ratio`` of the output they may still make.
    """
    rows = running.rows()
    if not len(rows):
        return np.zeros(len(memory.groups), dtype=np.int32)
    kv = memory.kv[rows]
    known = np.maximum(kv, running.known[rows])
    return _pages(memory, kv, known, memory.final[rows], memory.dead[:, rows], ratio, max_chunk)


def pages_for_new(memory: Memory, request: Request, cached: int, ratio: float, max_chunk: int) -> IntArray:
    """The same for a request that is not running yet, and has ``cached`` tokens in the prefix cache."""
    kv, known, final = (np.array([n], dtype=np.int32) for n in (cached, len(request.tokens), request.final_length))
    dead = np.zeros((len(memory.groups), 1), dtype=np.int32)
    return _pages(memory, kv, known, final, dead, ratio, max_chunk)


def _pages(
    memory: Memory, kv: IntArray, known: IntArray, final: IntArray, dead: IntArray, ratio: float, max_chunk: int
) -> IntArray:
    output = np.ceil(np.minimum(final - known, NewTokenRatio.MAX_TOKENS) * ratio).astype(np.int32)
    last, chunk = known + output, np.minimum(known - kv, max_chunk)
    total = np.empty(len(memory.groups), dtype=np.int32)
    for g, (size, count, window) in enumerate(
        zip(memory.geometry.sizes, memory.geometry.per_unit, memory.geometry.all_windows, strict=True)
    ):
        have = -(-kv // size)
        pages = -(-last // size) - have
        if window is not None:
            # Of a window no more is ever held than the window, and the chunk that is being computed.
            most = (window_units(window, memory.unit) + 1) * count - (-chunk // size)
            pages = np.minimum(pages, np.maximum(0, most - (have - dead[g] * count)))
        total[g] = pages.sum()
    return total
