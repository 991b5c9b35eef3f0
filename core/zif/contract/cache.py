"""What a model keeps between steps: cache groups, and how a backend lays them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How a backend stores one group: named arrays for ``num_pages`` pages of ``page_size`` tokens.

    Page 0 is the sink: padding writes there and nothing ever reads it.
    """

    name: str
    page_size: int
    num_pages: int
    arrays: tuple[tuple[str, ArraySpec], ...]

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for _, spec in self.arrays)


def plain_layout(group: CacheGroup, page_size: int, num_pages: int, dtype: str) -> CacheLayout:
    """The layout that references and portable kernels read.

    ``k`` [layers, pages, page_size, kv_heads, head_dim], and ``v`` likewise with v_head_dim unless that is 0.
    """
    shape = (group.layers, num_pages, page_size, group.kv_heads)
    arrays = [("k", ArraySpec((*shape, group.head_dim), dtype))]
    if group.v_head_dim:
        arrays.append(("v", ArraySpec((*shape, group.v_head_dim), dtype)))
    return CacheLayout("plain", page_size, num_pages, tuple(arrays))
