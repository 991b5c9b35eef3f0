"""The experts of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self, overload

from zif.contract.arrays import Tree
from zif.contract.opspec import OpRequest
from zif.contract.weights.packed import PackedWeight, Split
from zif.contract.weights.shard import HostArray
from zif.contract.weights.spec import Loading, Shape, WeightSpec

if TYPE_CHECKING:
    from zif.contract.experts import ClampedGate


class EachExpert(Sequence[HostArray]):
    """An array of each expert, made when it is asked for: read them one after another, once."""

    def __init__(self, count: int, make: Callable[[int], HostArray]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> HostArray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[HostArray]: ...
    def __getitem__(self, index: int | slice) -> HostArray | Sequence[HostArray]:
        if isinstance(index, slice):
            return [self._make(expert) for expert in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._make(index)


class ExpertTensors(NamedTuple):
    """What :meth:`zif.contract.packer.Packer.experts` packs: a host array an expert, likely a strided view.

    ``gates`` and ``ups`` [size, hidden], ``downs`` [hidden, size]; biases [size], [size] and [hidden], or none.
    """

    gates: Sequence[HostArray]
    ups: Sequence[HostArray]
    downs: Sequence[HostArray]
    gate_biases: Sequence[HostArray] = ()
    up_biases: Sequence[HostArray] = ()
    down_biases: Sequence[HostArray] = ()


@dataclass(frozen=True, slots=True)
class ExpertsSpec(WeightSpec):
    """The experts of a layer, one weight: gated MLPs hidden -> size -> hidden.

    A token goes to ``top_k`` of them; ``kind`` is the activation, or ``clamped``. Tensor parallelism divides the
    inner units of each, so that results are partial sums.

    ``gate``, ``up`` [size, hidden] and ``down`` [hidden, size] are checkpoint names: with ``{e}`` for the expert, a
    tensor an expert; without it, one tensor [experts, ...] of all. One name for ``gate`` and ``up`` is a tensor
    that holds both, [2 size, hidden], the gate's rows first, or every other row if ``interleaved``. ``bias`` names
    the biases of the three likewise. A ``transposed`` tensor has its last two axes the other way round.
    """

    gate: str
    up: str
    down: str
    experts: int
    hidden: int
    size: int
    top_k: int
    kind: str = "silu"
    clamped: ClampedGate | None = None
    bias: tuple[str, ...] = ()
    interleaved: bool = False
    gate_up_transposed: bool = False
    down_transposed: bool = False

    @property
    def split(self) -> Split:
        return "rows"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(experts, size, hidden) of the packed weight."""
        return (self.experts, self.size, self.hidden)

    def stored(self) -> Mapping[str, Shape]:
        into: Shape = (self.size * (2 if self.gate == self.up else 1), self.hidden)
        out_of: Shape = (self.hidden, self.size)
        into, out_of = into[:: -1 if self.gate_up_transposed else 1], out_of[:: -1 if self.down_transposed else 1]
        shapes: dict[str, Shape] = {self.gate: into, self.up: into, self.down: out_of}
        if self.bias:
            gate, up, down = self.bias
            rows = (self.size * (2 if gate == up else 1),)
            shapes |= {gate: rows, up: rows, down: (self.hidden,)}
        stored: dict[str, Shape] = {}
        for name, shape in shapes.items():
            if "{e}" in name:
                stored |= {name.format(e=expert): shape for expert in range(self.experts)}
            else:
                stored[name] = (self.experts, *shape)
        return stored

    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Tree]) -> Tree:
        inner, once = loading.shard.slice(self.size, local.size), loading.shard.once
        gate, up, down = (
            self._each(loading, name, transposed)
            for name, transposed in (
                (self.gate, self.gate_up_transposed),
                (self.up, self.gate_up_transposed),
                (self.down, self.down_transposed),
            )
        )
        fused = self.gate == self.up
        tensors = ExpertTensors(
            gates=EachExpert(self.experts, lambda e: self._half(gate(e), 0, fused)[inner]),
            ups=EachExpert(self.experts, lambda e: self._half(up(e), 1, fused)[inner]),
            downs=EachExpert(self.experts, lambda e: down(e)[:, inner]),
        )
        if self.bias:
            gate_bias, up_bias, down_bias = (self._each(loading, name, False) for name in self.bias)
            both = self.bias[0] == self.bias[1]
            tensors = tensors._replace(
                gate_biases=EachExpert(self.experts, lambda e: self._half(gate_bias(e), 0, both)[inner]),
                up_biases=EachExpert(self.experts, lambda e: self._half(up_bias(e), 1, both)[inner]),
                down_biases=EachExpert(self.experts, lambda e: once(down_bias(e))),
            )
        return loading.packer.experts(local, tensors, loading.dtype)

    def per_token(self) -> int:
        return 3 * self.top_k * self.hidden * self.size

    def read_by(self, weight: PackedWeight, dtype: str) -> Iterator[OpRequest]:
        experts, size, hidden = weight.shape
        sizes = {"experts": experts, "hidden": hidden, "size": size, "top_k": self.top_k}
        facts = {"kind": self.kind, "clamped": self.clamped, "bias": bool(self.bias)}
        yield OpRequest.of("moe", dtype, key=weight.dispatch_key, format=weight.format, **sizes, **facts)

    def _each(self, loading: Loading, name: str, transposed: bool) -> Callable[[int], HostArray]:
        """An expert's tensor, [out, in] or [out]."""
        stored = self.stored()
        if "{e}" in name:
            names = [name.format(e=expert) for expert in range(self.experts)]
            tensors: Sequence[HostArray] = EachExpert(self.experts, lambda e: loading.read(names[e], stored[names[e]]))
        else:
            tensors = loading.read(name, stored[name])  # type: ignore[assignment]  # rows of an array
        return (lambda e: tensors[e].T) if transposed else (lambda e: tensors[e])

    def _half(self, tensor: HostArray, which: int, fused: bool) -> HostArray:
        """The rows of gate (0) or up (1), of a tensor that holds both if ``fused``."""
        if not fused:
            return tensor
        return tensor[which::2] if self.interleaved else tensor[which * self.size : (which + 1) * self.size]
