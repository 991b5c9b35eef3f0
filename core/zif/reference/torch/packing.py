"""Weights as torch tensors in the checkpoint's own layout: format ``dense``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from zif.contract.arrays import Tree
from zif.contract.backend import HostTensors
from zif.contract.weights import EmbeddingSpec, ExpertsSpec, HeadsSpec, LinearSpec, LoopStack, PackedWeight, VectorSpec
from zif.reference.torch.runtime import TorchRuntime, copy_into, torch_dtype


class TorchPacker:
    """Packs to ``dense``: ``w`` [out, in], parts one below the other, and maybe ``b`` [out]."""

    def __init__(self, runtime: TorchRuntime) -> None:
        self.runtime = runtime

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight:
        arrays = {"w": self._rows(weights, dtype)}
        if biases:
            arrays["b"] = self._rows(biases, dtype)
        return PackedWeight(arrays, "dense", (spec.rows, spec.in_features))

    def embedding(self, spec: EmbeddingSpec, table: np.ndarray[Any, Any], dtype: str) -> PackedWeight:
        return PackedWeight({"w": self._rows([table], dtype)}, "dense", (spec.vocab, spec.hidden))

    def tied(self, spec: LinearSpec, embedding: PackedWeight) -> PackedWeight:
        return embedding

    def vector(self, spec: VectorSpec, value: np.ndarray[Any, Any], dtype: str) -> Any:
        return self._rows([value], spec.dtype or dtype)

    def experts(
        self, spec: ExpertsSpec, gates: HostTensors, ups: HostTensors, downs: HostTensors, dtype: str
    ) -> PackedWeight:
        gate_up = [part for pair in zip(gates, ups, strict=True) for part in pair]
        arrays = {
            "gate_up": self._rows(gate_up, dtype).reshape(spec.experts, 2 * spec.size, spec.hidden),
            "down": self._rows(downs, dtype).reshape(spec.experts, spec.hidden, spec.size),
        }
        return PackedWeight(arrays, "dense", spec.shape)

    def heads(self, spec: HeadsSpec, weight: np.ndarray[Any, Any], dtype: str) -> PackedWeight:
        return PackedWeight({"w": self._rows([weight], dtype)}, "dense", spec.shape)

    def stack(self, layers: Sequence[Tree]) -> LoopStack:
        return LoopStack(list(layers))

    def _rows(self, parts: HostTensors, dtype: str) -> torch.Tensor:
        """Host tensors joined along their first axis, on the device, in ``dtype``."""
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        joined = torch.empty(shape, dtype=torch_dtype(dtype), device=self.runtime.device)
        row = 0
        for part in parts:
            target = joined[row : row + part.shape[0]]
            if part.dtype.name == dtype:
                copy_into(target, part)
            else:
                target.copy_(self.runtime.put(part))
            row += part.shape[0]
        return joined
