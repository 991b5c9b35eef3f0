"""What every program relies on: transfers, and an executable's staging, donation and order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from zif.conformance.compare import same_bits
from zif.conformance.holding import check_holding
from zif.conformance.results import Recorder
from zif.contract.arrays import ArraySpec
from zif.contract.backend import Backend
from zif.contract.binding import bind
from zif.contract.executable import Executable
from zif.contract.kernels import KernelSet
from zif.contract.ops.draw import numpy_dtype
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.weights import PackedWeight

A = np.ndarray[Any, Any]
RUNS = 6
"""More than any ring is likely to be deep."""

SIZE = 192
AXES = ("tokens", "seqs", "decode_seqs", "pages", "logits", "rows")


def check_machinery(backend: Backend, providers: Sequence[KernelSet], recorder: Recorder) -> None:
    """Record results of the sections ``runtime`` and ``executables``."""
    if recorder.begins("runtime"):
        tests: dict[tuple[str, str], Callable[[], str | None]] = {
            ("transfer", dtype): partial(_round_trip, backend, dtype)
            for dtype in ("int32", "float32", "bool", "bfloat16")
        }
        tests |= {("zeros", ""): partial(_zeros, backend), ("memory", ""): partial(_memory, backend)}
        for (subject, case), test in tests.items():
            recorder.check("runtime", subject, case, test, blame=lambda: "runtime")
    if recorder.begins("executables"):
        programs = Programs(backend, providers)
        for axis in AXES:
            bucket = partial(_bucket, backend, axis)
            recorder.check("executables", "bucket", axis, bucket, blame=lambda: "executables")
        checks: list[tuple[str, Callable[[], str | None]]] = [
            ("staged inputs are copies", programs.staging_copies),
            ("a slot in flight is not overwritten", programs.ring_waits),
            ("donated residents carry on", programs.donation_accumulates),
            ("an output staged elsewhere keeps its value", programs.outputs_are_staged_in_order),
            ("dtypes arrive as they are", programs.dtypes_arrive),
            ("a fetch holds what was there when it began", programs.fetch_is_ordered),
        ]
        for name, test in checks:
            recorder.check("executables", name, "", test, blame=lambda: "executables")
        check_holding(backend, providers, recorder)


def _round_trip(backend: Backend, dtype: str) -> str | None:
    rng = np.random.default_rng(0)
    for shape in ((1,), (7,), (3, 1, 5), (257, 33)):
        host = (rng.standard_normal(shape) * 3).astype(numpy_dtype(dtype))
        kept = host.copy()
        array = backend.runtime.put(host)
        host[...] = host[::-1] if len(host) > 1 else host.astype(bool) ^ True
        backend.runtime.synchronize()
        fetched = backend.runtime.fetch({"x": array}).wait()["x"]
        if not same_bits(fetched, kept):
            return f"{shape}: what was fetched is not what was put (the host array was changed after put)"
    return None


def _zeros(backend: Backend) -> str | None:
    got = backend.runtime.fetch({"x": backend.runtime.zeros(ArraySpec((3, 5), "float32"))}).wait()["x"]
    return None if got.shape == (3, 5) and not got.any() else f"got {got}"


def _memory(backend: Backend) -> str | None:
    memory = backend.runtime.memory()
    return None if 0 < memory.free <= memory.total else f"{memory.free} bytes free of {memory.total}"


def _bucket(backend: Backend, axis: str) -> str | None:
    limit, last = 300, 0
    for size in range(1, limit + 1):
        extent = backend.executables.bucket(axis, size, limit)
        if not size <= extent <= limit:
            return f"bucket({size}) is {extent}, with a limit of {limit}"
        if extent < last:
            return f"bucket({size}) is {extent}, less than a smaller size's {last}"
        if backend.executables.bucket(axis, extent, limit) != extent:
            return f"bucket({size}) is {extent}, whose own bucket is another"
        last = extent
    return None


class Programs:
    """Small programs whose results show how an executable treats its buffers."""

    def __init__(self, backend: Backend, providers: Sequence[KernelSet]) -> None:
        self._backend = backend
        self._providers = providers

    def staging_copies(self) -> str | None:
        """The caller overwrites a host array between staging and running."""
        program = self._scaled("copies")
        host = np.full(SIZE, 1.0, np.float32)
        slot = program.stage({"x": host})
        host[:] = 50.0
        outputs, _ = program.run(slot, {})
        return self._unlike(outputs, 2.0, "the staged 1.0 became 50.0")

    def ring_waits(self) -> str | None:
        """Many runs are launched before the first result is asked for."""
        program = self._slow("ring")
        weights = self._backend.runtime.put(np.eye(SIZE, dtype=np.float32))
        fetches = []
        for value in range(RUNS):
            slot = program.stage({"x": np.full((SIZE, SIZE), float(value), np.float32)})
            outputs, _ = program.run(slot, {"w": weights})
            fetches.append(self._backend.runtime.fetch(outputs))
        for value, fetch in enumerate(fetches):
            got = float(fetch.wait()["y"].max())
            if got != value:
                return f"run {value} of {RUNS} in flight saw the input of another: {got}"
        return None

    def donation_accumulates(self) -> str | None:
        """A resident is donated, and its update is the next run's resident."""

        def add(inputs: Any, resident: Any) -> Any:
            return {}, {"sum": {"total": resident["sum"]["total"] + inputs["x"]}}

        state = {"sum": {"total": self._backend.runtime.zeros(ArraySpec((SIZE,), "float32"))}}
        program = self._compile("donate", add, {"x": ArraySpec((SIZE,), "float32")}, {}, state, ("sum",))
        for value in range(RUNS):
            slot = program.stage({"x": np.full(SIZE, float(value), np.float32)})
            _, state = program.run(slot, state)
            if state.keys() != {"sum"}:
                return f"the updates are {sorted(state)}, the donated residents ['sum']"
        got = self._backend.runtime.fetch({"total": state["sum"]["total"]}).wait()["total"]
        wanted = sum(range(RUNS))
        return None if (got == wanted).all() else f"the sum over {RUNS} runs is {got[0]}, not {wanted}"

    def outputs_are_staged_in_order(self) -> str | None:
        """An output is staged for another program; its own program runs again before that one does."""
        first, second = self._scaled("first"), self._scaled("second")
        outputs, _ = first.run(first.stage({"x": np.full(SIZE, 1.0, np.float32)}), {})
        slot = second.stage({"x": outputs["y"]})
        first.run(first.stage({"x": np.full(SIZE, 9.0, np.float32)}), {})
        doubled, _ = second.run(slot, {})
        return self._unlike(doubled, 4.0, "it saw the run after the one whose output was staged")

    def dtypes_arrive(self) -> str | None:
        """Each dtype that is staged comes out with the same bits."""
        rng = np.random.default_rng(1)
        names = ("int32", "float32", "bfloat16", "bool")
        host = {name: (rng.standard_normal((3, 7)) * 4).astype(numpy_dtype(name)) for name in names}
        specs = {name: ArraySpec((3, 7), name) for name in names}
        program = self._compile("dtypes", lambda inputs, _: ({n: inputs[n][:] for n in names}, {}), specs, specs, {})
        outputs, _ = program.run(program.stage(host), {})
        got = self._backend.runtime.fetch(outputs).wait()
        wrong = [name for name in names if not same_bits(got[name], host[name])]
        return f"{', '.join(wrong)} came out changed" if wrong else None

    def fetch_is_ordered(self) -> str | None:
        """A fetch is begun, then the program runs again."""
        program = self._scaled("fetch")
        outputs, _ = program.run(program.stage({"x": np.full(SIZE, 1.0, np.float32)}), {})
        fetch = self._backend.runtime.fetch(outputs)
        program.run(program.stage({"x": np.full(SIZE, 7.0, np.float32)}), {})
        got = fetch.wait()["y"]
        return None if (got == 2.0).all() else f"got {got[0]}: the later run's output"

    def _scaled(self, name: str) -> Executable:
        spec = {"x": ArraySpec((SIZE,), "float32")}
        return self._compile(name, lambda inputs, _: ({"y": inputs["x"] * 2.0}, {}), spec, {"y": spec["x"]}, {})

    def _slow(self, name: str) -> Executable:
        """Enough work that an asynchronous device falls behind the host."""
        matrix = ArraySpec((SIZE, SIZE), "float32")
        request = OpRequest.of(
            "linear", "float32", key=PackedWeight({"w": None}, "dense", (SIZE, SIZE)).dispatch_key,
            in_features=SIZE, out_features=SIZE, bias=False, format="dense",
        )  # fmt: skip
        ops: Ops = bind([request], self._providers).ops

        def chain(inputs: Any, resident: Any) -> Any:
            x = inputs["x"]
            for _ in range(20):
                x = ops.linear(x, PackedWeight({"w": resident["w"]}, "dense", (SIZE, SIZE)))
            return {"y": x}, {}

        resident = {"w": self._backend.runtime.zeros(matrix)}
        return self._compile(name, chain, {"x": matrix}, {"y": matrix}, resident)

    def _compile(
        self, name: str, fn: Any, inputs: Any, outputs: Any, resident: Any, donate: tuple[str, ...] = ()
    ) -> Executable:
        return self._backend.executables.compile(f"conformance-{name}", fn, inputs, outputs, resident, donate)

    def _unlike(self, outputs: Any, wanted: float, meaning: str) -> str | None:
        got = self._backend.runtime.fetch(outputs).wait()["y"]
        return None if (got == wanted).all() else f"got {got[0]}, expected {wanted}: {meaning}"
