"""The experts of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from zif.contract.arrays import Tree
from zif.contract.opspec import OpRequest
from zif.contract.weights.packed import PackedWeight, Split
from zif.contract.weights.spec import Loading, Shape, WeightSpec


@dataclass(frozen=True, slots=True)
class ExpertsSpec(WeightSpec):
    """The experts of a layer, one weight: gated MLPs hidden -> size -> hidden.

    ``gate``, ``up`` [size, hidden] and ``down`` [hidden, size] are checkpoint names with ``{e}`` for
    the expert. A token goes to ``top_k`` of them; ``kind`` is the activation. Tensor parallelism divides the
    inner units of each, so that results are partial sums.
    """

    gate: str
    up: str
    down: str
    experts: int
    hidden: int
    size: int
    top_k: int
    kind: str = "silu"

    @property
    def split(self) -> Split:
        return "rows"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(experts, size, hidden) of the packed weight."""
        return (self.experts, self.size, self.hidden)

    def stored(self) -> Mapping[str, Shape]:
        into, out_of = (self.size, self.hidden), (self.hidden, self.size)
        shapes = {self.gate: into, self.up: into, self.down: out_of}
        return {name.format(e=expert): shape for name, shape in shapes.items() for expert in range(self.experts)}

    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Tree]) -> Tree:
        stored, inner = self.stored(), loading.shard.slice(self.size, local.size)
        gates, ups, downs = (
            [loading.read(name.format(e=expert), stored[name.format(e=expert)]) for expert in range(self.experts)]
            for name in (self.gate, self.up, self.down)
        )
        gates, ups = ([tensor[inner] for tensor in tensors] for tensors in (gates, ups))
        return loading.packer.experts(local, gates, ups, [tensor[:, inner] for tensor in downs], loading.dtype)

    def per_token(self) -> int:
        return 3 * self.top_k * self.hidden * self.size

    def read_by(self, weight: PackedWeight, dtype: str) -> Iterator[OpRequest]:
        experts, size, hidden = weight.shape
        yield OpRequest.of(
            "moe",
            dtype,
            key=weight.dispatch_key,
            experts=experts,
            hidden=hidden,
            size=size,
            top_k=self.top_k,
            kind=self.kind,
            format=weight.format,
        )
