"""The runtime's parts that need no GPU."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from types import SimpleNamespace
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
from zif_cuda.device import CudaDevice
from zif_cuda.fetching import SMALLEST, Fetches, as_numpy
from zif_cuda.packing import CudaPacker
from zif_cuda.runtime import CudaRuntime


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
    host = as_numpy(tensor)
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


def test_graphs_are_released_together_as_far_as_they_are_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Graph:
        resets = 0

        def reset(self) -> None:
            Graph.resets += 1

        def capture_begin(self, **_: Any) -> None: ...
        def capture_end(self) -> None: ...

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in {
        "CUDAGraph": Graph, "current_stream": lambda device: stream, "Stream": lambda device: stream,
        "stream": nullcontext, "graph_pool_handle": object, "set_device": lambda device: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    device = CudaDevice(0)
    monkeypatch.setattr(device, "empty", torch.empty)
    graph, result = device.capture(lambda: "launched")
    assert result == "launched"
    dropped = device.capture(lambda: None)[0]
    del dropped
    gc.collect()
    device.release_graphs()
    assert Graph.resets == 2, "the graph, and the one that keeps the pool"
    device.release_graphs()
    assert Graph.resets == 2
    del graph


def test_fetches_use_memory_again_once_they_have_arrived() -> None:
    device = FakeDevice()
    fetches = Fetches(device)  # type: ignore[arg-type]
    outputs = {"tokens": torch.arange(3, dtype=torch.int32), "logprob": torch.tensor([0.5, 1.5, 2.5])}
    first = fetches.fetch(outputs)
    outputs["tokens"] += 10
    second = fetches.fetch(outputs)
    outputs["tokens"].zero_()
    landed = second.wait()
    third = fetches.fetch(outputs)
    assert third._landing is second._landing is not first._landing
    third.wait()
    assert landed["tokens"].tolist() == [10, 11, 12]
    assert second.wait() is landed
    assert first.wait()["tokens"].tolist() == [0, 1, 2]
    assert first.wait()["logprob"].tolist() == [0.5, 1.5, 2.5]


def test_memory_of_a_fetch_that_nobody_reads_is_let_go_once_it_is_written() -> None:
    device = FakeDevice()
    device.slow = True
    fetch = Fetches(device).fetch({"x": torch.ones(3)})  # type: ignore[arg-type]
    assert device.waits == 0
    del fetch
    gc.collect()
    assert device.waits == 1


def test_a_fetch_is_ready_when_its_event_is() -> None:
    device = FakeDevice()
    device.slow = True
    fetch = Fetches(device).fetch({"x": torch.ones(SMALLEST)})  # type: ignore[arg-type]
    assert not fetch.ready()
    assert fetch.wait()["x"].sum() == SMALLEST
    assert fetch.ready()
    assert device.waits == 1
