"""Weights on the GPU, in the checkpoint's own layout."""

from __future__ import annotations

import torch

from zif.contract.backend import HostTensors
from zif.reference.torch.packing import TorchPacker
from zif_cuda.runtime import CudaRuntime


class CudaPacker(TorchPacker):
    """The reference's packer, which says what would help where memory runs out."""

    runtime: CudaRuntime

    def rows(self, parts: HostTensors, dtype: str) -> torch.Tensor:
        try:
            return super().rows(parts, dtype)
        except torch.OutOfMemoryError as error:
            raise self.runtime.out_of_memory(sum(part.nbytes for part in parts)) from error
