"""Planted bugs in executables and transfers, on a device that is behind the host, as real ones are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from zif.conformance.results import Recorder, Report
from zif.conformance.runner import check_backend
from zif.contract.arrays import tree_leaves
from zif.contract.backend import Capabilities
from zif.reference.torch import TorchBackend, TorchRuntime, torch_dtype
from zif.reference.torch.runtime import copy_into, to_numpy


class Queue:
    """Work that the device has not got round to."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def flush(self) -> None:
        while self.work:
            self.work.pop(0)()


class Slot:
    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        self.inputs = inputs
        self.busy = False


class QueuedExecutable:
    """Runs when the host waits, and not before. Keyword arguments plant bugs."""

    memory_bytes = 0

    def __init__(
        self, queue: Queue, name: str, fn: Any, inputs: Any, outputs: Any, donate: Any, bugs: set[str]
    ) -> None:
        self.name, self._fn, self._queue, self._donate, self._bugs = name, fn, queue, donate, bugs
        depth = 1 if "ring of one, never waited for" in bugs else 2
        self._ring = [Slot(_buffers(inputs)) for _ in range(depth)]
        self._outputs = _buffers(outputs)
        self._next = 0

    def stage(self, inputs: Any) -> Slot:
        slot = self._ring[self._next]
        self._next = (self._next + 1) % len(self._ring)
        if slot.busy and "ring of one, never waited for" not in self._bugs:
            self._queue.flush()
        slot.busy = True
        if "staging aliases" in self._bugs:
            slot.inputs = {
                key: torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind != "V" else value
                for key, value in inputs.items()
            }
            return slot
        for key, value in inputs.items():
            if not isinstance(value, torch.Tensor):
                copy_into(slot.inputs[key], value)
            elif "outputs are staged at once" in self._bugs:
                slot.inputs[key].copy_(value)
            else:
                self._queue.work.append(lambda key=key, value=value: slot.inputs[key].copy_(value))  # type: ignore[misc]
        if "staged outputs are read late" in self._bugs:
            slot.inputs |= {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        return slot

    def run(self, slot: Slot, resident: Any) -> Any:
        def work() -> None:
            outputs, updates = self._fn(slot.inputs, dict(resident))
            for key, value in outputs.items():
                self._outputs[key].copy_(value)
            if "updates are lost" not in self._bugs:
                for key in self._donate:
                    for old, new in zip(tree_leaves(resident[key]), tree_leaves(updates[key]), strict=True):
                        old.copy_(new)
            slot.busy = False

        self._queue.work.append(work)
        kept = self._donate if "all residents are updates" not in self._bugs else resident
        return dict(self._outputs), {key: resident[key] for key in kept} | (
            {"more": resident} if "all residents are updates" in self._bugs else {}
        )


class QueuedExecutables:
    def __init__(self, queue: Queue, bugs: set[str]) -> None:
        self._queue, self._bugs = queue, bugs

    def bucket(self, axis: str, size: int, limit: int) -> int:
        if "bucket passes the limit" in self._bugs:
            return -(-size // 16) * 16
        if "bucket too small" in self._bugs:
            return size // 16 * 16 or 16
        return min(-(-size // 16) * 16, limit)

    def compile(
        self, name: str, fn: Any, inputs: Any, outputs: Any, resident: Any, donate: Any = (), facts: Any = None
    ) -> QueuedExecutable:
        return QueuedExecutable(self._queue, name, fn, inputs, outputs, donate, self._bugs)


class QueuedFetch:
    def __init__(self, queue: Queue, arrays: Any, late: bool) -> None:
        self._queue, self._arrays, self._late = queue, dict(arrays), late
        if not late:
            queue.work.append(self._copy)

    def _copy(self) -> None:
        self._arrays = {key: to_numpy(value) for key, value in self._arrays.items()}

    def ready(self) -> bool:
        return False

    def wait(self) -> Any:
        self._queue.flush()
        if self._late:
            self._copy()
        return self._arrays


class QueuedRuntime(TorchRuntime):
    def __init__(self, queue: Queue, bugs: set[str]) -> None:
        super().__init__()
        self._queue, self._bugs = queue, bugs

    def put(self, host: Any) -> Any:
        if "put aliases" in self._bugs and host.dtype.kind in "fi":
            return torch.from_numpy(host)
        return super().put(host)

    def zeros(self, spec: Any) -> Any:
        if "zeros are not cleared" in self._bugs:
            return torch.full(spec.shape, 3, dtype=torch_dtype(spec.dtype))
        return super().zeros(spec)

    def fetch(self, arrays: Any) -> Any:
        return QueuedFetch(self._queue, arrays, "fetch reads late" in self._bugs)

    def synchronize(self) -> None:
        self._queue.flush()


class QueuedBackend(TorchBackend):
    capabilities = Capabilities(dtypes=("float32",))

    def __init__(self, *bugs: str) -> None:
        queue = Queue()
        super().__init__(QueuedRuntime(queue, set(bugs)))
        self.executables = QueuedExecutables(queue, set(bugs))  # type: ignore[assignment]


def _buffers(specs: Any) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(spec.shape, dtype=torch_dtype(spec.dtype)) for key, spec in specs.items()}


def failures(*bugs: str) -> set[str]:
    recorder = Recorder(["runtime", "executables"])
    check_backend(QueuedBackend(*bugs), ("llm",), recorder)
    report = Report("queued", "tests", recorder.results)
    assert report.passed == (not report.failures())
    return {f"{failure.section}/{failure.subject}" for failure in report.failures()}


def test_a_device_that_lags_behind_the_host_conforms() -> None:
    assert failures() == set()


@pytest.mark.parametrize(
    ("bug", "caught"),
    [
        ("ring of one, never waited for", "executables/a slot in flight is not overwritten"),
        ("staging aliases", "executables/staged inputs are copies"),
        ("outputs are staged at once", "executables/an output staged elsewhere keeps its value"),
        ("staged outputs are read late", "executables/an output staged elsewhere keeps its value"),
        ("updates are lost", "executables/donated residents carry on"),
        ("all residents are updates", "executables/donated residents carry on"),
        ("fetch reads late", "executables/a fetch holds what was there when it began"),
        ("put aliases", "runtime/transfer"),
        ("zeros are not cleared", "runtime/zeros"),
        ("bucket passes the limit", "executables/bucket"),
        ("bucket too small", "executables/bucket"),
    ],
)
def test_a_planted_bug_is_caught(bug: str, caught: str) -> None:
    assert caught in failures(bug)
