"""Eager executables: a program is called as it is, over buffers that persist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.executable import NO_FACTS, Executables, Program, ProgramFacts, Staged
from zif.contract.step import StepShape
from zif.reference.torch.runtime import copy_into, torch_dtype

RING = 2


@dataclass
class EagerSlot:
    """One set of staged inputs, and the buffers that hold those which came from the host."""

    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    busy: bool = False


class EagerExecutable:
    """A program with staging buffers of its own; runs are complete when ``run`` returns.

    Another executable's output is not copied: an eager program puts out new tensors every time, so
    what was staged stays what it was. It is let go of after the run.
    """

    def __init__(self, name: str, fn: Program, inputs: Mapping[str, ArraySpec], device: torch.device) -> None:
        self.name = name
        self._fn = fn
        self._specs = dict(inputs)
        self._device = device
        self._ring = [EagerSlot() for _ in range(RING)]
        self._next = 0

    @property
    def memory_bytes(self) -> int:
        return sum(buffer.nbytes for slot in self._ring for buffer in slot.buffers.values())

    def stage(self, inputs: Staged) -> EagerSlot:
        slot = self._ring[self._next]
        assert not slot.busy, f"{self.name}: staged {RING + 1} times without a run"
        assert inputs.keys() == self._specs.keys(), f"{self.name} takes {sorted(self._specs)}, got {sorted(inputs)}"
        for key, value in inputs.items():
            slot.inputs[key] = value if isinstance(value, torch.Tensor) else self._copied(slot, key, value)
            shape = tuple(slot.inputs[key].shape)
            assert shape == self._specs[key].shape, f"{self.name}: {key} is {shape}, not {self._specs[key].shape}"
        slot.busy = True
        self._next = (self._next + 1) % RING
        return slot

    def run(self, slot: Any, resident: Mapping[str, Tree]) -> tuple[dict[str, Any], dict[str, Tree]]:
        with torch.inference_mode():
            result = self._fn(dict(slot.inputs), dict(resident))
        slot.inputs.clear()
        slot.busy = False
        return result

    def _copied(self, slot: EagerSlot, key: str, host: Any) -> torch.Tensor:
        buffer = slot.buffers.get(key)
        if buffer is None:
            spec = self._specs[key]
            buffer = slot.buffers[key] = torch.zeros(spec.shape, dtype=torch_dtype(spec.dtype), device=self._device)
        copy_into(buffer, host)
        return buffer


class EagerExecutables(Executables):
    """Programs run op by op. Shapes are padded only as far as keeps their number small."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def expect(self, parameters: int) -> None:
        """Makes no difference."""

    def bucket(self, axis: str, size: int, limit: int) -> int:
        if axis == "decode_seqs" or size <= 1:
            return max(size, 1)
        if axis == "tokens":
            step = 1 if size <= 16 else 16
            return min(-(-size // step) * step, limit)
        return min(1 << (size - 1).bit_length(), limit)

    def captures(self, shape: StepShape) -> bool:
        """Nothing is."""
        return False

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        facts: ProgramFacts = NO_FACTS,
    ) -> EagerExecutable:
        return EagerExecutable(name, fn, inputs, self._device)
