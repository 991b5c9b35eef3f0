"""How many pages requests are going to ask for, as far as can be guessed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zif.cache.allocator import IntArray
from zif.cache.groups import window_pages
from zif.scheduler.memory import Memory
from zif.scheduler.policy import NewTokenRatio
from zif.scheduler.request import Request


def pages_still_needed(memory: Memory, running: Sequence[Request], ratio: float, max_chunk: int) -> IntArray:
    """Pages that ``running`` requests need beyond those they have: int32 [G].

    All of what is left of their prompts, and the part ``ratio`` of the output they may still make.
    """
    if not running:
        return np.zeros(len(memory.groups), dtype=np.int32)
    rows = np.array([request.row for request in running], dtype=np.int32)
    kv = memory.kv[rows]
    known = np.maximum(kv, np.array([len(request.tokens) for request in running], dtype=np.int32))
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
    have = memory.num_pages(kv)
    pages = memory.num_pages(known + output) - have
    total = np.full(len(memory.groups), pages.sum(), dtype=np.int32)
    for g, window in memory.windows:
        # Of a window no more is ever held than the window, and the chunk that is being computed.
        chunk = memory.num_pages(np.minimum(known - kv, max_chunk))
        most = window_pages(window, memory.page_size) + chunk + 1
        total[g] = np.minimum(pages, np.maximum(0, most - (have - dead[g]))).sum()
    return total
