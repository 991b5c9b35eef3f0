"""Cache formats: what they say that they take, and what is read back of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from zif.conformance.results import Recorder
from zif.contract.backend import Capabilities
from zif.contract.cache import CacheFormat, CacheGroup, nbytes

SECTION = "caches"
GROUPS = (
    CacheGroup("full", "paged", 3, 2, 64, 64),
    CacheGroup("window", "window", 2, 4, 128, 128, window=24),
    CacheGroup("one head", "paged", 2, 1, 128, 128),
    CacheGroup("latent", "latent", 2, 1, 96, 0),
)
COUNTS = (1, 2, 33, 100)
"""Of pages."""
TOKENS = 150


def check_formats(formats: Sequence[CacheFormat], capabilities: Capabilities, recorder: Recorder) -> None:
    """Record the results of the section ``caches``."""
    missing = [dtype for dtype in capabilities.dtypes if dtype not in {stored.name for stored in formats}]
    recorder.check(SECTION, "dtypes", "", lambda: f"no cache format is named {', '.join(missing)}" if missing else None)
    sizes = capabilities.page_sizes or (1, 16, 64)
    for stored in formats:
        for group in GROUPS:
            for size in (min(sizes), max(sizes)):
                label = f"{group.name}, pages of {size}"
                check = f"{stored.name}, {stored.layout}"
                if not recorder.wants(SECTION, check):
                    continue
                refusal = stored.refusal(group, stored.page_size(group, size))
                if refusal is not None:
                    recorder.add(SECTION, check, label, "skip", refusal)
                    continue
                recorder.check(SECTION, check, f"{label}/bytes", partial(_bytes, stored, group, size))
                recorder.check(SECTION, check, f"{label}/read back", partial(_read_back, stored, group, size))


def _bytes(stored: CacheFormat, group: CacheGroup, base: int) -> str | None:
    """Arrays take what a page was said to cost, each page's share is aligned, and page sizes are multiples."""
    size = stored.page_size(group, base)
    if size % base:
        return f"pages of {size} tokens, where the smallest have {base}: not a multiple"
    one = stored.page_bytes(group, size)
    for count in COUNTS:
        arrays = stored.arrays(group, size, count)
        if nbytes(arrays) > count * one:
            return f"{count} pages take {nbytes(arrays)} bytes, and one was said to take {one}"
        for name, spec in arrays.items():
            share = spec.nbytes / (count * group.layers)
            if share % stored.alignment:
                return f"a page of a layer has {share:g} bytes of {name!r}: no multiple of {stored.alignment}"
    return None


def _read_back(stored: CacheFormat, group: CacheGroup, base: int) -> str | None:
    """What is read back has the rows' shape; tokens that come later change nothing of pages before theirs."""
    size = stored.page_size(group, base)
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((group.layers, TOKENS, group.kv_heads, group.head_dim))
    back = stored.restored(rows, size)
    if back.shape != rows.shape or back.dtype != np.float64:
        return f"read back are {back.dtype} {back.shape} of float64 {rows.shape}"
    whole = TOKENS // 2 // size * size
    if not np.array_equal(stored.restored(rows[:, :whole], size), back[:, :whole]):
        return "whole pages change when more tokens follow"
    return None
