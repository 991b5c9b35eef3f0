"""Cache groups as the host sees them.

A model's layers fall into groups that keep their KV alike: every token ("paged", "latent"), or the
last ``window`` tokens alone ("window"). Each group has pages and a page size of its own: page ``i`` of a sequence holds
positions ``[i * page_size, (i + 1) * page_size)`` of it. A *unit* is the least number of tokens that is whole pages in
every group: prefixes are shared, and windows let go of, by units.

Page 0 of a group is the sink, which no sequence owns: padding is written to it, and where a page table or a radix node
has no page it says 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from zif.cache.allocator import IntArray


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


def first_live(position: int, window: int, unit: int) -> int:
    """Index of the first unit that the query at ``position``, or any later one, can still read."""
    return max(0, position - window + 1) // unit


def unit_of(groups: Iterable[HostGroup]) -> int:
    """Tokens of a unit."""
    return math.lcm(*(group.page_size for group in groups))


class Geometry:
    """How the pages of several groups lie beside each other, a group each in the lists.

    ``base``      the most tokens of which each page size is a multiple.
    ``unit``      tokens of a unit.
    ``sizes``     tokens of a page.
    ``factors``   a page's tokens in ``base``.
    ``per_unit``  pages to a unit.
    ``windows``   (group, window) of those that have one.
    """

    def __init__(self, groups: Sequence[HostGroup]) -> None:
        assert groups, "a model without cache groups"
        self.sizes = [group.page_size for group in groups]
        assert min(self.sizes) >= 1, f"pages of {self.sizes} tokens"
        self.base = math.gcd(*self.sizes)
        self.unit = unit_of(groups)
        self.factors = [size // self.base for size in self.sizes]
        self.per_unit = [self.unit // size for size in self.sizes]
        self.windows = [(g, group.window) for g, group in enumerate(groups) if group.window is not None]
        self.all_windows = [group.window for group in groups]

    @property
    def num_groups(self) -> int:
        """How many there are."""
        return len(self.sizes)

    def no_pages(self) -> list[IntArray]:
        """Pages of no unit."""
        return [np.empty((0, count), dtype=np.int32) for count in self.per_unit]


def least_pages(group: HostGroup, unit: int, length: int) -> int:
    """Pages without which a window group cannot serve a sequence of ``length`` tokens.

    A sequence holds the window that it sees itself, and perhaps as much again in a prefix that it shares.
    """
    assert group.window is not None
    return (2 * window_units(min(group.window, length), unit) + 2) * (unit // group.page_size)


def window_units(window: int, unit: int) -> int:
    """The most units that ``window`` consecutive tokens, wherever they begin, can touch."""
    return (window - 1 + unit - 1) // unit + 1
