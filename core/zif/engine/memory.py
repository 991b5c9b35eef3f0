"""What fits a device's memory: pages of the cache, and what to say where something does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from zif.contract.arrays import dtype_bytes
from zif.contract.backend import Backend, MemoryInfo
from zif.contract.cache import CacheGroup
from zif.contract.errors import OutOfMemory
from zif.contract.model import Model
from zif.engine.plan import EIGHT_BITS, EnginePlan
from zif.weights import weight_bytes

HIGHEST_FRACTION = 0.97
"""The largest --mem-fraction-static that is worth proposing: steps need memory too."""


def plan_pages(plan: EnginePlan, groups: Sequence[CacheGroup], backend: Backend) -> int:
    """Pages of every cache group, page 0 included, from the memory that is free once weights are loaded.

    All groups get the same number, and together no more than all running requests at full length
    can use. Raises OutOfMemory, with what would fit, where not even one sequence of a page does, nor the
    tokens that were asked for.
    """
    useful = plan.max_running_requests * plan.pages_per_sequence
    memory = backend.runtime.memory()
    budget = memory.free - memory.total * (1 - plan.mem_fraction_static)
    per_page = _pages_bytes(plan, groups, backend)
    fitting = int(budget // per_page)
    if plan.max_total_tokens is not None:
        pages = max(min(-(-plan.max_total_tokens // plan.page_size), useful), 1) + 1
        if pages * per_page > memory.free:
            raise OutOfMemory(_too_many_tokens(plan, groups, backend, memory, fitting))
        return pages
    if fitting < 2:
        raise OutOfMemory(_no_room(plan, backend, memory, per_page))
    return min(max(int(budget * plan.cache_share // per_page), 2), useful + 1)


def report_cache(num_pages: int, nbytes: int, plan: EnginePlan) -> str:
    """What the start says of the KV cache: how much is taken for it, and how to change that."""
    return (
        f"KV cache: up to {gibibytes(nbytes)}, for {(num_pages - 1) * plan.page_size} tokens; "
        "--max-total-tokens or --mem-fraction-static makes it smaller or larger"
    )


def weights_do_not_fit(
    model: Model, plan: EnginePlan, backend: Backend, before: MemoryInfo, error: OutOfMemory | None = None
) -> OutOfMemory:
    """What to say when loading the whole ``model``, or a rank's part of it, ended in ``error`` or cannot but do so.

    ``before``: the memory before that.
    """
    ranks = backend.communicator.size
    needed = weight_bytes(model, plan.dtype, ranks)
    said = (
        f"the weights take {gibibytes(needed)} in {plan.dtype}, and {gibibytes(before.free)} of "
        f"{gibibytes(before.total)} were free"
    )
    smaller = {dtype: weight_bytes(model, dtype, ranks) for dtype in backend.capabilities.dtypes}
    fitting = [dtype for dtype, size in smaller.items() if size < min(needed, before.free)]
    if fitting:
        said += f"; with --dtype {fitting[0]} they take {gibibytes(smaller[fitting[0]])}"
    elif needed < before.total:
        said += "; free the memory that others hold, or take a smaller model"
    else:
        said += "; take a smaller model, or a device with more memory"
    return OutOfMemory(f"{said} ({error})" if error is not None else said)


def gibibytes(size: float) -> str:
    """``size`` bytes for people."""
    gib = size / 2**30
    return f"{gib:.2f} GiB" if gib < 1 else f"{gib:.1f} GiB"


def _pages_bytes(plan: EnginePlan, groups: Sequence[CacheGroup], backend: Backend) -> float:
    """What one more page of every group takes in the backend's own layout."""

    def one(group: CacheGroup) -> float:
        sizes = (backend.cache_layout(group, plan.page_size, count, plan.kv_cache_dtype).nbytes for count in (32, 64))
        few, many = sizes
        return (many - few) / 32

    return sum(map(one, groups))


def _narrower(plan: EnginePlan, backend: Backend) -> str | None:
    """The flag's name of a cache dtype of fewer bytes that the backend stores."""
    stored = backend.capabilities.cache_dtypes
    wide = dtype_bytes(plan.kv_cache_dtype) > 1
    return next((flag for flag, name in EIGHT_BITS.items() if name in stored), None) if wide else None


def _too_many_tokens(
    plan: EnginePlan, groups: Sequence[CacheGroup], backend: Backend, memory: MemoryInfo, fitting: int
) -> str:
    per_page = _pages_bytes(plan, groups, backend)
    asked = plan.max_total_tokens or 0
    said = (
        f"--max-total-tokens {asked} takes {gibibytes(asked / plan.page_size * per_page)} of KV cache, and "
        f"{gibibytes(memory.free)} of {gibibytes(memory.total)} are free: "
    )
    most = max(fitting - 1, 0) * plan.page_size
    said += f"at most {most} tokens fit" if most else "not a single page fits beside the weights"
    flag = _narrower(plan, backend)
    if flag is not None and most:
        narrow = _pages_bytes(replace(plan, kv_cache_dtype=EIGHT_BITS[flag]), groups, backend)
        said += f", or {int(most * per_page / narrow)} with --kv-cache-dtype {flag}"
    return said


def _no_room(plan: EnginePlan, backend: Backend, memory: MemoryInfo, per_page: float) -> str:
    fraction = plan.mem_fraction_static
    budget = max(memory.free - memory.total * (1 - fraction), 0)
    said = (
        f"no memory is left for the KV cache: {gibibytes(memory.free)} of {gibibytes(memory.total)} are free, of which "
        f"--mem-fraction-static {fraction:g} leaves {gibibytes(budget)}, and a page of {plan.page_size} tokens takes "
        f"{per_page / 2**20:.1f} MiB"
    )
    enough = math.ceil((1 - (memory.free - 2 * per_page) / memory.total) * 100) / 100
    if fraction < enough <= HIGHEST_FRACTION:
        return f"{said}; --mem-fraction-static {enough:g} would leave room for a page, more leaves room for more"
    smaller = [name for name in backend.capabilities.dtypes if dtype_bytes(name) < dtype_bytes(plan.dtype)]
    return f"{said}; take {f'--dtype {smaller[0]}, or ' if smaller else ''}a smaller model"
