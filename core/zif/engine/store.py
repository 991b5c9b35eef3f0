"""The cache store: the only holder of the cache's arrays, and which format each cache group has in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zif.contract.arrays import Tree
from zif.contract.backend import Backend
from zif.contract.cache import CacheFormat, CacheGroup, format_of, nbytes
from zif.contract.errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A cache group, the format that it is stored in, and the tokens of a page of it."""

    group: CacheGroup
    format: CacheFormat
    page_size: int

    @property
    def name(self) -> str:
        """The group's."""
        return self.group.name

    @property
    def window(self) -> int | None:
        """The group's."""
        return self.group.window

    @property
    def page_bytes(self) -> int:
        """Bytes that a page takes, in all layers."""
        return self.format.page_bytes(self.group, self.page_size)


def stored_groups(
    groups: Sequence[CacheGroup], formats: Sequence[CacheFormat], name: str, page_size: int, backend: str
) -> tuple[StoredGroup, ...]:
    """``groups`` in the formats that ``--kv-cache-dtype name`` and ``--page-size`` give them, in their order.

    Raises InvalidSettings, with what ``backend`` offers, where no format of that name stores one of them.
    """
    stored = []
    for group in groups:
        found, why = format_of(formats, name, group, page_size)
        if found is None:
            raise InvalidSettings(_refused(groups, formats, name, page_size, backend, group, why))
        stored.append(StoredGroup(group, found, found.page_size(group, page_size)))
    return tuple(stored)


def _refused(
    groups: Sequence[CacheGroup], formats: Sequence[CacheFormat], name: str, page_size: int, backend: str,
    group: CacheGroup, why: str,
) -> str:  # fmt: skip
    names = dict.fromkeys(candidate.name for candidate in formats)
    served = [
        other for other in names if all(format_of(formats, other, each, page_size)[0] is not None for each in groups)
    ]
    offered = f"{backend} stores keys and values in {', '.join(served) or 'nothing that this model has'}"
    if name not in names:
        return f"--kv-cache-dtype {name}: {offered}"
    return f"--kv-cache-dtype {name} does not store the model's cache group {group.name!r}: {why}; {offered}"


class CacheStore:
    """Arrays of every cache group, {group: {name: Array}}. Programs are run on them and give them back."""

    def __init__(self, backend: Backend, groups: Sequence[StoredGroup], num_pages: Sequence[int]) -> None:
        """``num_pages`` of each group count page 0, the sink."""
        self.groups = tuple(groups)
        self.specs = {
            stored.name: dict(stored.format.arrays(stored.group, stored.page_size, count))
            for stored, count in zip(groups, num_pages, strict=True)
        }
        for stored, count in zip(groups, num_pages, strict=True):
            taken, promised = nbytes(self.specs[stored.name]), stored.page_bytes * count
            assert taken <= promised, f"{stored.format.name}: {taken} bytes for {count} pages, not {promised}"
        self.arrays: Tree = {
            name: {array: backend.runtime.zeros(spec) for array, spec in specs.items()}
            for name, specs in self.specs.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all groups."""
        return sum(map(nbytes, self.specs.values()))
