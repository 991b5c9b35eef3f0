"""Executables that run no program: staging, retirement, donation and outputs, with every rule checked."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from zif.contract.arrays import ArraySpec, Tree, dtype_bytes, tree_leaves, tree_map
from zif.contract.executable import NO_FACTS, Executable, Executables, Program, ProgramFacts, Slot, Staged
from zif.contract.ops.draw import numpy_dtype
from zif.contract.step import StepShape
from zif.null.device import NullArray, NullDevice

POISON = 0xA5
"""The byte that a retired staging buffer is filled with."""

HASH_RANGE = 64
"""Tokens made up by ``null.token=hash`` are in [1, 64)."""


class NullSlot:
    """One place of an executable's ring: a host buffer an input, and what stage it is in."""

    __slots__ = ("buffers", "ends_at", "name", "state")

    def __init__(self, name: str, inputs: Mapping[str, ArraySpec]) -> None:
        self.name = name
        self.buffers = {key: np.empty(spec.shape, numpy_dtype(spec.dtype)) for key, spec in inputs.items()}
        self.state: Literal["free", "staged", "in flight"] = "free"
        self.ends_at = 0.0
        self._poison()

    def retire(self) -> None:
        """The run that read this slot has completed: poison it, and give it back."""
        self.state = "free"
        self._poison()

    def check_poison(self) -> None:
        """Assert that nobody has written to the buffers since they were retired."""
        for key, buffer in self.buffers.items():
            assert (_bytes(buffer) == POISON).all(), (
                f"null device: {self.name}: staged input {key!r} was written after its slot was retired"
            )

    def _poison(self) -> None:
        for buffer in self.buffers.values():
            _bytes(buffer)[...] = POISON


class NullExecutable:
    """See :class:`zif.contract.executable.Executable`. Makes up outputs; gives donated trees back renewed."""

    def __init__(
        self,
        device: NullDevice,
        name: str,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...],
    ) -> None:
        for key, spec in (*inputs.items(), *outputs.items()):
            assert dtype_bytes(spec.dtype) <= 4, f"null device: {name}: {key!r} is {spec.dtype}, wider than 32 bits"
        self.name = name
        self._device = device
        self._inputs = dict(inputs)
        self._donate = donate
        self._resident = {key: [leaf.spec for leaf in tree_leaves(tree)] for key, tree in resident.items()}
        self._ring = [NullSlot(name, inputs) for _ in range(device.options.ring)]
        self._next = 0
        self._runs = 0
        self._outputs = device.allocate_outputs(name, outputs)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the staging ring and the outputs."""
        staged = sum(spec.nbytes for spec in self._inputs.values()) * len(self._ring)
        return staged + sum(output.spec.nbytes for output in self._outputs.values())

    def stage(self, inputs: Staged) -> Slot:
        """Copy ``inputs`` into the next slot of the ring, after waiting for the run that last read it."""
        self._check_inputs(inputs)
        slot = self._ring[self._next]
        self._next = (self._next + 1) % len(self._ring)
        if slot.state == "in flight":
            self._device.wait_until(slot.ends_at)
        assert slot.state == "free", (
            f"null device: {self.name}: {len(self._ring)} inputs are staged and were not run; stage no more than that"
        )
        slot.check_poison()
        for key, value in inputs.items():
            if isinstance(value, NullArray):
                slot.buffers[key][...] = 0
            else:
                np.copyto(slot.buffers[key], value, casting="no")
        slot.state = "staged"
        return slot

    def run(self, slot: Slot, resident: Mapping[str, Tree]) -> tuple[dict[str, Any], dict[str, Tree]]:
        """Launch nothing, for as long as the device takes for it."""
        assert isinstance(slot, NullSlot), f"null device: {self.name}: a slot of another backend: {slot!r}"
        assert slot in self._ring, f"null device: {self.name}: the slot is of executable {slot.name}"
        assert slot.state == "staged", f"null device: {self.name}: the slot is {slot.state}: stage before each run"
        assert resident.keys() == self._resident.keys(), (
            f"null device: {self.name}: run with residents {sorted(resident)}, compiled for {sorted(self._resident)}"
        )
        for key, tree in resident.items():
            self._device.check(tree, f"{self.name}: resident {key!r}")
            specs = [leaf.spec for leaf in tree_leaves(tree)]
            assert specs == self._resident[key], (
                f"null device: {self.name}: resident {key!r} was compiled for other shapes"
            )
        self._runs += 1
        updates = self._consume(resident)
        outputs = self._new_outputs(slot)
        slot.state = "in flight"
        duration = self._device.options.step_ms / 1000 if self._outputs else 0.0
        slot.ends_at = self._device.launch(duration, slot.retire)
        return dict(outputs), updates

    def _check_inputs(self, inputs: Staged) -> None:
        assert inputs.keys() == self._inputs.keys(), (
            f"null device: {self.name}: staged {sorted(inputs)}, declared {sorted(self._inputs)}"
        )
        for key, spec in self._inputs.items():
            value = inputs[key]
            if isinstance(value, NullArray):
                self._device.check(value, f"{self.name}: input {key!r}")
                assert value.storage.seed is not None, (
                    f"null device: {self.name}: input {key!r} is {value.storage.owner}, no executable's output"
                )
                found = (value.spec.shape, numpy_dtype(value.spec.dtype))
            else:
                assert isinstance(value, np.ndarray), (
                    f"null device: {self.name}: input {key!r} is a {type(value).__name__}"
                )
                found = (value.shape, value.dtype)
            assert found == (spec.shape, numpy_dtype(spec.dtype)), (
                f"null device: {self.name}: input {key!r} is {found[1]} {found[0]}, declared {spec.dtype} {spec.shape}"
            )

    def _consume(self, resident: Mapping[str, Tree]) -> dict[str, Tree]:
        """Renew the donated trees: handles to what they were are stale from now on."""
        why = f"it was donated to run {self._runs} of {self.name}"
        seen: dict[int, str] = {}

        def renew(array: NullArray, key: str) -> NullArray:
            storage = array.storage
            other = seen.setdefault(id(storage), key)
            assert array.generation == storage.generation, (
                f"null device: {self.name}: {storage.owner} is donated twice, in {other!r} and in {key!r}"
            )
            storage.renew(why)
            return NullArray(storage, storage.generation, array.spec)

        updates = {key: tree_map(lambda array, key=key: renew(array, key), resident[key]) for key in self._donate}
        for key in resident.keys() - set(self._donate):
            self._device.check(resident[key], f"{self.name}: resident {key!r}, beside a donated tree,")
        return updates

    def _new_outputs(self, slot: NullSlot) -> dict[str, NullArray]:
        why = f"it was overwritten by run {self._runs} of {self.name}: fetch outputs before the next run"
        token = self._device.options.token
        seed = token if token is not None else _hash(slot.buffers.values())
        for key, old in self._outputs.items():
            storage = old.storage
            storage.renew(why)
            storage.seed = seed
            self._outputs[key] = NullArray(storage, storage.generation, old.spec)
        return self._outputs


class NullFetch:
    """A copy to the host that is there when all that was launched before it has ended."""

    def __init__(self, device: NullDevice, arrays: Mapping[str, NullArray]) -> None:
        device.check(dict(arrays), "fetched array ")
        self._device = device
        self._ends_at = device.free_at
        varied = device.options.token is None
        self._values = {key: _made_up(array.spec, array.storage.seed, varied) for key, array in arrays.items()}

    def ready(self) -> bool:
        """Whether ``wait`` would return at once."""
        return self._device.passed(self._ends_at)

    def wait(self) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays. Raises RuntimeError if the device has broken."""
        self._device.wait_until(self._ends_at)
        return self._values


class NullExecutables(Executables):
    """The compiler of a device without programs."""

    def __init__(self, device: NullDevice) -> None:
        self._device = device

    def expect(self, parameters: int) -> None:
        """Makes no difference."""

    def bucket(self, axis: str, size: int, limit: int) -> int:
        """The next power of two, or the limit."""
        return min(1 << max(0, size - 1).bit_length(), limit)

    def captures(self, shape: StepShape) -> bool:
        """Small steps are, so that the engine's way with them is checked too."""
        return shape.tokens <= 32

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        facts: ProgramFacts = NO_FACTS,
    ) -> Executable:
        """An executable that never calls ``fn``."""
        return NullExecutable(self._device, name, inputs, outputs, resident, donate)


def _made_up(spec: ArraySpec, seed: int | None, varied: bool) -> np.ndarray[Any, Any]:
    """Zeros, but for integers of an output: ``seed`` everywhere, or if ``varied`` ids derived from it."""
    dtype = numpy_dtype(spec.dtype)
    if seed is None or dtype.kind not in "iu":
        return np.zeros(spec.shape, dtype)
    if not varied:
        return np.full(spec.shape, seed, dtype)
    size = int(np.prod(spec.shape))
    return (1 + (seed + np.arange(size) * 40503) % (HASH_RANGE - 1)).astype(dtype).reshape(spec.shape)


def _hash(buffers: Iterable[np.ndarray[Any, Any]]) -> int:
    value = 0
    for buffer in buffers:
        value = zlib.crc32(buffer.tobytes(), value)
    return value


def _bytes(buffer: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return buffer.reshape(-1).view(np.uint8)
