"""The null device keeps an asynchronous device's time, and enforces the rules of buffers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from zif.contract.arrays import ArraySpec
from zif.contract.errors import InvalidSettings, NoUsableDevice, OutOfMemory
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.null.backend import NullBackend, NullOptions

IDS = ArraySpec((4,), "int32")
LOGITS = ArraySpec((4, 9), "float32")


def never(*_: Any) -> Any:
    raise AssertionError("the null device ran a program")


def decode(backend: NullBackend, cache: Any = None) -> Any:
    """A program that takes ids, and consumes ``cache`` if there is one."""
    resident = {"cache": cache} if cache is not None else {}
    outputs = {"tokens": IDS, "logits": LOGITS}
    return backend.executables.compile("decode", never, {"ids": IDS}, outputs, resident, tuple(resident))


def ids(value: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    return {"ids": np.full(4, value, np.int32)}


@pytest.fixture
def backend() -> NullBackend:
    return NullBackend()


@pytest.fixture
def cache(backend: NullBackend) -> Any:
    return {"g": {"k": backend.runtime.zeros(ArraySpec((2, 8), "bfloat16"))}}


def test_outputs_are_made_up_as_asked(backend: NullBackend, cache: Any) -> None:
    program = decode(backend, cache)
    outputs, _ = program.run(program.stage(ids()), {"cache": cache})
    got = backend.runtime.fetch(outputs).wait()
    assert got["tokens"].tolist() == [7] * 4
    assert got["logits"].shape == (4, 9)
    assert not got["logits"].any()


def test_hashed_tokens_depend_on_what_was_staged() -> None:
    backend = NullBackend(NullOptions(token=None))
    program = decode(backend)
    got = []
    for value in (1, 1, 2):
        outputs, _ = program.run(program.stage(ids(value)), {})
        got.append(backend.runtime.fetch(outputs).wait()["tokens"].tolist())
    assert got[0] == got[1] != got[2]
    assert all(0 < token < 64 for row in got for token in row)


def test_the_caller_may_overwrite_what_it_staged() -> None:
    backend = NullBackend(NullOptions(token=None))
    program = decode(backend)
    host = ids(1)
    slot = program.stage(host)
    host["ids"][:] = 2
    first, _ = program.run(slot, {})
    first_tokens = backend.runtime.fetch(first).wait()["tokens"]
    again, _ = program.run(program.stage(ids(1)), {})
    assert (first_tokens == backend.runtime.fetch(again).wait()["tokens"]).all()


@pytest.mark.parametrize(
    ("resident", "named"),
    [
        ({"cache": np.zeros(3)}, "resident 'cache' is a host array of float64"),
        ({"cache": {"g": [object()]}}, r"resident 'cache'\['g'\]\[0\] is a builtins.object: not staged"),
        ({}, r"run with residents \[\], compiled for \['cache'\]"),
    ],
)
def test_foreign_buffers_are_refused(backend: NullBackend, cache: Any, resident: Any, named: str) -> None:
    program = decode(backend, cache)
    with pytest.raises(AssertionError, match=named):
        program.run(program.stage(ids()), resident)


def test_arrays_of_another_device_are_refused(backend: NullBackend, cache: Any) -> None:
    foreign = NullBackend().runtime.zeros(IDS)
    program = decode(backend, cache)
    with pytest.raises(AssertionError, match="belongs to another device"):
        program.run(program.stage(ids()), {"cache": foreign})


def test_residents_have_the_shapes_they_were_compiled_for(backend: NullBackend, cache: Any) -> None:
    program = decode(backend, cache)
    with pytest.raises(AssertionError, match="resident 'cache' was compiled for other shapes"):
        program.run(program.stage(ids()), {"cache": backend.runtime.zeros(IDS)})


def test_a_donated_tree_is_gone(backend: NullBackend, cache: Any) -> None:
    program = decode(backend, cache)
    _, updates = program.run(program.stage(ids()), {"cache": cache})
    with pytest.raises(AssertionError, match=r"'cache'\['g'\]\['k'\] is a stale handle .* donated to run 1 of decode"):
        program.run(program.stage(ids()), {"cache": cache})
    with pytest.raises(AssertionError, match="donated to run 1"):
        backend.runtime.fetch({"k": cache["g"]["k"]})
    assert updates.keys() == {"cache"}
    program.run(program.stage(ids()), updates)  # what came back is good


def test_a_tree_is_not_donated_twice_at_once(backend: NullBackend, cache: Any) -> None:
    both = {"a": cache, "b": cache}
    program = backend.executables.compile("two", never, {}, {}, both, donate=("a", "b"))
    with pytest.raises(AssertionError, match="donated twice, in 'a' and in 'b'"):
        program.run(program.stage({}), both)
    fresh = backend.runtime.zeros(IDS)
    both = {"a": fresh, "b": fresh}
    program = backend.executables.compile("beside", never, {}, {}, both, donate=("a",))
    with pytest.raises(AssertionError, match="resident 'b', beside a donated tree, is a stale handle"):
        program.run(program.stage({}), both)


def test_outputs_must_be_fetched_before_the_next_run(backend: NullBackend) -> None:
    program = decode(backend)
    outputs, _ = program.run(program.stage(ids()), {})
    program.run(program.stage(ids()), {})
    with pytest.raises(AssertionError, match="overwritten by run 2 of decode"):
        backend.runtime.fetch(outputs)


def test_an_output_can_be_staged_for_another_program(backend: NullBackend) -> None:
    forward = decode(backend)
    sample = backend.executables.compile("sample", never, {"logits": LOGITS}, {"tokens": IDS}, {})
    outputs, _ = forward.run(forward.stage(ids()), {})
    sample.run(sample.stage({"logits": outputs["logits"]}), {})
    with pytest.raises(AssertionError, match="no executable's output"):
        sample.stage({"logits": backend.runtime.zeros(LOGITS)})
    forward.run(forward.stage(ids()), {})
    with pytest.raises(AssertionError, match="output 'logits' of decode: it was overwritten by run 2"):
        sample.stage({"logits": outputs["logits"]})


def test_wide_integers_are_not_staged(backend: NullBackend) -> None:
    with pytest.raises(AssertionError, match="'n' is int64, wider than 32 bits"):
        backend.executables.compile("wide", never, {"n": ArraySpec((1,), "int64")}, {}, {})


@pytest.mark.parametrize(
    ("staged", "named"),
    [
        ({}, "declared"),
        ({"ids": np.zeros(4, np.int64)}, r"input 'ids' is int64 \(4,\), declared int32 \(4,\)"),
        ({"ids": np.zeros(3, np.int32)}, r"int32 \(3,\)"),
        ({"ids": [1, 2, 3, 4]}, "input 'ids' is a list"),
    ],
)
def test_staged_inputs_are_exactly_those_declared(backend: NullBackend, staged: Any, named: str) -> None:
    with pytest.raises(AssertionError, match=named):
        decode(backend).stage(staged)


def test_a_slot_is_staged_for_every_run(backend: NullBackend) -> None:
    program, other = decode(backend), decode(backend)
    slot = program.stage(ids())
    with pytest.raises(AssertionError, match="the slot is of executable"):
        other.run(slot, {})
    program.run(slot, {})
    with pytest.raises(AssertionError, match="stage before each run"):
        program.run(slot, {})
    program.stage(ids())
    program.stage(ids())
    with pytest.raises(AssertionError, match="2 inputs are staged and were not run"):
        program.stage(ids())


def test_a_retired_slot_is_poisoned_and_watched(backend: NullBackend) -> None:
    program = decode(backend)
    slot: Any = program.stage(ids())
    kept = slot.buffers["ids"]
    program.run(slot, {})
    backend.runtime.synchronize()
    assert kept.view(np.uint8).tolist() == [0xA5] * 16
    kept[2] = 5
    program.run(program.stage(ids()), {})
    with pytest.raises(AssertionError, match="staged input 'ids' was written after its slot was retired"):
        program.stage(ids())


def test_runs_follow_each_other_and_the_host_does_not_wait_for_them() -> None:
    backend = NullBackend(NullOptions(step_ms=40))
    program = decode(backend)
    start = time.perf_counter()
    first = backend.runtime.fetch(program.run(program.stage(ids()), {})[0])
    second = backend.runtime.fetch(program.run(program.stage(ids()), {})[0])
    assert not first.ready()
    first.wait()
    assert time.perf_counter() - start >= 0.04
    assert first.ready()
    second.wait()
    assert time.perf_counter() - start >= 0.08


def test_staging_waits_for_the_run_that_still_reads_the_slot() -> None:
    backend = NullBackend(NullOptions(step_ms=30))
    program = decode(backend)
    start = time.perf_counter()
    for _ in range(2):
        program.run(program.stage(ids()), {})
    program.stage(ids())  # a ring of two: the first run must have ended
    assert time.perf_counter() - start >= 0.03


def test_a_broken_device_says_so_where_the_host_waits() -> None:
    backend = NullBackend(NullOptions(fail_at=2))
    program = decode(backend)
    backend.runtime.fetch(program.run(program.stage(ids()), {})[0]).wait()
    failing = backend.runtime.fetch(program.run(program.stage(ids()), {})[0])
    with pytest.raises(RuntimeError, match="run 2 failed"):
        failing.wait()


def test_a_broken_device_can_say_so_at_the_launch() -> None:
    backend = NullBackend(NullOptions(fail_at=2, fail_in="run"))
    program = decode(backend)
    program.run(program.stage(ids()), {})
    with pytest.raises(RuntimeError, match="run 2 failed"):
        program.run(program.stage(ids()), {})


def test_a_run_that_hangs_is_never_there() -> None:
    backend = NullBackend(NullOptions(hang_at=2))
    program = decode(backend)
    backend.runtime.fetch(program.run(program.stage(ids()), {})[0]).wait()
    hanging = backend.runtime.fetch(program.run(program.stage(ids()), {})[0])
    assert not hanging.ready()
    assert backend.device.free_at == float("inf")


def test_memory_is_counted_while_something_refers_to_it() -> None:
    backend = NullBackend(NullOptions(memory_mb=1))
    before = backend.runtime.memory()
    held = backend.runtime.zeros(ArraySpec((600, 1024), "int8"))
    assert backend.runtime.memory().free == before.free - 600 * 1024
    with pytest.raises(OutOfMemory, match=r"raise --device-opt null\.memory_mb"):
        backend.runtime.zeros(ArraySpec((600, 1024), "int8"))
    del held
    backend.runtime.zeros(ArraySpec((600, 1024), "int8"))


def test_programs_share_the_memory_of_their_outputs() -> None:
    backend = NullBackend(NullOptions(memory_mb=1, ring=2))

    def compiled(name: str, rows: int) -> Any:
        return backend.executables.compile(name, never, {"ids": IDS}, {"logits": ArraySpec((rows, 256), "float32")}, {})

    before = backend.runtime.memory().free
    programs = [compiled(f"forward-{rows}", rows) for rows in range(1, 101)]
    assert before - backend.runtime.memory().free == 2 * 100 * 256 * 4
    with pytest.raises(OutOfMemory, match=r"the outputs of large asks for 3\.7 MiB, 0\.8 of 1 are free"):
        compiled("large", 2000)
    for program in programs:
        program.run(program.stage(ids()), {})


def test_a_program_that_computes_is_found_out(backend: NullBackend) -> None:
    (kernels,) = backend.kernels()
    rms_norm = next(kernel for kernel in kernels.kernels() if kernel.op == "rms_norm")
    with pytest.raises(AssertionError, match="op rms_norm was called"):
        rms_norm.make(OpRequest.of("rms_norm", "float32"), Ops())(1, 2)


@pytest.mark.parametrize("option", ["step_ms=fast", "step_ms=-1", "token=x", "ring=0", "memory_mb=0", "fail_at=-2"])
def test_wrong_options_are_named(option: str) -> None:
    key, _, value = option.partition("=")
    options = {"step_ms": "0", "token": "7", "memory_mb": "64", "ring": "2", "fail_at": "0", "fail_in": "wait"}
    options |= {"hang_at": "0"} | {key: value}
    with pytest.raises(InvalidSettings, match=rf"--device-opt null\.{option}: must be a number of at least"):
        NullOptions.parse(options)


def test_it_is_found_as_any_plugin_is_but_never_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    import zif.plugins.selection as selection

    chosen = selection.select("null", ["null.step_ms=2.5", "null.token=hash"])
    backend = chosen.create_backend()
    assert backend.name == "null"
    assert isinstance(backend, NullBackend)
    assert backend.device.options == NullOptions(step_ms=2.5, token=None)
    alone = [found for found in selection.installed() if found.name == "null"]
    monkeypatch.setattr(selection, "installed", lambda: tuple(alone))
    with pytest.raises(NoUsableDevice, match="no plugin can run here"):
        selection.select("auto")
