"""What a model keeps between steps: cache groups, and the formats that they are stored in.

A *group* is logical: core schedules its tokens and pages, and decides which pages are reused. A *format* is
physical: what the bytes of a page are. Core knows a format by what it costs; what its arrays hold is between
the kernels that write them and the kernels that read them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zif.contract.arrays import ArraySpec

GroupKind = Literal["paged", "window", "latent"]


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that keep the same kind of history and share one page table.

    ``paged``: keys and values of every position, [kv_heads, head_dim] and [kv_heads, v_head_dim]
    a token. ``window``: the same, but a query sees only the last ``window`` positions (itself
    among them). ``latent`` (MLA): one vector of ``head_dim`` a token, no values of its own;
    ``kv_heads`` is 1 and ``v_head_dim`` 0.
    """

    name: str
    kind: GroupKind
    layers: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None

    def __post_init__(self) -> None:
        assert (self.window is not None) == (self.kind == "window"), f"cache group {self.name}: window and kind differ"


class CacheFormat(ABC):
    """One way to store a cache group. Immutable; a backend or an extension brings a list of them.

    ``name``       what ``--kv-cache-dtype`` and the fact ``cache_format`` of requests call it. A format that is
                   named like an activation dtype is what ``auto`` takes for that dtype.
    ``layout``     how its arrays are arranged, the fact ``cache_layout`` of requests: kernels read and write the
                   layouts that they know. Formats of one name may differ in it: the first that takes a group
                   stores it.
    ``alignment``  bytes of which a page of a layer is a multiple, in each array.
    ``error``      0 if it stores what it is given, rounded to a dtype of at least 16 bits. Otherwise it is lossy, and
                   this is by how much attention over values of size about one may be off where rounding in a
                   kernel decides between two neighbouring values of the format.
    """

    name: str
    layout: str
    alignment: int = 1
    error: float = 0.0

    @abstractmethod
    def arrays(self, group: CacheGroup, page_size: int, num_pages: int) -> Mapping[str, ArraySpec]:
        """The arrays that hold ``num_pages`` pages of ``page_size`` tokens of all layers of ``group``, by name.

        They take at most ``num_pages * page_bytes(group, page_size)`` bytes. Page 0 is the sink: padding is
        written there, and nothing reads it. Values, scales and indices are arrays each.
        """

    @abstractmethod
    def restored(self, rows: np.ndarray[Any, Any], page_size: int) -> np.ndarray[Any, Any]:
        """What is read back of ``rows`` float64 [layers, tokens, heads, dim], the keys or the values (or
        the latents) of a sequence from its first position on. The same shape, float64: the specification of what the
        format loses.
        """

    def refusal(self, group: CacheGroup, page_size: int) -> str | None:
        """A sentence why it does not store ``group`` on pages of ``page_size`` tokens; None where it does."""
        return None

    def page_size(self, group: CacheGroup, base: int) -> int:
        """The tokens of its pages of ``group`` where the smallest pages have ``base``: a multiple of that."""
        return base

    def page_bytes(self, group: CacheGroup, page_size: int) -> int:
        """Bytes that a page takes, in all layers of ``group``."""
        return nbytes(self.arrays(group, page_size, 1))

    @property
    def lossy(self) -> bool:
        """Whether what is read back may differ from what was written by more than 16 bits do."""
        return self.error > 0


def nbytes(arrays: Mapping[str, ArraySpec]) -> int:
    """Bytes of all ``arrays``."""
    return sum(spec.nbytes for spec in arrays.values())


def format_of(
    formats: Iterable[CacheFormat], name: str, group: CacheGroup, page_size: int
) -> tuple[CacheFormat | None, str]:
    """The first of ``formats`` that is called ``name`` and stores ``group``, or None and a sentence why there is none.

    ``page_size``: tokens of the smallest pages.
    """
    why = f"there is no cache format {name}"
    for candidate in formats:
        if candidate.name != name:
            continue
        refusal = candidate.refusal(group, candidate.page_size(group, page_size))
        if refusal is None:
            return candidate, ""
        why = refusal
    return None, why
