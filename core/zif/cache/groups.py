"""Cache groups as the host sees them.

A model's layers fall into groups that keep their KV alike: every token ("paged", "latent"), or the
last ``window`` tokens alone ("window"). Each group has pages and a page size of its own: page ``i`` of a sequence holds
positions ``[i * page_size, (i + 1) * page_size)`` of it. Page sizes are multiples of the smallest. A *unit* is the
least number of tokens that is whole pages in every group: prefixes are shared, and windows counted, by units.

Page 0 of a group is the sink, which no sequence owns: padding is written to it, and where a page table or a radix node
has no page it says 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol


class HostGroup(Protocol):
    """The part of a cache group that the host needs."""

    @property
    def name(self) -> str: ...

    @property
    def page_size(self) -> int:
        """Tokens of a page."""

    @property
    def window(self) -> int | None:
        """Tokens that a query sees, itself included: keys in ``(query - window, query]``. None: all of them."""


def first_live_page(position: int, window: int | None, page_size: int) -> int:
    """Index of the first page that the query at ``position``, or any later one, can still read."""
    if window is None:
        return 0
    return max(0, position - window + 1) // page_size


def unit_of(groups: Iterable[HostGroup]) -> int:
    """Tokens of a unit."""
    return math.lcm(*(group.page_size for group in groups))


def least_pages(group: HostGroup, unit: int, length: int) -> int:
    """Pages without which a window group cannot serve a sequence of ``length`` tokens.

    A sequence holds the window that it sees itself, and perhaps as much again in a prefix that it shares.
    """
    assert group.window is not None
    return (2 * window_pages(min(group.window, length), unit) + 2) * (unit // group.page_size)


def window_pages(window: int, page_size: int) -> int:
    """The most pages that ``window`` consecutive tokens, wherever they begin, can touch."""
    return (window - 1 + page_size - 1) // page_size + 1
