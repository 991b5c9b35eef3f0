"""Weights on the GPU, in the checkpoint's own layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from zif.contract import ArraySpec, HostArray, HostTensors, LinearSpec, PackedWeight
from zif.reference.torch.packing import TorchPacker
from zif_cuda.runtime import CudaRuntime

SUMMED = "summed"
"""The fact of a weight whose result goes to a norm or a sum alone, so that it may stay in parts until then."""


class CudaPacker(TorchPacker):
    """The reference's packer, which says what would help where memory runs out."""

    runtime: CudaRuntime

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight:
        packed = super().linear(spec, weights, biases, dtype)
        return replace(packed, facts=(*packed.facts, SUMMED)) if spec.split == "rows" else packed

    def rows(self, parts: Iterable[HostArray], shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        try:
            return super().rows(parts, shape, dtype)
        except torch.OutOfMemoryError as error:
            raise self.runtime.out_of_memory(ArraySpec(shape, dtype).nbytes) from error
