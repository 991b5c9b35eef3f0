"""The cuda backend's own kernels besides its linears, for what neither libraries nor the portable kernels do well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zif.contract.kernel import KernelSet, kernel
from zif.reference.torch.runtime import torch_dtype
from zif_cuda.launchers import widened

if TYPE_CHECKING:
    from zif.portable.triton import Launch

Tensor = torch.Tensor


class CudaKernels(KernelSet):
    """``cast`` of logits to float32 at memory speed."""

    provider = "cuda"

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    @kernel("cast")
    def cast(self, x: Tensor, dtype: str) -> Tensor:
        wide = x.dtype in (torch.bfloat16, torch.float16) and dtype == "float32"
        return widened(self._launch, x) if wide and x.is_contiguous() and x.numel() else x.to(torch_dtype(dtype))
