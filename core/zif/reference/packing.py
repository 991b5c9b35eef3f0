"""Weights in the checkpoint's own layout, format ``dense``, for any framework."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zif.contract.arrays import Tree
from zif.contract.packer import HostTensors, Packer
from zif.contract.weights import (
    EmbeddingSpec,
    ExpertsSpec,
    ExpertTensors,
    HeadsSpec,
    HostArray,
    LinearSpec,
    PackedWeight,
    VectorSpec,
)


class DensePacker(Packer):
    """Packs to ``dense``: ``w`` [out, in], parts one below the other, and maybe ``b`` [out].

    Experts are ``gate_up`` [experts, 2 size, hidden] and ``down`` [experts, hidden, size], and where they have biases
    ``gate_up_bias`` [experts, 2 size] and ``down_bias`` [experts, hidden].
    """

    @abstractmethod
    def rows(self, parts: Iterable[HostArray], shape: tuple[int, ...], dtype: str) -> Any:
        """Host tensors joined along their first axis to one of ``shape``, on the device, in ``dtype``.

        Reads one part after the other, each once.
        """

    @abstractmethod
    def stack(self, layers: Sequence[Tree]) -> Tree:
        """See :class:`zif.contract.packer.Packer`."""

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight:
        shape = (spec.rows, spec.in_features)
        arrays = {"w": self.rows(weights, shape, dtype)}
        if biases:
            arrays["b"] = self.rows(biases, shape[:1], dtype)
        return PackedWeight(arrays, "dense", shape)

    def embedding(self, spec: EmbeddingSpec, table: HostArray, dtype: str) -> PackedWeight:
        shape = (spec.vocab, spec.hidden)
        return PackedWeight({"w": self.rows([table], shape, dtype)}, "dense", shape)

    def tied(self, spec: LinearSpec, embedding: PackedWeight) -> PackedWeight:
        return embedding

    def vector(self, spec: VectorSpec, value: HostArray, dtype: str) -> Any:
        return self.rows([value], spec.shape, spec.dtype or dtype)

    def experts(self, spec: ExpertsSpec, tensors: ExpertTensors, dtype: str) -> PackedWeight:
        experts, size, hidden = spec.shape

        def joined(parts: Iterable[HostArray], *shape: int) -> Any:
            return self.rows(parts, (experts * shape[0], *shape[1:]), dtype).reshape(experts, *shape)

        arrays = {
            "gate_up": joined(_in_turn(tensors.gates, tensors.ups), 2 * size, hidden),
            "down": joined(tensors.downs, hidden, size),
        }
        if spec.bias:
            arrays["gate_up_bias"] = joined(_in_turn(tensors.gate_biases, tensors.up_biases), 2 * size)
            arrays["down_bias"] = joined(tensors.down_biases, hidden)
        return PackedWeight(arrays, "dense", spec.shape)

    def heads(self, spec: HeadsSpec, weight: HostArray, dtype: str) -> PackedWeight:
        return PackedWeight({"w": self.rows([weight], spec.shape, dtype)}, "dense", spec.shape)


def _in_turn(gates: Iterable[HostArray], ups: Iterable[HostArray]) -> Iterator[HostArray]:
    for pair in zip(gates, ups, strict=True):
        yield from pair
