"""Weights in the checkpoint's own layout, format ``dense``, for any framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from zif.contract.arrays import Tree
from zif.contract.packer import HostTensors
from zif.contract.weights import EmbeddingSpec, ExpertsSpec, HeadsSpec, LinearSpec, PackedWeight, VectorSpec


class DensePacker(ABC):
    """Packs to ``dense``: ``w`` [out, in], parts one below the other, and maybe ``b`` [out].

    Experts are ``gate_up`` [experts, 2 size, hidden] and ``down`` [experts, hidden, size].
    """

    @abstractmethod
    def rows(self, parts: HostTensors, dtype: str) -> Any:
        """Host tensors joined along their first axis, on the device, in ``dtype``."""

    @abstractmethod
    def stack(self, layers: Sequence[Tree]) -> Tree:
        """See :class:`zif.contract.backend.Packer`."""

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight:
        arrays = {"w": self.rows(weights, dtype)}
        if biases:
            arrays["b"] = self.rows(biases, dtype)
        return PackedWeight(arrays, "dense", (spec.rows, spec.in_features))

    def embedding(self, spec: EmbeddingSpec, table: np.ndarray[Any, Any], dtype: str) -> PackedWeight:
        return PackedWeight({"w": self.rows([table], dtype)}, "dense", (spec.vocab, spec.hidden))

    def tied(self, spec: LinearSpec, embedding: PackedWeight) -> PackedWeight:
        return embedding

    def vector(self, spec: VectorSpec, value: np.ndarray[Any, Any], dtype: str) -> Any:
        return self.rows([value], spec.dtype or dtype)

    def experts(
        self, spec: ExpertsSpec, gates: HostTensors, ups: HostTensors, downs: HostTensors, dtype: str
    ) -> PackedWeight:
        gate_up = [part for pair in zip(gates, ups, strict=True) for part in pair]
        arrays = {
            "gate_up": self.rows(gate_up, dtype).reshape(spec.experts, 2 * spec.size, spec.hidden),
            "down": self.rows(downs, dtype).reshape(spec.experts, spec.hidden, spec.size),
        }
        return PackedWeight(arrays, "dense", spec.shape)

    def heads(self, spec: HeadsSpec, weight: np.ndarray[Any, Any], dtype: str) -> PackedWeight:
        return PackedWeight({"w": self.rows([weight], dtype)}, "dense", spec.shape)
