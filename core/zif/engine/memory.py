"""The pages of cache that fit a device's memory, and the errors where something does not fit."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from zif.cache.groups import least_pages, unit_of
from zif.contract.arrays import dtype_bytes
from zif.contract.backend import Backend, MemoryInfo
from zif.contract.cache import CacheFormat
from zif.contract.errors import InvalidSettings, OutOfMemory
from zif.contract.model import Model
from zif.engine.plan import EnginePlan
from zif.engine.store import StoredGroup, stored_groups
from zif.weights import weight_bytes

HIGHEST_FRACTION = 0.97
"""The largest --mem-fraction-static that is worth proposing: steps need memory too."""


def plan_pages(
    plan: EnginePlan, groups: Sequence[StoredGroup], backend: Backend, formats: Sequence[CacheFormat] = ()
) -> tuple[int, ...]:
    """Pages of each cache group, page 0 included, from the memory that is free once weights are loaded.

    ``formats`` are all that there are, for what is said where this one does not fit. Raises OutOfMemory, with what
    would fit, where not even one sequence of a page does, nor the tokens that were asked for.
    """
    pages = PageBudget(plan, groups)
    memory = backend.runtime.memory()
    budget = memory.free - memory.total * (1 - plan.mem_fraction_static)
    if plan.max_total_tokens is not None:
        units = min(-(-plan.max_total_tokens // pages.unit), pages.useful)
        if pages.nbytes(units) > memory.free:
            raise OutOfMemory(_too_many_tokens(plan, pages, formats, memory, budget))
        return pages.counts(units)
    if pages.nbytes(1) > budget:
        raise OutOfMemory(_no_room(plan, backend, memory, pages))
    return pages.within(budget * plan.cache_share)


class PageBudget:
    """The number of pages of each group, and their bytes.

    Sizes are counted in units (:mod:`zif.cache.groups`). For ``units`` of history, groups that keep all of it get as
    many tokens. A window group never needs more than the windows of
    :attr:`~zif.engine.plan.EnginePlan.max_running_requests` requests, as much again for the prefixes that they share or
    come back to, and the chunks that are being computed; what that leaves goes to the others. Where a sequence of full
    length would not fit otherwise, window groups make room for it.
    """

    def __init__(self, plan: EnginePlan, groups: Sequence[StoredGroup]) -> None:
        self.groups = groups
        self.unit = unit_of(groups)
        """Tokens."""
        self.useful = plan.max_running_requests * -(-plan.context_length // self.unit)
        """Units that all running requests at full length can use."""
        self._longest = -(-plan.context_length // self.unit)
        whole = any(group.window is None for group in groups)
        self._most = [self._window(plan, group) if whole and group.window is not None else None for group in groups]
        self._page_bytes = [group.page_bytes for group in groups]

    def counts(self, units: int, seen: int | None = None) -> tuple[int, ...]:
        """Pages of each group, page 0 included, for ``units`` of history; for ``seen`` in window groups, if given."""
        return tuple(self._pages(at, units, units if seen is None else seen) + 1 for at in range(len(self.groups)))

    def nbytes(self, units: int, seen: int | None = None) -> int:
        """What they take."""
        return sum(count * size for count, size in zip(self.counts(units, seen), self._page_bytes, strict=True))

    def within(self, budget: float) -> tuple[int, ...]:
        """Pages of each group that take no more than ``budget`` bytes, and are of use; of a unit at the least."""
        units = self._fitting(budget, self.nbytes, self.useful)
        if units >= self._longest:
            return self.counts(units)
        units = max(self._fitting(budget, lambda more: self.nbytes(more, 0), self._longest), 1)
        return self.counts(units, self._fitting(budget, lambda seen: self.nbytes(units, seen), units))

    @staticmethod
    def _fitting(budget: float, taken: Callable[[int], int], most: int) -> int:
        return bisect_right(range(1, most + 1), budget, key=taken)

    def _pages(self, at: int, units: int, seen: int) -> int:
        group, most = self.groups[at], self._most[at]
        if group.window is not None and most is not None:  # beside groups that keep everything
            least = least_pages(group, self.unit, units * self.unit)
            return min(max(seen * (self.unit // group.page_size), least), most)
        pages = units * (self.unit // group.page_size)
        return pages if group.window is None else max(pages, least_pages(group, self.unit, self._longest * self.unit))

    def _window(self, plan: EnginePlan, group: StoredGroup) -> int:
        one = least_pages(group, self.unit, plan.context_length)
        chunk = -(-min(plan.chunked_prefill_size, plan.context_length) // group.page_size)
        return plan.max_running_requests * one + 2 * chunk


def cache_tokens(groups: Sequence[StoredGroup], num_pages: Sequence[int]) -> int:
    """Tokens whose whole history ``num_pages`` pages of each group hold; of window groups alone, what those do."""
    tokens = [(group.window, (count - 1) * group.page_size) for group, count in zip(groups, num_pages, strict=True)]
    whole = [count for window, count in tokens if window is None]
    return min(whole or [count for _, count in tokens])


def report_cache(groups: Sequence[StoredGroup], num_pages: Sequence[int], nbytes: int) -> str:
    """What the start says of the KV cache: how much is taken for it, and how to change that."""
    names = sorted({group.format.name + (" (lossy)" if group.format.lossy else "") for group in groups})
    tokens = cache_tokens(groups, num_pages)
    windows = [
        f"{(count - 1) * group.page_size} of {group.name!r} (window {group.window})"
        for group, count in zip(groups, num_pages, strict=True)
        if group.window is not None and (count - 1) * group.page_size < tokens
    ]
    held = f", and {', '.join(windows)}" if windows else ""
    return (
        f"KV cache in {', '.join(names)}: up to {gibibytes(nbytes)}, for {tokens} tokens{held}; "
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


def _too_many_tokens(
    plan: EnginePlan, pages: PageBudget, formats: Sequence[CacheFormat], memory: MemoryInfo, budget: float
) -> str:
    asked = plan.max_total_tokens or 0
    units = min(-(-asked // pages.unit), pages.useful)
    said = (
        f"--max-total-tokens {asked} takes {gibibytes(pages.nbytes(units))} of KV cache, and "
        f"{gibibytes(memory.free)} of {gibibytes(memory.total)} are free: "
    )
    most = _tokens(pages, budget)
    said += f"at most {most} tokens fit" if most else "not a single page fits beside the weights"
    for name, tokens in _narrower(plan, pages, formats, budget):
        return f"{said}, or {tokens} with --kv-cache-dtype {name}"
    return said


def _narrower(
    plan: EnginePlan, pages: PageBudget, formats: Sequence[CacheFormat], budget: float
) -> Iterator[tuple[str, int]]:
    """Other formats in which more tokens fit, and how many; in the order of preference."""
    groups, fits = [stored.group for stored in pages.groups], _tokens(pages, budget)
    for name in dict.fromkeys(candidate.name for candidate in formats):
        with suppress(InvalidSettings):
            other = PageBudget(plan, stored_groups(groups, formats, name, plan.page_size, ""))
            if (tokens := _tokens(other, budget)) > fits:
                yield name, tokens


def _tokens(pages: PageBudget, budget: float) -> int:
    """Tokens that fit ``budget`` bytes, 0 if not a unit does."""
    return cache_tokens(pages.groups, pages.within(budget)) if pages.nbytes(1) <= budget else 0


def _no_room(plan: EnginePlan, backend: Backend, memory: MemoryInfo, pages: PageBudget) -> str:
    fraction = plan.mem_fraction_static
    budget = max(memory.free - memory.total * (1 - fraction), 0)
    said = (
        f"no memory is left for the KV cache: {gibibytes(memory.free)} of {gibibytes(memory.total)} are free, of which "
        f"--mem-fraction-static {fraction:g} leaves {gibibytes(budget)}, and the smallest cache, of "
        f"{pages.unit} tokens, takes {pages.nbytes(1) / 2**20:.1f} MiB"
    )
    enough = math.ceil((1 - (memory.free - pages.nbytes(1)) / memory.total) * 100) / 100
    if fraction < enough <= HIGHEST_FRACTION:
        return f"{said}; --mem-fraction-static {enough:g} would leave room for a page, more leaves room for more"
    smaller = [name for name in backend.capabilities.dtypes if dtype_bytes(name) < dtype_bytes(plan.dtype)]
    return f"{said}; take {f'--dtype {smaller[0]}, or ' if smaller else ''}a smaller model"
