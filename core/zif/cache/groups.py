"""Cache groups as the host sees them.

A model's layers fall into groups that keep their KV alike: every token ("paged", "latent"), or the
last ``window`` tokens alone ("window"). Each group has its own pages; all share one page size, so that
page ``i`` of a sequence holds positions ``[i * page_size, (i + 1) * page_size)`` in every group.
"""

from __future__ import annotations

from typing import Protocol

SINK_PAGE = 0
"""Page that no sequence owns: padding is written to it, and where a table or a radix node has no page it says 0."""


class HostGroup(Protocol):
    """The part of a cache group that the host needs."""

    @property
    def name(self) -> str: ...

    @property
    def window(self) -> int | None:
        """Tokens that a query sees, itself included: keys in ``(query - window, query]``. None: all of them."""


def first_live_page(position: int, window: int | None, page_size: int) -> int:
    """Index of the first page that the query at ``position``, or any later one, can still read."""
    if window is None:
        return 0
    return max(0, position - window + 1) // page_size


def window_pages(window: int, page_size: int) -> int:
    """The most pages that ``window`` consecutive tokens, wherever they begin, can touch."""
    return (window - 1 + page_size - 1) // page_size + 1
