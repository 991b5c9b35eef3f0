"""How NCCL's group is made and called: by a stand-in for the class, which torch for CPUs lacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import zif_cuda.communicator
from zif.contract.comm import Group
from zif.contract.info import Device
from zif_cuda.communicator import NcclCommunicator


class FakeNccl:
    """As torch's ProcessGroupNCCL, of two ranks that hold the same."""

    Options = SimpleNamespace

    def __init__(self, store: Any, rank: int, size: int, options: Any) -> None:
        self.made, self.aborted = (rank, size, options._timeout), 0
        self.calls: list[str] = []

    def allreduce(self, tensors: list[torch.Tensor], options: Any) -> Any:
        self._called("allreduce", options, *tensors)
        tensors[0].mul_(2)
        return SimpleNamespace(wait=lambda: None)

    def _allgather_base(self, out: torch.Tensor, x: torch.Tensor, options: Any) -> Any:
        self._called("allgather", options, out, x)
        out.copy_(torch.cat([x, x]))
        return SimpleNamespace(wait=lambda: None)

    def abort(self) -> None:
        self.aborted += 1

    def _called(self, name: str, options: Any, *tensors: torch.Tensor) -> None:
        assert options.asyncOp is False, "work of its own stream is not in order with kernels, nor captured"
        assert all(tensor.is_contiguous() for tensor in tensors)
        self.calls.append(name)


class Stuck(FakeNccl):
    """Waits for what never comes."""

    def abort(self) -> None:
        threading.Event().wait()


class FakeGpu:
    """What a communicator asks of its device."""

    def __init__(self) -> None:
        self.graphs = ["graph"]

    def empty(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def release_graphs(self) -> None:
        self.graphs.clear()


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def connect(tmp_path: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Callable[[type], NcclCommunicator]:
    def connected(nccl: type) -> NcclCommunicator:
        monkeypatch.setattr(zif_cuda.communicator, "c10d", SimpleNamespace(ProcessGroupNCCL=nccl))
        devices = tuple(Device(name="gpu", index=index) for index in range(2))
        return NcclCommunicator(gpu, Group(1, devices, str(tmp_path)))  # type: ignore[arg-type]

    return connected


def test_collectives_are_on_the_current_stream_and_the_first_connects(
    connect: Callable[[type], NcclCommunicator],
) -> None:
    communicator = connect(FakeNccl)
    group: Any = communicator._group
    assert group.made[:2] == (1, 2)
    assert group.calls == ["allreduce"], "a capture could not connect"
    x = torch.arange(6.0).reshape(3, 2)
    torch.testing.assert_close(communicator.all_reduce(x.T), 2 * x.T, rtol=0, atol=0)
    torch.testing.assert_close(communicator.all_gather(x[:, 1:]), x[:, [1, 1]], rtol=0, atol=0)
    communicator.close()
    communicator.close()
    assert group.aborted == 1


def test_graphs_go_before_the_connections_that_they_hold(
    connect: Callable[[type], NcclCommunicator], gpu: FakeGpu
) -> None:
    held: list[int] = []

    class Waiting(FakeNccl):
        def abort(self) -> None:
            held.append(len(gpu.graphs))

    connect(Waiting).close()
    assert held == [0], "NCCL would wait for the graphs"


def test_closing_ends_though_nccl_does_not(
    connect: Callable[[type], NcclCommunicator], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(zif_cuda.communicator, "CLOSING_SECONDS", 0.05)
    connect(Stuck).close()
    assert "NCCL has not cut its connections" in caplog.text
