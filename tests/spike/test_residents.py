"""Who owns which buffer: donated residents, staged inputs, and a device that refuses all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spike.frameworks import JAX, TORCH, Framework
from spike.loop import Loop, Sequences
from spike.shared import FRAMEWORKS, MODELS, WORK, Shaped, loop
from zif.contract.arrays import ArraySpec, tree_leaves
from zif.contract.backend import Backend
from zif.null.backend import NullBackend, NullOptions
from zif.null.device import NullArray

INT, STATE = ArraySpec((4,), "int32"), ArraySpec((3, 4), "float32")


def address(array: Any) -> int:
    found: int = array.unsafe_buffer_pointer() if hasattr(array, "unsafe_buffer_pointer") else array.data_ptr()
    return found


def adding(inputs: Any, resident: Any) -> Any:
    """Adds the input to the state; puts out what it had been plus the weights."""
    total = resident["state"]["s"] + inputs["x"]
    return {"sum": resident["weights"]["w"] + resident["state"]["s"]}, {"state": {"s": total}}


def setup(backend: Backend, fn: Any = adding) -> tuple[Any, dict[str, Any]]:
    runtime = backend.runtime
    resident = {
        "state": {"s": runtime.zeros(STATE)},
        "weights": {"w": runtime.put(np.ones((3, 4), np.float32))},
    }
    compiled = backend.executables.compile("adding", fn, {"x": INT}, {"sum": STATE}, resident, ("state",))
    return compiled, resident


# --- donation ---


def test_jax_gives_a_donated_buffer_to_the_update_and_deletes_the_array() -> None:
    executable, resident = setup(JAX.backend())
    before, kept = resident["state"]["s"], resident["weights"]["w"]
    at = address(before)
    outputs, updates = executable.run(executable.stage({"x": np.full(4, 2, np.int32)}), resident)
    assert before.is_deleted()
    assert not kept.is_deleted()
    assert address(updates["state"]["s"]) == at
    assert np.asarray(updates["state"]["s"]).tolist() == [[2.0] * 4] * 3
    assert np.asarray(outputs["sum"]).tolist() == [[1.0] * 4] * 3


@FRAMEWORKS
@MODELS
def test_a_model_s_cache_stays_where_it_is_from_step_to_step(framework: Framework, model: Shaped) -> None:
    """In place on torch, by donation on JAX: no second copy of it."""
    of = loop(framework, model)
    cache = list(tree_leaves(of.store.arrays))
    before = [address(leaf) for leaf in cache]
    of.generate(WORK, 3)
    assert [address(leaf) for leaf in tree_leaves(of.store.arrays)] == before
    assert all(framework is TORCH or leaf.is_deleted() for leaf in cache)


def test_a_program_that_gives_back_another_shape_is_refused_when_compiled() -> None:
    def narrowing(inputs: Any, resident: Any) -> Any:
        return {"sum": resident["weights"]["w"]}, {"state": {"s": resident["state"]["s"][:, :2]}}

    with pytest.raises(AssertionError, match=r"resident 'state' comes back as .*\(3, 2\)"):
        setup(JAX.backend(), narrowing)


def test_a_program_that_keeps_what_it_consumed_is_refused_when_compiled() -> None:
    with pytest.raises(AssertionError, match=r"updates \[\], and consumes \['state'\]"):
        setup(JAX.backend(), lambda inputs, resident: ({"sum": resident["weights"]["w"]}, {}))


# --- staging ---


@FRAMEWORKS
def test_the_host_may_overwrite_what_it_has_staged(framework: Framework) -> None:
    """Large, and aligned as frameworks like it, so that an alias would be taken where one can be."""
    size = 1 << 16
    spec = ArraySpec((size,), "int32")
    backend = framework.backend()
    executable = backend.executables.compile(
        "reading", lambda inputs, resident: ({"y": inputs["x"] * 2}, {}), {"x": spec}, {"y": spec}, {}
    )
    room = np.zeros(size + 64, np.int32)
    host = room[(-room.ctypes.data % 64) // 4 :][:size]
    host[:] = 1
    slot = executable.stage({"x": host})
    host[:] = 9
    outputs, _ = executable.run(slot, {})
    host[:] = 8
    assert (backend.runtime.fetch(outputs).wait()["y"] == 2).all()


@FRAMEWORKS
def test_the_host_may_overwrite_what_it_has_put(framework: Framework) -> None:
    runtime = framework.backend().runtime
    room = np.zeros((1 << 16) + 64, np.float32)
    host = room[(-room.ctypes.data % 64) // 4 :][: 1 << 16]
    array = runtime.put(host)
    host[:] = 7
    assert (runtime.fetch({"x": array}).wait()["x"] == 0).all()


@FRAMEWORKS
def test_an_output_may_be_staged_for_another_executable(framework: Framework) -> None:
    backend = framework.backend()
    first, resident = setup(backend)
    second = backend.executables.compile(
        "doubling", lambda inputs, resident: ({"y": inputs["x"] * 2}, {}), {"x": STATE}, {"y": STATE}, {}
    )
    outputs, updates = first.run(first.stage({"x": np.full(4, 5, np.int32)}), resident)
    slot = second.stage({"x": outputs["sum"]})
    first.run(first.stage({"x": np.zeros(4, np.int32)}), {**resident, **updates})
    doubled, _ = second.run(slot, {})
    assert backend.runtime.fetch(doubled).wait()["y"].tolist() == [[2.0] * 4] * 3


def test_jax_refuses_a_slot_that_was_run_and_arrays_that_were_not_declared() -> None:
    executable, resident = setup(JAX.backend())
    slot = executable.stage({"x": np.zeros(4, np.int32)})
    _, updates = executable.run(slot, resident)
    with pytest.raises(ValueError, match="a slot is run once"):
        executable.run(slot, {**resident, **updates})
    with pytest.raises(ValueError, match=r"input 'x' is int64 \(4,\), declared int32 \(4,\)"):
        executable.stage({"x": np.zeros(4, np.int64)})
    with pytest.raises(ValueError, match=r"takes \['x'\], staged were \['y'\]"):
        executable.stage({"y": np.zeros(4, np.int32)})
    with pytest.raises(ValueError, match="int64 is wider than the 32 bits"):
        JAX.backend().runtime.put(np.zeros(4, np.int64))


# --- a device that knows the rules ---


@MODELS
@pytest.mark.parametrize("overlap", [False, True], ids=["read at once", "overlapped"])
def test_the_loop_breaks_no_rule_of_the_null_device(model: Shaped, overlap: bool) -> None:
    """It checks every resident, donation and slot, and poisons the slots of runs that have ended."""
    of = Loop(TORCH, model, backend=NullBackend(NullOptions(token=5)))
    for fuse in (True, False):
        work = Sequences.of([[1, 2, 3], [4, 5]])
        assert of.generate(work, 4, fuse=fuse, overlap=overlap) == [[5] * 4] * 2
    assert of.backend.device.runs > 10


def null_setup() -> tuple[Any, dict[str, Any]]:
    return setup(NullBackend(NullOptions()))


def test_the_null_device_refuses_a_buffer_that_was_not_staged() -> None:
    executable, resident = null_setup()
    slot = executable.stage({"x": np.zeros(4, np.int32)})
    with pytest.raises(AssertionError, match=r"a host array of float32.*not staged through an executable"):
        executable.run(slot, {**resident, "state": {"s": np.zeros((3, 4), np.float32)}})


def test_the_null_device_refuses_what_was_donated() -> None:
    executable, resident = null_setup()
    executable.run(executable.stage({"x": np.zeros(4, np.int32)}), resident)
    with pytest.raises(AssertionError, match=r"stale handle.*donated to run 1 of adding"):
        executable.run(executable.stage({"x": np.zeros(4, np.int32)}), resident)


def test_the_null_device_poisons_a_slot_whose_run_has_ended() -> None:
    executable, resident = null_setup()
    slot = executable.stage({"x": np.zeros(4, np.int32)})
    executable.run(slot, resident)
    executable._device.settle()
    assert (slot.buffers["x"].view(np.uint8) == 0xA5).all()
    assert all(isinstance(leaf, NullArray) for leaf in tree_leaves(resident))
