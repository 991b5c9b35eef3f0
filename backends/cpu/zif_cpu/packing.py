"""Weights as the native kernels read them: format ``panels``.

32 rows of W [out, in] side by side, the inner dimension leading: bfloat16 [out/32, in/2, 32, 2],
float32 [out/32, in, 32], the last panel filled up with zeros. One copy serves decode, prefill and,
where embeddings are tied, the table.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from zif.contract import EmbeddingSpec, HostTensors, LinearSpec, PackedWeight
from zif.reference.torch.packing import TorchPacker
from zif.reference.torch.runtime import TorchRuntime, torch_dtype
from zif_cpu.native import DTYPES, PANEL, Native

FORMAT = "panels"


def unpackable(in_features: int, dtype: str) -> str | None:
    """Why a weight is left ``dense``, or None where it can be packed."""
    if dtype not in DTYPES:
        return f"packs {' or '.join(DTYPES)}, not {dtype}"
    if dtype == "bfloat16" and in_features % 2:
        return f"packs an even number of inputs, not {in_features}"
    return None


class PanelPacker(TorchPacker):
    """Packs linears and embeddings into panels, straight from the host's tensors; the rest is torch's."""

    def __init__(self, runtime: TorchRuntime, native: Native) -> None:
        super().__init__(runtime)
        self._native = native

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight:
        if unpackable(spec.in_features, dtype) is not None:
            return super().linear(spec, weights, biases, dtype)
        arrays = {"w": self._panels(weights, spec.rows, spec.in_features, dtype)}
        if biases:
            arrays["b"] = self.rows(biases, (spec.rows,), "float32")
        return PackedWeight(arrays, FORMAT, (spec.rows, spec.in_features))

    def embedding(self, spec: EmbeddingSpec, table: np.ndarray[Any, Any], dtype: str) -> PackedWeight:
        if unpackable(spec.hidden, dtype) is not None:
            return super().embedding(spec, table, dtype)
        panels = self._panels([table], spec.vocab, spec.hidden, dtype)
        return PackedWeight({"w": panels}, FORMAT, (spec.vocab, spec.hidden))

    def _panels(self, parts: HostTensors, rows: int, in_features: int, dtype: str) -> torch.Tensor:
        step = 2 if dtype == "bfloat16" else 1
        panels = torch.empty((-(-rows // PANEL), in_features // step, PANEL, step), dtype=torch_dtype(dtype))
        panels[-1].zero_()
        numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        first = 0
        for part in parts:
            host = np.ascontiguousarray(part, dtype=numpy_dtype)
            self._native.pack_rows(panels, first, host.ctypes.data, host.shape[0], in_features)
            first += host.shape[0]
        assert first == rows, f"{rows} rows were declared and {first} came"
        return panels
