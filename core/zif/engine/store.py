"""The cache store: the only holder of the cache's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zif.contract.arrays import Tree
from zif.contract.backend import Backend
from zif.contract.cache import CacheGroup, CacheLayout


class CacheStore:
    """Arrays of every cache group, {group: {name: Array}}. Programs are run on them and give them back."""

    def __init__(
        self, backend: Backend, groups: Sequence[CacheGroup], page_size: int, num_pages: Mapping[str, int], dtype: str
    ) -> None:
        self.layouts: dict[str, CacheLayout] = {
            group.name: backend.cache_layout(group, page_size, num_pages[group.name], dtype) for group in groups
        }
        self.arrays: Tree = {
            name: {array: backend.runtime.zeros(spec) for array, spec in layout.arrays}
            for name, layout in self.layouts.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all groups."""
        return sum(layout.nbytes for layout in self.layouts.values())
