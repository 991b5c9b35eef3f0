"""Eager executables: a program is called as it is, over buffers that persist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.executable import Program, Staged
from zif.reference.torch.runtime import copy_into, torch_dtype

RING = 2


@dataclass
class EagerSlot:
    """One set of staged inputs."""

    inputs: dict[str, torch.Tensor]
    busy: bool = False


class EagerExecutable:
    """A program with staging buffers of its own; runs are complete when ``run`` returns."""

    def __init__(self, name: str, fn: Program, inputs: Mapping[str, ArraySpec], device: torch.device) -> None:
        self.name = name
        self._fn = fn
        self._ring = [
            EagerSlot({
                key: torch.zeros(spec.shape, dtype=torch_dtype(spec.dtype), device=device)
                for key, spec in inputs.items()
            })
            for _ in range(RING)
        ]  # fmt: skip
        self._next = 0
        self.memory_bytes = RING * sum(spec.nbytes for spec in inputs.values())

    def stage(self, inputs: Staged) -> EagerSlot:
        slot = self._ring[self._next]
        assert not slot.busy, f"{self.name}: staged {RING + 1} times without a run"
        assert inputs.keys() == slot.inputs.keys(), f"{self.name} takes {sorted(slot.inputs)}, got {sorted(inputs)}"
        for key, value in inputs.items():
            if isinstance(value, torch.Tensor):
                slot.inputs[key].copy_(value)
            else:
                copy_into(slot.inputs[key], value)
        slot.busy = True
        self._next = (self._next + 1) % RING
        return slot

    def run(self, slot: Any, resident: Mapping[str, Tree]) -> tuple[dict[str, Any], dict[str, Tree]]:
        with torch.inference_mode():
            result = self._fn(slot.inputs, dict(resident))
        slot.busy = False
        return result


class EagerExecutables:
    """Programs run op by op. Shapes are padded only as far as keeps their number small."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def bucket(self, axis: str, size: int, limit: int) -> int:
        if axis == "decode_seqs" or size <= 1:
            return max(size, 1)
        if axis == "tokens":
            step = 1 if size <= 16 else 16
            return min(-(-size // step) * step, limit)
        return min(1 << (size - 1).bit_length(), limit)

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        static: Mapping[str, Any] | None = None,
    ) -> EagerExecutable:
        return EagerExecutable(name, fn, inputs, self._device)
