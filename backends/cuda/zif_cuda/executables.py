"""Executables: decode steps and mixed ones as captured CUDA graphs, large ones of large models launched op by op.

What admits requests and assigns pages before a step is captured too, for a dozen launches less.

A program that is captured has its inputs at fixed addresses. Its first run is launched op by op: it
loads modules, tunes and compiles what a capture cannot. The second run records the graph, on a stream
of its own, and replays it; recording runs nothing, so each run still happens once. All graphs share one memory
pool, which is sound because no two of them run at the same time.

Everything is launched on one stream, in order, the transfer of a run's inputs right before it. So a
buffer on the device is overwritten only after its reader, and what has to be guarded is host memory alone
(:mod:`zif_cuda.staging`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from zif.contract import (
    NO_FACTS,
    ArraySpec,
    Executables,
    OutOfMemory,
    Program,
    ProgramFacts,
    Staged,
    StepShape,
    Tree,
    tree_leaves,
)
from zif.reference.host import uncollected
from zif_cuda.device import CudaDevice, copy
from zif_cuda.staging import Chunk, Layout, Rings

logger = logging.getLogger(__name__)

Outputs = dict[str, Any]

CAPTURED_TOKENS = (16, 32, 64, 128, 256, 384, 512, 768, 1024)
"""What mixed steps are padded to where they are captured, of any model."""
LARGE_TOKENS = (2048, 3072, 4096, 6144, 8192, 8448)
"""And of a model so small that launches would not hide behind the device: in the end a chunk, beside 256 decodes."""
LAUNCH_OPS = 1.44e13
"""What a Hopper GPU computes, at 600 TFLOP/s, in the 24 ms that it takes to launch a step op by op."""
CAPTURED_SEQS = 64
"""Least sequences of a captured mixed step; four times as many are the next size."""


@dataclass(eq=False)
class CudaSlot:
    """Inputs of one run: those from the host in a chunk of pinned memory, those from the device as they are."""

    layout: Layout
    chunk: Chunk | None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    used: bool = False


class CudaExecutable:
    """A program launched op by op; its inputs get memory for each run, so that it holds none."""

    def __init__(self, name: str, fn: Program, inputs: Mapping[str, ArraySpec], shared: Shared) -> None:
        self.name = name
        self._fn = fn
        self._inputs = dict(inputs)
        self._names = frozenset(inputs)
        self._shared = shared
        self._layouts: dict[frozenset[str], Layout] = {}

    @property
    def memory_bytes(self) -> int:
        return 0

    def stage(self, inputs: Staged) -> CudaSlot:
        assert inputs.keys() == self._inputs.keys(), f"{self.name} takes {sorted(self._inputs)}, got {sorted(inputs)}"
        tensors = {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        layout = self._layout(frozenset(inputs.keys() - tensors.keys()) if tensors else self._names)
        slot = CudaSlot(layout, None, tensors)
        self._shared.lend(slot)
        if not layout.nbytes:
            return slot
        chunk = slot.chunk = self._shared.rings.claim(layout.nbytes)
        for key, view in chunk.arrays(layout).items():
            value = inputs[key]
            assert value.shape == view.shape, f"{self.name}: {key} is {value.shape}"
            view[...] = value
        return slot

    def run(self, slot: CudaSlot, resident: Mapping[str, Tree]) -> tuple[Outputs, dict[str, Tree]]:
        """Launch. Raises OutOfMemory, with what would help, where a run's own tensors do not fit."""
        try:
            return self._launch(slot, resident)
        except torch.OutOfMemoryError as error:
            memory = self._shared.device.memory()
            raise OutOfMemory(
                f"{self.name}: a step does not fit the GPU's memory, of which {memory.free / 2**30:.1f} of "
                f"{memory.total / 2**30:.1f} GiB are free: lower --mem-fraction-static or --chunked-prefill-size, or "
                "stop what else runs there (nvidia-smi)"
            ) from error

    def _launch(self, slot: CudaSlot, resident: Mapping[str, Tree]) -> tuple[Outputs, dict[str, Tree]]:
        block = self._shared.device.empty(slot.layout.nbytes)
        self._send(slot, block)
        staged = slot.layout.tensors(block)
        self._shared.take_back(slot)
        with torch.inference_mode():
            return self._fn(staged | slot.tensors, dict(resident))

    def _layout(self, names: frozenset[str]) -> Layout:
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._layouts[names] = Layout({key: spec for key, spec in self._inputs.items() if key in names})
        return layout

    def _send(self, slot: CudaSlot, block: torch.Tensor) -> None:
        """Launch the transfer of a slot's host inputs into ``block``, uint8 and as large as they are."""
        assert not slot.used, f"{self.name}: a slot is run once"
        slot.used = True
        if slot.chunk is not None:
            copy(block.view(torch.int64), slot.chunk.words_of(slot.layout))
            slot.chunk.sent()


class GraphExecutable(CudaExecutable):
    """A program that is captured at its second run; all its inputs come from the host.

    ``residents`` keep their addresses: what is donated is written in place.
    """

    def __init__(self, name: str, fn: Program, inputs: Mapping[str, ArraySpec], shared: Shared) -> None:
        super().__init__(name, fn, inputs, shared)
        layout = self._layout(frozenset(inputs))
        self._block = shared.device.empty(layout.nbytes)
        self._staged = layout.tensors(self._block)
        self._warm = False
        self._graph: Any = None
        self._results: tuple[Outputs, dict[str, Tree]] = ({}, {})
        self._graph_bytes = 0

    @property
    def memory_bytes(self) -> int:
        return self._block.numel() + self._graph_bytes

    def _launch(self, slot: CudaSlot, resident: Mapping[str, Tree]) -> tuple[Outputs, dict[str, Tree]]:
        assert not slot.tensors, f"{self.name}: inputs of a captured program come from the host"
        self._send(slot, self._block)
        if not self._warm:
            self._warm = True
            with torch.inference_mode():
                return self._fn(self._staged, dict(resident))
        if self._graph is None:
            self._capture(resident)
        self._shared.keep()
        self._graph.replay()
        outputs, updates = self._results
        return dict(outputs), dict(updates)

    def _capture(self, resident: Mapping[str, Tree]) -> None:
        before = self._shared.device.used()
        # garbage may be another engine's graphs and memory, and freeing those ends a capture
        with torch.inference_mode(), uncollected():
            self._graph, self._results = self._shared.device.capture(lambda: self._fn(self._staged, dict(resident)))
        self._graph_bytes = max(self._shared.device.used() - before, 0)
        outputs, updates = self._results
        for name, tree in updates.items():
            moved = [
                leaf
                for leaf, given in zip(tree_leaves(tree), tree_leaves(resident[name]), strict=True)
                if leaf.data_ptr() != given.data_ptr()
            ]
            assert not moved, f"{self.name}: {len(moved)} arrays of {name!r} are not updated in place"
        self._shared.overwritten |= {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(outputs)}
        logger.debug("captured %s: %.1f MiB", self.name, self._graph_bytes / 2**20)


@dataclass
class Shared:
    """What the executables of one backend have in common.

    ``overwritten``: storages of graphs' outputs, which their replays write again. ``lent``: slots with such outputs in
    them. A slot is run, as a rule, before any graph is replayed, and reads them where they are.
    """

    device: CudaDevice
    rings: Rings
    overwritten: set[int] = field(default_factory=set)
    lent: list[CudaSlot] = field(default_factory=list)

    def lend(self, slot: CudaSlot) -> None:
        """A slot that is staged."""
        if any(map(self._written_again, slot.tensors.values())):
            self.lent.append(slot)

    def take_back(self, slot: CudaSlot) -> None:
        """A slot that is run."""
        if slot in self.lent:
            self.lent.remove(slot)

    def keep(self) -> None:
        """A graph is about to be replayed: copy what lent slots still have to read."""
        for slot in self.lent:
            slot.tensors = {
                key: value.clone() if self._written_again(value) else value for key, value in slot.tensors.items()
            }
        self.lent.clear()

    def _written_again(self, value: torch.Tensor) -> bool:
        return value.untyped_storage().data_ptr() in self.overwritten


class CudaExecutables(Executables):
    """Graphs: of decode steps, of mixed ones whose launches do not hide behind the device, of what is repeated.

    Unless ``graphs`` is False or one of their kernels cannot be captured.
    """

    def __init__(self, device: CudaDevice, *, graphs: bool) -> None:
        self._shared = Shared(device, Rings(device.pinned, device.event))
        self._graphs = graphs
        self._tokens: tuple[int, ...] = CAPTURED_TOKENS

    def expect(self, parameters: int) -> None:
        """Capture large steps too where the device is done before they are launched, on Hopper.

        Elsewhere flashinfer's attention is not fa3, whose launch depends on padded sizes alone.
        """
        hopper = self._shared.device.facts().hopper
        large = (extent for extent in LARGE_TOKENS if hopper and 2 * parameters * extent <= LAUNCH_OPS)
        self._tokens = (*CAPTURED_TOKENS, *large)

    def bucket(self, axis: str, size: int, limit: int) -> int:
        """Few sizes of what is captured, because each is a graph; what is launched op by op is padded but little.

        Page tables are as wide as they get: kernels go by lengths, and one width means fewer graphs.
        """
        if axis == "pages":
            return limit
        if self._graphs and axis == "tokens" and size <= self._tokens[-1]:
            return min(next(extent for extent in self._tokens if extent >= size), limit)
        if self._graphs and axis == "seqs":
            extent = CAPTURED_SEQS
            while extent < size:
                extent *= 4
            return min(extent, limit)
        if axis == "decode_seqs":
            step = 1 if size <= 2 else 4 if size <= 8 else 8 if size <= 64 else 16 if size <= 256 else 64
        elif axis == "tokens":
            step = 8 if size <= 256 else 64
        elif axis == "logits":
            step = 1 if size <= 2 else 8 if size <= 256 else 64
        else:
            return min(1 << (size - 1).bit_length() if size > 1 else 1, limit)
        return min(-(-size // step) * step, limit)

    def captures(self, shape: StepShape) -> bool:
        """Steps whose launches do not hide behind the device.

        Their logits are padded to the sequences, which saves a graph for each size of them.
        """
        return self._graphs and shape.tokens <= self._tokens[-1] and shape.logits == shape.seqs

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        facts: ProgramFacts = NO_FACTS,
    ) -> CudaExecutable:
        step = facts.step
        wanted = facts.repeated if step is None else step.decode or self.captures(step)
        captured = self._graphs and wanted and facts.capturable
        kind = GraphExecutable if captured else CudaExecutable
        return kind(name, fn, inputs, self._shared)
