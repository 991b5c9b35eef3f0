"""The runtime's parts that need no GPU."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from fakes import FakeDevice
from zif.contract.arrays import ArraySpec
from zif.contract.errors import OutOfMemory
from zif.contract.weights import VectorSpec
from zif.reference.torch.packing import TorchPacker
from zif.reference.torch.runtime import TorchRuntime
from zif_cuda.packing import CudaPacker
from zif_cuda.runtime import CudaRuntime, _as_numpy


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, np.dtype(ml_dtypes.bfloat16)),
        (torch.float8_e4m3fn, np.dtype(ml_dtypes.float8_e4m3fn)),
        (torch.float32, np.dtype(np.float32)),
        (torch.int32, np.dtype(np.int32)),
        (torch.bool, np.dtype(np.bool_)),
    ],
)
def test_what_is_fetched_has_numpys_dtype_and_its_bits(dtype: torch.dtype, expected: Any) -> None:
    tensor = torch.tensor([[0, 1], [2, -3]]).to(dtype)
    host = _as_numpy(tensor)
    assert host.dtype == expected
    assert host.astype(np.float64).tolist() == tensor.double().tolist()


def test_memory_that_runs_out_at_load_says_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    runtime = CudaRuntime(FakeDevice())  # type: ignore[arg-type]
    value = np.zeros(1 << 20, np.float32)
    monkeypatch.setattr(TorchPacker, "rows", full)
    with pytest.raises(OutOfMemory, match=r"0\.5 of 1\.0 GiB free, and 0\.00 GiB"):
        CudaPacker(runtime).vector(VectorSpec("norm", value.shape), value, "float32")
    monkeypatch.setattr(TorchRuntime, "zeros", full)
    with pytest.raises(OutOfMemory, match=r"2\.00 GiB more .*--mem-fraction-static"):
        runtime.zeros(ArraySpec((1 << 29,), "float32"))
