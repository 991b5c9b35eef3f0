"""The cuda backend's own kernels, for what neither the libraries nor the portable kernels do well."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from zif.contract.kernel import KernelSet, kernel
from zif.contract.ops import OpRequest
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.reference.torch.runtime import torch_dtype
from zif_cuda.launchers import BLOCK_K, MISSING, vector_linear, widened

Tensor = torch.Tensor


def _takes_vectors(_: object, request: OpRequest) -> str | None:
    if MISSING is not None:
        return MISSING
    if request["format"] != "dense":
        return f"reads dense weights, not {request['format']}"
    if request.dtype not in ("bfloat16", "float16"):
        return f"takes bfloat16 or float16, not {request.dtype}"
    if request["in_features"] % BLOCK_K:
        return f"takes inputs in multiples of {BLOCK_K}, not {request['in_features']}"
    return None


def _has_triton(_: object, request: OpRequest) -> str | None:
    return MISSING


class CudaKernels(KernelSet):
    """``linear`` of one token by a kernel of our own, of several by cuBLAS; and logits made float32 at memory speed."""

    provider = "cuda"

    @kernel("linear", when=_takes_vectors)
    def linear(self, x: Tensor, w: PackedWeight, step: Step | None = None) -> Tensor:
        if x.shape[0] == 1:
            return vector_linear(x, w.arrays["w"], w.arrays.get("b"))
        return F.linear(x, w.arrays["w"], w.arrays.get("b"))

    @kernel("cast", when=_has_triton)
    def cast(self, x: Tensor, dtype: str) -> Tensor:
        wide = x.dtype in (torch.bfloat16, torch.float16) and dtype == "float32"
        return widened(x) if wide and x.is_contiguous() and x.numel() else x.to(torch_dtype(dtype))
