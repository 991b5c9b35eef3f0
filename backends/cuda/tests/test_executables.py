"""Staging rings and captured programs, on a device that is the cpu."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fakes import FakeDevice
from zif.conformance.machinery import check_machinery
from zif.conformance.results import Recorder
from zif.contract.arrays import ArraySpec
from zif.contract.errors import OutOfMemory
from zif.contract.executable import ProgramFacts
from zif.contract.step import StepShape
from zif.reference.torch import TorchBackend, TorchRuntime
from zif_cuda.executables import CudaExecutable, CudaExecutables, GraphExecutable
from zif_cuda.staging import ALIGNMENT, DEPTH, Layout, Ring

X = {"x": ArraySpec((3,), "float32")}
DECODE = ProgramFacts(StepShape(1, 1, 1, 1, decode=True))


def floats(value: float) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.full(3, value, np.float32)}


def add(inputs: Any, resident: Any) -> Any:
    resident["sum"]["total"].add_(inputs["x"])
    return {"y": inputs["x"] * 2}, {"sum": {"total": resident["sum"]["total"]}}


def compiled(device: FakeDevice, *, graphs: bool = True, facts: Any = None) -> tuple[CudaExecutable, Any]:
    resident = {"sum": {"total": torch.zeros(3)}}
    device.world = [resident["sum"]["total"]]
    made = CudaExecutables(device, graphs=graphs).compile("add", add, X, X, resident, ("sum",), facts or DECODE)  # type: ignore[arg-type]
    return made, resident


@pytest.mark.parametrize("facts", [DECODE, ProgramFacts(repeated=True)], ids=["decode", "repeated"])
def test_a_program_is_captured_at_its_second_run_and_each_run_happens_once(facts: Any) -> None:
    device = FakeDevice()
    program, resident = compiled(device, facts=facts)
    assert isinstance(program, GraphExecutable)
    for number in range(1, 6):
        outputs, resident = program.run(program.stage(floats(number)), resident)
        assert outputs["y"].tolist() == [2 * number] * 3
        assert resident["sum"]["total"].tolist() == [number * (number + 1) / 2] * 3
    assert [graph.replays for graph in device.graphs] == [4]
    assert program.memory_bytes >= ALIGNMENT


def test_no_garbage_is_collected_while_a_graph_is_captured() -> None:
    """It may be another engine's graphs and memory: to free those ends a capture."""
    device = FakeDevice()
    collecting = []

    def program(inputs: Any, resident: Any) -> Any:
        collecting.append(gc.isenabled())
        return add(inputs, resident)

    resident = {"sum": {"total": torch.zeros(3)}}
    device.world = [resident["sum"]["total"]]
    made = CudaExecutables(device, graphs=True).compile("add", program, X, X, resident, ("sum",), DECODE)  # type: ignore[arg-type]
    for number in (1, 2):
        _, resident = made.run(made.stage(floats(number)), resident)
    assert collecting[:2] == [True, False]  # launched op by op, then captured
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("graphs", "facts"),
    [(False, DECODE), (True, replace(DECODE, capturable=False)), (True, ProgramFacts()),
     (False, ProgramFacts(repeated=True)),
     (True, ProgramFacts(repeated=True, capturable=False)),
     (True, ProgramFacts(StepShape(4, 2, 1, 4, decode=False))),
     (True, ProgramFacts(StepShape(1088, 2, 1, 2, decode=False)))],
)  # fmt: skip
def test_what_is_not_captured_gives_the_same(graphs: bool, facts: Any) -> None:
    device = FakeDevice()
    program, resident = compiled(device, graphs=graphs, facts=facts)
    assert not isinstance(program, GraphExecutable)
    for number in range(1, 4):
        outputs, resident = program.run(program.stage(floats(number)), resident)
        assert outputs["y"].tolist() == [2 * number] * 3
    assert resident["sum"]["total"].tolist() == [6.0] * 3
    assert not device.graphs


def test_a_graphs_output_keeps_its_value_when_it_is_staged_elsewhere() -> None:
    device = FakeDevice()
    executables = CudaExecutables(device, graphs=True)  # type: ignore[arg-type]
    first = executables.compile("first", lambda i, _: ({"y": i["x"] * 2}, {}), X, X, {}, (), DECODE)
    second = executables.compile("second", lambda i, _: ({"y": i["x"] * 2}, {}), X, X, {})
    for _ in range(2):
        first.run(first.stage(floats(5)), {})
    outputs, _ = first.run(first.stage(floats(1)), {})
    slot = second.stage({"x": outputs["y"]})
    first.run(first.stage(floats(9)), {})
    doubled, _ = second.run(slot, {})
    assert doubled["y"].tolist() == [4.0] * 3


def test_a_graphs_output_that_is_read_at_once_is_not_copied() -> None:
    executables = CudaExecutables(FakeDevice(), graphs=True)  # type: ignore[arg-type]
    read: list[int] = []
    first = executables.compile("first", lambda i, _: ({"y": i["x"] * 2}, {}), X, X, {}, (), DECODE)
    second = executables.compile("second", lambda i, _: (read.append(i["x"].data_ptr()) or {}, {}), X, {}, {})
    for _ in range(4):
        outputs, _ = first.run(first.stage(floats(5)), {})
        second.run(second.stage({"x": outputs["y"]}), {})
        assert read[-1] == outputs["y"].data_ptr()
    assert not executables._shared.lent


def test_residents_that_move_are_found_when_a_program_is_captured() -> None:
    device = FakeDevice()
    executables = CudaExecutables(device, graphs=True)  # type: ignore[arg-type]
    moving = executables.compile(
        "moving", lambda i, r: ({}, {"t": r["t"] + i["x"]}), X, {}, {"t": torch.zeros(3)}, ("t",), DECODE
    )
    moving.run(moving.stage(floats(1)), {"t": torch.zeros(3)})
    with pytest.raises(AssertionError, match="not updated in place"):
        moving.run(moving.stage(floats(1)), {"t": torch.zeros(3)})


def test_host_arrays_may_change_as_soon_as_they_are_staged() -> None:
    program, resident = compiled(FakeDevice())
    for _ in range(3):
        host = floats(1)
        slot = program.stage(host)
        host["x"][:] = 50
        outputs, resident = program.run(slot, resident)
        assert outputs["y"].tolist() == [2.0] * 3


def test_pinned_memory_is_written_again_only_after_its_transfer() -> None:
    device = FakeDevice()
    program, resident = compiled(device)
    device.slow = True
    for number in range(DEPTH):
        _, resident = program.run(program.stage(floats(number)), resident)
    assert device.waits == 0
    program.stage(floats(0))
    assert device.waits == 1


def test_slots_that_are_never_run_are_a_fault_and_not_a_hang() -> None:
    program, _ = compiled(FakeDevice())
    for _ in range(DEPTH):
        program.stage(floats(0))
    with pytest.raises(AssertionError, match="none of them was run"):
        program.stage(floats(0))


def test_two_slots_staged_before_either_is_run() -> None:
    program, resident = compiled(FakeDevice())
    slots = [program.stage(floats(number)) for number in (1, 2)]
    seen = [program.run(slot, resident)[0]["y"][0].item() for slot in slots]
    assert seen == [2.0, 4.0]
    with pytest.raises(AssertionError, match="run once"):
        program.run(slots[0], resident)


def test_wrong_inputs_are_named() -> None:
    program, _ = compiled(FakeDevice())
    with pytest.raises(AssertionError, match=r"takes \['x'\]"):
        program.stage({"z": np.zeros(3, np.float32)})
    with pytest.raises(AssertionError, match="x is"):
        program.stage({"x": np.zeros(4, np.float32)})


def test_every_input_begins_at_an_aligned_address() -> None:
    specs = {"a": ArraySpec((3,), "bool"), "b": ArraySpec((5, 2), "bfloat16"), "c": ArraySpec((1,), "int32")}
    layout = Layout(specs)
    assert [layout.offsets[name] % ALIGNMENT for name in specs] == [0, 0, 0]
    block = torch.zeros(layout.nbytes, dtype=torch.uint8)
    arrays, tensors = layout.arrays(block.numpy()), layout.tensors(block)
    for name, spec in specs.items():
        arrays[name][...] = 1
        assert tuple(tensors[name].shape) == spec.shape
        assert (tensors[name] == 1).all()


def test_a_ring_gives_its_chunks_in_turn() -> None:
    device = FakeDevice()
    ring = Ring(64, device.pinned, device.event, depth=3)
    chunks = []
    for _ in range(6):
        chunk = ring.claim()
        chunk.sent()
        chunks.append(id(chunk))
    assert chunks[:3] == chunks[3:]
    assert len(set(chunks)) == 3


@pytest.mark.parametrize("axis", ["tokens", "seqs", "decode_seqs", "pages", "logits", "rows", "history"])
def test_buckets(axis: str) -> None:
    executables = CudaExecutables(FakeDevice(), graphs=True)  # type: ignore[arg-type]
    for limit in (1, 7, 256, 300):
        extents = [executables.bucket(axis, size, limit) for size in range(1, limit + 1)]
        assert all(size <= extent <= limit for size, extent in enumerate(extents, 1))
        assert extents == sorted(extents)
        assert all(executables.bucket(axis, extent, limit) == extent for extent in extents)


def test_decode_has_few_buckets() -> None:
    executables = CudaExecutables(FakeDevice(), graphs=True)  # type: ignore[arg-type]
    assert len({executables.bucket("decode_seqs", size, 256) for size in range(1, 257)}) <= 24


def test_the_conformance_suites_checks_of_executables() -> None:
    backend = TorchBackend(TorchRuntime("cpu"))
    executables: Any = CudaExecutables(FakeDevice(), graphs=True)  # type: ignore[arg-type]
    backend.executables = executables
    recorder = Recorder(["executables"])
    check_machinery(backend, backend.kernels(), recorder)
    assert len(recorder.results) > 10
    assert not [result for result in recorder.results if result.status not in ("pass", "skip")]


@pytest.mark.parametrize("facts", [DECODE, ProgramFacts()], ids=["captured", "op by op"])
def test_a_step_that_does_not_fit_says_what_would_help(facts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program, resident = compiled(FakeDevice(), facts=facts)

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(program, "_fn", full)
    with pytest.raises(OutOfMemory, match=r"add: .* 0\.5 of 1\.0 GiB are free: lower --mem-fraction-static"):
        program.run(program.stage(floats(1)), resident)
