"""Mixed steps as graphs: which there are, and that an engine whose steps are replayed gives the same tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend.checkpoints import SIZES, VOCAB, save

from fakes import FakeDevice, FakeGraph
from zif.conformance.metamorphic import check_engine
from zif.conformance.results import Recorder
from zif.contract.arrays import tree_leaves
from zif.contract.attention import AttentionSpec
from zif.contract.kernels import kernel
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import HostStep, Step, StepShape
from zif.engine.engine import Engine
from zif.engine.warmup import warm_up
from zif.messages import EngineRequest
from zif.process.build import build_engine
from zif.reference.torch import TorchBackend, TorchRuntime
from zif.reference.torch.reference import TorchReference
from zif.sampling.params import SamplingParams
from zif.settings import Settings
from zif_cuda import executables as executables_module
from zif_cuda.executables import CAPTURED_SEQS, CAPTURED_TOKENS, LARGE_TOKENS, CudaExecutables, GraphExecutable

RNG = np.random.default_rng(5)
PROMPTS = [RNG.integers(0, VOCAB, size).tolist() for size in (3, 37, 90, 12)]
ROWS = 256
LAYERS = SIZES["num_hidden_layers"]


def executables(*, graphs: bool = True) -> CudaExecutables:
    return CudaExecutables(FakeDevice(), graphs=graphs)  # type: ignore[arg-type]


def test_small_mixed_steps_are_captured_at_few_sizes() -> None:
    made = executables()
    seen = set()
    for tokens in range(1, 1100):
        for seqs in {1, min(tokens, 64), min(tokens, 65), min(tokens, ROWS)}:
            extent, rows = made.bucket("tokens", tokens, 8192), made.bucket("seqs", seqs, ROWS)
            shape = StepShape(extent, rows, 2560, rows, decode=False)
            assert made.captures(shape) == (tokens <= CAPTURED_TOKENS[-1])
            if made.captures(shape):
                seen.add((extent, rows))
    assert len(seen) == len(CAPTURED_TOKENS) * 2 - 3  # up to 64 tokens there are no more sequences than that
    assert {rows for _, rows in seen} == {CAPTURED_SEQS, ROWS}


@pytest.mark.parametrize(
    ("parameters", "capability", "largest"),
    [
        (440_000_000, (9, 0), 8448),  # Qwen3-0.6B
        (1_700_000_000, (9, 0), 4096),
        (7_000_000_000, (9, 0), 1024),  # Llama-3.1-8B
        (440_000_000, (8, 0), 1024),
        (440_000_000, (10, 0), 1024),
    ],
)
def test_large_mixed_steps_are_captured_of_small_models_on_hopper(
    parameters: int, capability: tuple[int, int], largest: int
) -> None:
    made = CudaExecutables(FakeDevice(capability), graphs=True)  # type: ignore[arg-type]
    made.expect(parameters)
    limit = 8192 + ROWS
    extents = {made.bucket("tokens", tokens, limit) for tokens in range(1, limit + 1)}
    captured = {extent for extent in extents if made.captures(StepShape(extent, 64, 2560, 64, decode=False))}
    assert captured == {extent for extent in (*CAPTURED_TOKENS, *LARGE_TOKENS) if extent <= largest}
    assert extents - captured == set(range(-(-(largest + 1) // 64) * 64, limit + 1, 64)), "padded little"
    assert made.bucket("tokens", min(largest, 8000), 8001) <= 8001


def test_a_large_models_steps_are_not_captured_after_a_small_ones() -> None:
    made = executables()
    for parameters, extent in ((440_000_000, 2048), (7_000_000_000, 1088), (440_000_000, 2048)):
        made.expect(parameters)
        assert made.bucket("tokens", 1025, 8192) == extent


def test_steps_with_more_logits_than_sequences_are_launched_op_by_op() -> None:
    assert not executables().captures(StepShape(256, 64, 8, 200, decode=False))


def test_without_graphs_nothing_is_captured_and_steps_are_padded_little() -> None:
    made = executables(graphs=False)
    assert made.bucket("tokens", 65, 8192) == 72
    assert made.bucket("seqs", 3, ROWS) == 4
    assert not made.captures(StepShape(64, 64, 8, 64, decode=False))


class CapturableReference(TorchReference):
    level = 1

    @kernel("paged_attention")
    def paged_attention(self, q: Any, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        return super().paged_attention(q, cache, layer, step, spec)


class Backend(TorchBackend):
    """The reference's kernels, captured on a device that is the cpu."""

    def __init__(self, *, graphs: bool) -> None:
        super().__init__(TorchRuntime())
        self.capabilities = replace(self.capabilities, asynchronous=True)
        self.device = FakeDevice()
        self.executables: Any = CudaExecutables(self.device, graphs=graphs)  # type: ignore[arg-type]

    def kernels(self) -> Any:
        return (CapturableReference(),)


def engine_of(path: Path, backend: Backend) -> Engine:
    settings = Settings(
        model=str(path), dtype="float32", page_size=4, max_total_tokens=2048, max_running_requests=4, random_seed=2,
        chunked_prefill_size=64,
    )  # fmt: skip
    return build_engine(settings, progress=False, backend=backend)


def tokens_of(engine: Engine, prompts: list[list[int]] = PROMPTS * 3, **facts: Any) -> dict[str, list[int]]:
    """Of requests that join one after the other, greedy and drawn."""
    given: dict[str, list[int]] = {}
    waiting = list(enumerate(prompts))
    while waiting or engine.has_work:
        if waiting:
            number, prompt = waiting.pop(0)
            params = SamplingParams(temperature=number % 2, max_tokens=6, **facts)
            assert engine.add(EngineRequest(f"{number}", prompt, params)) is None
        for output in engine.step():
            given.setdefault(output.request_id, []).extend(output.token_ids)
    return given


@pytest.mark.parametrize("facts", [{}, {"top_p": 0.7}], ids=["sampled inside", "sampled apart"])
def test_replayed_steps_give_the_tokens_of_steps_op_by_op(tmp_path: Path, facts: dict[str, Any]) -> None:
    path = save("llama", tmp_path).path
    captured, plain = engine_of(path, Backend(graphs=True)), engine_of(path, Backend(graphs=False))
    runner = captured.runner
    device: Any = captured.runner.backend.device  # type: ignore[attr-defined]
    device.world = [*runner.table.arrays["pages"].values(), runner.table.arrays["kv_len"]]
    device.world += [runner.table.arrays["last_token"]]
    device.world += [array for group in runner.cache.arrays.values() for array in group.values()]
    assert tokens_of(captured, **facts) == tokens_of(plain, **facts)
    kind = "forward" if facts else "mixed"
    graphs = [
        program._graph
        for program in runner.programs
        if isinstance(program, GraphExecutable) and program.name.startswith(kind) and program.name.endswith("-4")
    ]
    assert sum(graph.replays for graph in graphs if graph is not None) > 5
    assert not any(isinstance(program, GraphExecutable) for program in plain.runner.programs)


class Planned:
    """The reference's attention, captured in steps that it has been told of; ``events`` are what happens, in order."""

    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def capturable(self, shape: StepShape) -> bool:
        return True

    def plan(self, step: HostStep) -> None:
        self._events.append(("plan", step.shape))

    def __call__(self, q: Any, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        self._events.append(("run", step.shape))
        return TorchReference().paged_attention(q, cache, layer, step, spec)


class PlanningReference(TorchReference):
    level = 1

    def __init__(self, events: list[Any]) -> None:
        super().__init__()
        self._events = events

    @kernel("paged_attention", makes=True, planned=True)
    def paged_attention(self, request: OpRequest, ops: Ops) -> Any:
        return Planned(self._events)


def test_large_steps_are_warmed_up_and_planned_before_each_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executables_module, "CAPTURED_TOKENS", (16,))
    monkeypatch.setattr(executables_module, "LARGE_TOKENS", (32, 48, 68))
    events: list[Any] = []
    replay = FakeGraph.replay

    def replayed(graph: FakeGraph) -> None:
        begin = len(events)
        replay(graph)
        shapes = {shape for kind, shape in events[begin:] if kind == "run"}
        if id(graph) in before_steps():
            assert not shapes
            return
        assert len(events[begin:]) == LAYERS, "a plan within a graph"
        events[begin:] = [("replay", *shapes)]

    def before_steps() -> set[int]:
        """Graphs that admit requests and assign pages."""
        made = (one for one in engine.runner.programs if one.name.startswith(("admit", "assign")))
        return {id(getattr(one, "_graph", None)) for one in made}

    monkeypatch.setattr(FakeGraph, "replay", replayed)
    path = save("llama", tmp_path).path
    backend, plain = Backend(graphs=True), engine_of(path, Backend(graphs=False))
    backend.kernels = lambda: (PlanningReference(events),)  # type: ignore[method-assign]
    engine = engine_of(path, backend)
    warm = {shape.tokens for shape in engine.runner.staging.shapes.warmed() if not shape.decode}
    assert warm == {16, 32, 48, 68}
    warm_up(engine.runner)
    count = len(engine.runner.programs)
    assert tokens_of(engine) == tokens_of(plain)
    assert not {program.name for program in engine.runner.programs[count:] if program.name.startswith("mixed")}
    done = [event for event in events if event[0] != "run"]
    replays = [at for at, (kind, _) in enumerate(done) if kind == "replay"]
    assert all(done[at - 1] == ("plan", done[at][1]) for at in replays)
    assert sum(done[at][1].tokens > 16 for at in replays) > 3, "more than the warm-up's"


class Watched(CudaExecutables):
    """Knows what it compiled, and which residents recording a graph must not change."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__(device, graphs=True)  # type: ignore[arg-type]
        self.device = device
        self.made: list[Any] = []
        self.donated: dict[str, Any] = {}

    def compile(self, *args: Any, **named: Any) -> Any:
        resident, donate = args[4], args[5]
        self.donated |= {name: resident[name] for name in donate}
        self.device.world = list(tree_leaves(self.donated))
        self.made.append(super().compile(*args, **named))
        return self.made[-1]


def test_admissions_and_page_assignments_are_replayed_before_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two cache groups; prompts of one size that are launched op by op, so that none assigns pages itself."""
    monkeypatch.setattr(executables_module, "CAPTURED_TOKENS", (16,))
    monkeypatch.setattr(executables_module, "LARGE_TOKENS", ())
    path = save("gemma2", tmp_path).path
    backend = Backend(graphs=True)
    backend.executables = Watched(backend.device)
    captured, plain = engine_of(path, backend), engine_of(path, Backend(graphs=False))
    assert len(captured.runner.model.cache_groups) == 2
    prompts = [[(7 * number + 3 * at) % 200 for at in range(40)] for number in range(4)]
    assert tokens_of(captured, prompts) == tokens_of(plain, prompts)
    replays = {one.name: one._graph.replays for one in captured.runner.programs if getattr(one, "_graph", None)}
    assert replays["admit-1"] >= 3
    assert max(count for name, count in replays.items() if name.startswith("assign")) >= 3


def test_conformance_s_engines_run_steps_in_each_way() -> None:
    """Captured decode steps and mixed ones, with their sampler and without, and mixed steps op by op."""
    backend = Backend(graphs=True)
    backend.executables = made = Watched(backend.device)
    recorder = Recorder(["engine/chunked prefill = whole", "engine/drawn in the step = after it"])
    check_engine(backend, ("llm",), recorder)
    assert len(recorder.results) >= 4
    assert {result.status for result in recorder.results} == {"pass"}
    replayed = [one.name.split("-") for one in made.made if getattr(one, "_graph", None)]
    # of mixed steps the name ends in how many logits there are
    kinds = {("admit", 2), ("forward", 2), ("forward", 3), ("decode", 2), ("mixed", 3)}
    assert {(name[0], len(name)) for name in replayed} == kinds
    assert any(one.name.startswith("forward") and not isinstance(one, GraphExecutable) for one in made.made)
